"""The audit's rules and the status screen's values, from facts alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from edgectl_agent.core.messages import (
    ActionStatus,
    Alert,
    Assignment,
    Epoch,
    ModelStatus,
    OutboxStatus,
    Placement,
    Quarantine,
    Report,
)

from edgectl.core.audit import Expiry, Facts, Finding, audit, group
from edgectl.core.records import AlertRecord, Expected, NodeRecord, RolloutRecord
from edgectl.core.rollout import Phase, Plan, begin
from edgectl.core.status import condition, summarise

S = 10**9
NOW = 1_000_000 * S
ONE, TWO = "1" * 64, "2" * 64
EXPECTED = Expected(silent_after_ns=300 * S)


def model(bundle: str = ONE, version: str = "1", **more: Any) -> ModelStatus:
    base = {"recipe": "press", "version": version, "bundle": bundle, "variant": "fp32", "golden_error": 0.1,
            "inferences": 1, "activated_ns": 1}  # fmt: skip
    return ModelStatus(**{**base, **more})


def report(node: str = "a", **more: Any) -> Report:
    base: dict[str, Any] = {
        "node": node, "agent": "0", "boot": "b", "clock_ns": NOW, "uptime_s": 1, "state": "healthy",
        "models": (model(),), "outbox": OutboxStatus(records=0, bytes=0, limit_bytes=100, head_seq=0),
        "epoch": Epoch(number=3, operator="mona"),
    }  # fmt: skip
    return Report(**{**base, **more})


def record(shown: Report | None, **more: Any) -> NodeRecord:
    base: dict[str, Any] = {"node": shown.node if shown else "a", "report": shown, "received_ns": NOW - 5 * S}
    return NodeRecord(**{**base, **more})


def assignment(*nodes: str, sha256: str = ONE, version: str = "1") -> Assignment:
    place = Placement(version=version, sha256=sha256, variant="fp32", nodes=nodes or ("a",))
    return Assignment(fleet="f", epoch=Epoch(number=3, operator="mona"), models={"press": (place,)})


def facts(*records: NodeRecord, **more: Any) -> Facts:
    names = [r.node for r in records]
    base: dict[str, Any] = {
        "now_ns": NOW, "expected": dict.fromkeys(names, EXPECTED), "nodes": {r.node: r for r in records},
        "assignment": assignment(*names), "signed": {ONE: "1", TWO: "2"},
    }  # fmt: skip
    return Facts(**{**base, **more})


def kinds(given: Facts) -> list[str]:
    return [finding.kind for finding in audit(given)]


def test_there_is_nothing_to_say_when_desired_equals_actual() -> None:
    assert audit(facts(record(report()), record(report("b")))) == ()


def test_a_node_that_reports_by_itself_is_not_to_be_asked() -> None:
    late = record(report(), received_ns=NOW - 301 * S)
    quiet = msgspec.structs.replace(EXPECTED, asked=False)
    fixes = [audit(facts(late, expected={"a": expected}))[0].fix for expected in (EXPECTED, quiet)]
    assert fixes == ["edgectl collect", "edgectl nodes why a"]


def test_a_machine_without_an_agent_gets_one_next() -> None:
    bare = record(None, error="node a: the agent is not installed", failing_since_ns=NOW - 60 * S)
    assert [found.fix for found in audit(facts(bare))] == ["edgectl nodes bootstrap a"]


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (record(report(), error="no answer", failing_since_ns=NOW - 60 * S), "unreachable"),
        (record(None), "never-reported"),
        (record(report(), received_ns=NOW - 301 * S), "stale-report"),
        (record(report(models=(model(TWO, "2"),))), "wrong-release"),
        (record(report(models=())), "wrong-release"),
        (record(report(models=(model("3" * 64, "1"),))), "unknown-bundle"),
        (record(report(models=(model(golden_error=1.2),))), "golden-failed"),
        (record(report(models=(model(golden_error=float("nan")),))), "golden-failed"),
        (record(report(state="failed", reasons=("source s failed",))), "node-failed"),
        (record(report(outbox=OutboxStatus(records=5, bytes=81, limit_bytes=100, head_seq=5))), "outbox-filling"),
        (record(report(outbox=OutboxStatus(records=5, bytes=1, limit_bytes=100, head_seq=5, lost=2))), "outbox-lost"),
        (record(report(), skew_ns=-31 * S), "clock-skew"),
        (record(report(epoch=Epoch(number=4, operator="ben"))), "foreign-epoch"),
    ],
)
def test_each_difference_is_one_finding(node: NodeRecord, kind: str) -> None:
    assert kinds(facts(node)) == [kind]


def test_a_rolled_back_node_is_pending_and_a_refusal_is_a_wrong_release() -> None:
    def after(reason: str, epoch: int = 3) -> Finding:
        left = Quarantine(recipe="press", bundle=TWO, epoch=epoch, reason=reason)
        node = report(quarantined=(left,), epoch=Epoch(number=epoch, operator="ann"))
        (found,) = audit(facts(record(node), assignment=assignment(sha256=TWO, version="2")))
        return found

    pending = after("rolled back by the operator")
    assert (pending.kind, pending.fix) == ("rollback-pending", "edgectl rollback press --select name=a")
    assert "rolled back, assignment pending" in pending.detail
    early = after("rolled back by the operator", epoch=2)
    assert early.kind == "rollback-pending", "a canary knows only the epoch before"
    refused = after("golden vectors differ")
    assert refused.kind == "wrong-release"
    assert "refused 2: golden vectors differ" in refused.detail


def test_what_nobody_assigned_is_a_finding_too() -> None:
    (found,) = audit(facts(record(report()), assignment=None))
    assert "nothing is assigned" in found.detail


def test_metadata_is_expiring_below_a_quarter_of_its_life() -> None:
    def at(left_s: int) -> list[str]:
        role = Expiry(role="timestamp", expires_ns=NOW + left_s * S, life_ns=400 * S)
        return kinds(facts(record(report()), expiries=(role,)))

    assert at(100) == []
    assert at(99) == at(-1) == ["metadata-expiring"]


def test_a_certificate_is_expiring_below_a_quarter_of_its_life_and_the_fix_says_whose_it_is() -> None:
    def at(left_s: int, role: str) -> tuple[Finding, ...]:
        held = Expiry(role=role, expires_ns=NOW + left_s * S, life_ns=400 * S)
        return audit(facts(record(report()), certificates=(held,)))

    assert at(100, "operator") == at(99, "node gone-long-ago") == ()
    (mine,) = at(99, "operator")
    assert (mine.kind, mine.fix) == ("certificate-expiring", "edgectl init")
    assert mine.detail.startswith("operator certificate ends ")
    (node,) = at(-1, "node a")
    assert (node.node, node.fix) == ("a", "edgectl nodes configure --select name=a")
    assert node.detail.startswith("its certificate ended ")
    assert kinds(facts(record(report()), untrusted="signature wrong")) == ["repository-untrusted"]


def alert_record(**more: Any) -> AlertRecord:
    alert = Alert(
        id="a-1", node="a", stream="s", recipe="press", version="1", bundle=ONE, variant="fp32", severity="critical",
        state="open", onset_ns=1, changed_ns=1, score=1, threshold=1, surprise=1,
    )  # fmt: skip
    return AlertRecord(alert=alert, stored_ns=NOW - 3600 * S, **more)


def test_a_critical_alert_that_nobody_saw_is_a_finding() -> None:
    assert kinds(facts(record(report()), critical=(alert_record(),))) == ["alert-unacknowledged"]
    assert kinds(facts(record(report()), critical=(alert_record(acknowledged_ns=1),))) == []


def rollout(state: str) -> RolloutRecord:
    target = Placement(version="2", sha256=TWO, variant="fp32", nodes=("a",))
    plan = Plan(recipe="press", version="2", targets=(target,), phases=(Phase(nodes=("a",), canary=True),))
    return msgspec.convert(
        {"number": 7, "recipe": "press", "kind": "deploy", "operator": "mona", "created_ns": 1, "changed_ns": 1,
         "state": state, "plan": msgspec.to_builtins(plan)}, RolloutRecord,
    )  # fmt: skip


@pytest.mark.parametrize("state", ["planned", "running", "paused", "reverting", "stuck"])
def test_a_rollout_that_waits_is_a_finding(state: str) -> None:
    (found,) = audit(facts(record(report()), rollouts=(rollout(state),)))
    assert (found.kind, found.fix) == ("rollout-open", "edgectl deploy --resume r-7")


@pytest.mark.parametrize("state", ["done", "halted", "superseded", "incomplete"])
def test_a_rollout_that_ended_is_none(state: str) -> None:
    assert audit(facts(record(report()), rollouts=(rollout(state),))) == ()


def test_equal_findings_share_a_line_and_a_fix_for_all() -> None:
    found = audit(facts(*(record(report(n, models=(model(TWO, "2"),))) for n in ("a", "b", "c"))))
    (line,) = group(found)
    assert line.nodes == ("a", "b", "c")
    assert line.fix == "edgectl deploy press@1 --select finding=wrong-release"
    assert len({f.key for f in found}) == 3


def test_a_node_has_the_worst_condition_that_holds() -> None:
    assert condition(None, EXPECTED, NOW) == "unknown"
    assert condition(record(report()), EXPECTED, NOW) == "healthy"
    assert condition(record(report(state="warming")), EXPECTED, NOW) == "warming"
    assert condition(record(report(), received_ns=NOW - 301 * S), EXPECTED, NOW) == "silent"
    assert condition(record(report(), error="no answer"), EXPECTED, NOW) == "unreachable"


def test_the_screen_counts_what_is_known_and_says_how_old_it_is() -> None:
    nodes = {
        "a": record(report()), "b": record(report("b", models=(model(TWO, "2", p99_us=3100.0),)), received_ns=NOW - S),
        "c": record(report("c"), received_ns=NOW - 999 * S), "d": record(None, node="d", error="no answer"),
    }  # fmt: skip
    seven = rollout("running")
    status = summarise(
        "plant", dict.fromkeys("abcd", EXPECTED), nodes, open_alerts=[alert_record(acknowledged_ns=1)], last_24h=9,
        rollout=(seven, begin(seven.plan)), findings=audit(facts(record(report(), error="no answer"))),
        assigned={"press": frozenset("abcd")}, now_ns=NOW,
    )  # fmt: skip
    assert status.conditions == {"healthy": 2, "unreachable": 1, "silent": 1}
    assert (status.newest_report_s, status.oldest_report_s) == (1, 5)
    (line,) = status.models
    assert (line.versions, line.unknown, line.p99_us) == ({"1": 2, "2": 1}, 1, 3100.0)
    assert (status.alerts.open, status.alerts.critical, status.alerts.acknowledged) == (1, 1, 1)
    assert status.rollout is not None
    assert status.rollout.counts == {"pending": 1}
    assert status.needs[0].command == "edgectl nodes show a"


def test_each_action_that_is_not_allowed_is_a_finding_of_its_own() -> None:
    refused = [ActionStatus(name=name, type="exec", refused="not allowed: no rule") for name in ("slow", "stop")]
    refused.append(ActionStatus(name="dry", type="exec", refused="not allowed: no rule", dry_run=True))
    found = audit(facts(record(report(actions=tuple(refused)))))
    assert [f.key for f in found] == ["action-not-allowed/a/slow", "action-not-allowed/a/stop"]
    assert {f.fix for f in found} == {"edgectl nodes allow"}


def wants(**more: Any) -> dict[str, Expected]:
    return {"a": Expected(silent_after_ns=300 * S, **more)}


@pytest.mark.parametrize(
    ("expected", "shown", "kind", "detail", "fix"),
    [
        (wants(config_sha256=ONE), report(config_sha256=TWO), "config-drift", "agent.yaml is not the one",
         "edgectl nodes configure --diff --select name=a"),
        (wants(config_sha256=ONE, here=True), report(config_sha256=TWO), "config-drift", "agent.yaml is not",
         "edgectl nodes restart a"),
        (wants(config_sha256=ONE, by_hand="carry it"), report(config_sha256=TWO), "config-drift", "its owner's",
         "carry it"),
        (wants(agent_version="1.4.*", by_hand="carry it"), report(agent="0.1.0"), "agent-version", "its owner's",
         "carry it"),
        (wants(config_refused="no recipe"), report(), "config-drift", "no agent.yaml for it: no recipe",
         "edgectl nodes show a"),
        (wants(agent_version="1.4.*"), report(agent="0.1.0"), "agent-version", "agent 0.1.0, fleet.yaml asks for 1.4.*",
         "edgectl nodes upgrade --select name=a"),
        (wants(), report(agent="0.9.0"), "agent-version", "agent 0.9.0 is more than 2 minor versions from edgectl",
         "use an edgectl of the agent's version"),
    ],
)  # fmt: skip
def test_a_node_that_is_not_as_fleet_yaml_says_is_a_finding(
    expected: dict[str, Expected], shown: Report, kind: str, detail: str, fix: str
) -> None:
    (found,) = audit(facts(record(shown), expected=expected, version="0.1.0"))
    assert (found.kind, found.fix) == (kind, fix)
    assert detail in found.detail


@pytest.mark.parametrize(
    ("expected", "shown"),
    [
        (wants(config_sha256=ONE), report(config_sha256=ONE)),
        (wants(config_sha256=ONE), report(config_sha256="")),  # an agent that does not tell
        (wants(), report(config_sha256=TWO)),  # nothing is known to compare with
        (wants(agent_version="0.1.*"), report(agent="0.1.7")),
        (wants(), report(agent="0.2.0")),
    ],
)
def test_a_node_that_is_as_fleet_yaml_says_is_none(expected: dict[str, Expected], shown: Report) -> None:
    assert audit(facts(record(shown), expected=expected, version="0.1.0")) == ()


def test_several_drifted_nodes_are_one_line_whose_fix_selects_them_all() -> None:
    both = [record(report(name, config_sha256=TWO)) for name in "ab"]
    expected = dict.fromkeys("ab", Expected(silent_after_ns=300 * S, config_sha256=ONE))
    (line,) = group(audit(facts(*both, expected=expected)))
    assert line.fix == "edgectl nodes configure --diff --select finding=config-drift"
