"""When an action may fire, what its texts may say, and which signed rule covers it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from edgectl_agent import yamlfile
from edgectl_agent.action_config import LogAction, check_actions
from edgectl_agent.core.allowed import Reach, covering, read
from edgectl_agent.core.desired import Floor, accept_epoch
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.gate import Rule, decide
from edgectl_agent.core.messages import (
    ActionStatus,
    Allowance,
    Assignment,
    Epoch,
    OutboxStatus,
    Report,
    TrustStatus,
)
from edgectl_agent.core.template import FIELDS, Payload, Template
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.allowing import allowances, differing, nothing_to_do, refused, untold, with_allowances
from edgectl.inventory.types import Layer

RULES = st.builds(
    Rule, cooldown_ns=st.integers(0, 50), burst=st.integers(1, 5), per_ns=st.integers(1, 60), max_age_ns=st.just(0)
)
STEPS = st.lists(st.tuples(st.integers(-30, 30), st.sampled_from("ab")), max_size=80)


def fired(rule: Rule, steps: list[tuple[int, str]], start_ns: int = 1000) -> list[tuple[int, str]]:
    """Times and streams at which it fired; each step moves the clock."""
    full_ns, last, now_ns, found = 0, dict[str, int | None](), start_ns, []
    for step, stream in steps:
        now_ns += step
        decision = decide(rule, full_ns, last.get(stream), now_ns, now_ns)
        full_ns, last[stream] = decision.full_ns, decision.last_ns
        if decision.verdict == "fire":
            found.append((now_ns, stream))
    return found


@given(RULES, STEPS)
def test_no_stream_fires_twice_within_its_cooldown(rule: Rule, steps: list[tuple[int, str]]) -> None:
    forward = [(abs(step), stream) for step, stream in steps]
    for stream in "ab":
        at = [t for t, name in fired(rule, forward) if name == stream]
        assert all(b - a >= rule.cooldown_ns for a, b in pairwise(at))


@given(RULES, STEPS)
def test_any_span_sees_at_most_the_burst_and_what_was_refilled_in_it(rule: Rule, steps: list[tuple[int, str]]) -> None:
    at = [t for t, _ in fired(rule, [(abs(step), stream) for step, stream in steps])]
    for i, first in enumerate(at):
        for j in range(i, len(at)):
            assert j - i + 1 <= rule.burst + (at[j] - first) // rule.token_ns


@given(RULES, STEPS, st.integers(0, 10**18))
def test_a_clock_that_was_set_back_stops_an_action_no_longer_than_cooldown_and_period(
    rule: Rule, steps: list[tuple[int, str]], back_ns: int
) -> None:
    full_ns, last_ns, now_ns = 10**18, 10**18, 10**18
    for _ in range(rule.burst + 1):
        decision = decide(rule, full_ns, last_ns, now_ns, now_ns)
        full_ns, last_ns = decision.full_ns, decision.last_ns or now_ns
    now_ns -= back_ns
    seen = decide(rule, full_ns, last_ns, now_ns, now_ns)
    later_ns = now_ns + rule.cooldown_ns + rule.token_ns
    assert decide(rule, seen.full_ns, seen.last_ns, later_ns, later_ns).verdict == "fire"


def test_an_alert_older_than_max_age_does_not_act_and_costs_nothing() -> None:
    rule = Rule(cooldown_ns=0, burst=1, per_ns=100, max_age_ns=10)
    late = decide(rule, 0, None, event_ns=0, now_ns=11)
    assert late.verdict == "late"
    assert decide(rule, late.full_ns, late.last_ns, event_ns=1, now_ns=11).verdict == "fire"


VALUES: dict[str, Any] = {name: f"<{name}>" for name in FIELDS} | {"score": 1.5, "stream": 'a"b\nc'}


def test_a_mapping_is_json_whatever_a_stream_is_called_and_a_field_alone_keeps_its_type() -> None:
    payload = Payload.parse({"who": "{stream}", "score": "{score}", "text": "{recipe}: {score}"})
    found = msgspec.json.decode(payload.render(VALUES))
    assert found == {"who": 'a"b\nc', "score": 1.5, "text": "<recipe>: 1.5"}
    assert set(msgspec.json.decode(Payload.parse("").render(VALUES))) == set(FIELDS)


@pytest.mark.parametrize("text", ["{strem}", "{stream.__class__}", "{stream!r}", "{score:99}", "{", "{0}", "{}"])
def test_anything_but_a_known_field_in_braces_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Template.parse(text)


@pytest.mark.parametrize(
    ("rule", "reach", "allows"),
    [
        ({"type": "exec", "path": "/opt/slow"}, Reach(kind="exec", text="/opt/slow", args=("x",)), True),
        (
            {"type": "exec", "path": "/opt/slow", "args": ["x"]},
            Reach(kind="exec", text="/opt/slow", args=("y",)),
            False,
        ),
        ({"type": "exec", "path": "/opt/slow"}, Reach(kind="exec", text="/opt/slower"), False),
        ({"type": "exec", "path": "/opt/slow"}, Reach(kind="file", text="/opt/slow"), False),
        ({"type": "file", "path": "/var/log/plant"}, Reach(kind="file", text="/var/log/plant/a"), True),
        ({"type": "file", "path": "/var/log/plant"}, Reach(kind="file", text="/var/log/plantation"), False),
        ({"type": "webhook", "url": "https://h.x/a?*"}, Reach(kind="webhook", url="https://H.x:443/a/b?q=1"), True),
        ({"type": "webhook", "url": "https://h.x/a?*"}, Reach(kind="webhook", url="https://h.x/a"), True),
        ({"type": "webhook", "url": "https://h.x/a"}, Reach(kind="webhook", url="https://h.x/a?do=stop"), False),
        ({"type": "webhook", "url": "https://h.x/a?q=1"}, Reach(kind="webhook", url="https://h.x/a/b?q=1"), True),
        ({"type": "webhook", "url": "https://h.x/a?q=1"}, Reach(kind="webhook", url="https://h.x/a?q=1&q=2"), False),
        ({"type": "webhook", "url": "https://h.x/a?q=1"}, Reach(kind="webhook", url="https://h.x/a"), False),
        ({"type": "webhook", "url": "https://h.x/a"}, Reach(kind="webhook", url="https://h.x/ab"), False),
        ({"type": "webhook", "url": "https://h.x"}, Reach(kind="webhook", url="https://h.x.evil.com/"), False),
        ({"type": "webhook", "url": "https://h.x"}, Reach(kind="webhook", url="http://h.x/"), False),
        ({"type": "webhook", "url": "https://h.x"}, Reach(kind="webhook", url="https://h.x"), True),
        ({"type": "webhook", "url": "https://h.x/a"}, Reach(kind="webhook", url="https://h.x/a/%2E%2e/b"), False),
        ({"type": "webhook", "url": "https://h.x/a"}, Reach(kind="webhook", url="https://h.x@e.x/a"), False),
        ({"type": "webhook", "url": "https://h.x/a"}, Reach(kind="webhook", url="https://h.x/a/%252e%252e/b"), False),
        ({"type": "webhook", "url": "https://k.x/a"}, Reach(kind="webhook", url="https://\u212a.x/a"), False),
        ({"type": "webhook", "url": "nonsense"}, Reach(kind="webhook", url="nonsense"), False),
        ({"type": "file", "path": "/var/log/plant"}, Reach(kind="file", text="/var/log/plant/../x"), False),
        ({"type": "file", "path": "/"}, Reach(kind="file", text="/x"), True),
        ({"type": "mqtt", "url": "mqtt://b", "topic": "p"}, Reach(kind="mqtt", url="mqtt://b:1883", text="p/a"), True),
        (
            {"type": "mqtt", "url": "mqtt://b", "topic": "p"},
            Reach(kind="mqtt", url="mqtt://b", text="p", constant=False),
            False,
        ),
        ({"type": "mqtt", "url": "mqtt://b", "topic": "p"}, Reach(kind="mqtt", url="mqtt://c", text="p/a"), False),
        ({"type": "mqtt", "url": "mqtt://b", "topic": "p/#"}, Reach(kind="mqtt", url="mqtt://b", text="p"), True),
        ({"type": "mqtt", "url": "mqtt://b", "topic": "p/#"}, Reach(kind="mqtt", url="mqtt://b", text="px"), False),
        ({"type": "mqtt", "url": "mqtt://b", "topic": "#"}, Reach(kind="mqtt", url="mqtt://b", text="p/a"), True),
        ({"type": "mqtt", "url": "mqtt://b", "topic": "#"}, Reach(kind="mqtt", url="mqtt://b", text="$SYS/a"), False),
        ({"type": "mqtt", "url": "mqtt://b", "topic": "+/a"}, Reach(kind="mqtt", url="mqtt://b", text="p/a"), False),
        ({"type": "exec", "path": "/opt/slow", "only_at": "night"}, Reach(kind="exec", text="/opt/slow"), False),
        ({"type": "telepathy"}, Reach(kind="telepathy"), False),
    ],
)
def test_a_rule_covers_what_it_names_and_nothing_beside_it(rule: dict[str, Any], reach: Reach, allows: bool) -> None:
    assert bool(covering(reach, read([rule]))) is allows


@pytest.mark.parametrize("topic", ["plant/+/alarm", "+", "plant#", "plant/#/a", "$share/g/plant"])
def test_a_rule_whose_wildcard_would_cover_less_than_it_seems_is_refused_before_it_is_signed(topic: str) -> None:
    text = f"allow: [{{type: mqtt, url: 'mqtts://b.x', topic: '{topic}'}}]"
    with pytest.raises(
        ConfigError, match=r"allow\[0\].*expected a topic such as plant/alarms or plant/alarms/#, found"
    ):
        yamlfile.parse(text, Layer, "fleet.yaml")


def test_nodes_with_equal_rules_share_an_allowance_and_an_epoch_of_ones_own_stays() -> None:
    (rule,) = read([{"type": "file", "path": "/var/log/plant"}])
    wanted = allowances({"n2": [rule], "n1": [rule], "n3": []})
    assert wanted == (Allowance(nodes=("n1", "n2"), rules=({"type": "file", "path": "/var/log/plant"},)),)
    assert differing(None, wanted, ("n1", "n3")) == ("n1",)
    first = with_allowances(None, wanted, "plant", "mona")
    again = with_allowances(first, (), "plant", "mona")
    assert (first.epoch, again.epoch) == (Epoch(number=1, operator="mona"),) * 2
    assert with_allowances(first, (), "plant", "li").epoch == Epoch(number=2, operator="li")


def holding(sha256: str, *actions: ActionStatus) -> Report:
    return Report(
        node="n", agent="0.1.0", boot="b", clock_ns=0, uptime_s=1.0, state="healthy", actions=actions,
        outbox=OutboxStatus(records=0, bytes=0, limit_bytes=1, head_seq=0),
        trust=TrustStatus(root=1, timestamp=1, snapshot=1, assignment_sha256=sha256),
    )  # fmt: skip


def test_a_node_that_missed_its_rules_is_told_the_next_time_also_where_a_right_was_taken_from_it() -> None:
    acting = ActionStatus(name="file", type="file")
    reports = {
        "told": holding("new", acting), "missed": holding("old", acting), "ruled": holding("old"),
        "without": holding("old"), "fresh": msgspec.structs.replace(holding("new", acting), trust=None),
    }  # fmt: skip
    assert untold(reports, {"ruled", "told"}, "new") == {"missed", "ruled", "fresh"}
    assert untold({"fresh": reports["fresh"]}, {"fresh"}, "") == frozenset()


def test_where_no_rule_is_written_a_refused_action_is_not_called_in_order() -> None:
    refusing = holding("new", ActionStatus(name="file", type="file", refused="no rule allows it"))
    assert refused({"n1": refusing, "n2": holding("new", ActionStatus(name="file", type="file"))}) == {"n1"}
    assert nothing_to_do(()) == "nothing to do: every node has the rules of fleet.yaml"
    assert nothing_to_do({"n1"}) == (
        "nothing to sign: n1 may not act, and fleet.yaml allows nothing there → say rules under allow:"
    )
    assert "n1 and 1 more may not act" in nothing_to_do({"n2", "n1"})


@pytest.mark.parametrize(
    ("text", "fixed", "constant"),
    [
        ("plant/alarms", "plant/alarms", True),
        ("plant/{{x}}/a", "plant/{x}/a", True),
        ("plant/{{x}}/{stream}/a", "plant/{x}/", False),
        ("{stream}", "", False),
        ("", "", True),
    ],
)
def test_a_rule_is_asked_about_all_that_is_certain_also_behind_braces(text: str, fixed: str, constant: bool) -> None:
    template = Template.parse(text)
    assert (template.fixed, template.constant) == (fixed, constant)
    if constant:
        assert template.render(VALUES) == fixed


def test_a_node_keeps_its_own_rules_of_the_newest_assignment_and_loses_them_by_omission() -> None:
    rules = ({"type": "exec", "path": "/opt/slow"},)
    one = Assignment(
        fleet="f", epoch=Epoch(number=1, operator="m"), models={}, allow=(Allowance(nodes=("n1",), rules=rules),)
    )
    floor = accept_epoch(Floor(), one, "0" * 64, "n1")
    assert floor.allow == rules
    assert accept_epoch(Floor(), one, "0" * 64, "n2").allow == ()
    assert accept_epoch(floor, msgspec.structs.replace(one, allow=()), "1" * 64, "n1").allow == ()


def test_the_guides_example_is_valid_and_its_rules_cover_its_actions() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "actions.md").read_text()
    example = guide.partition("```yaml\n")[2].partition("```")[0].replace("9f2c…", "a" * 64)
    layer = yamlfile.parse(example, Layer, "the guide")
    assert layer.actions
    assert layer.allow
    check_actions(layer.actions)
    effects = [action for action in layer.actions if not isinstance(action, LogAction)]
    assert [type(action).__name__ for action in effects] == ["ExecAction", "MqttAction", "WebhookAction", "FileAction"]
    assert all(covering(action.reach, layer.allow) for action in effects)
