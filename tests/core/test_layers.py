"""Where a node's settings come from: defaults, profiles, sites, patterns, and what a later entry says of one node."""

from __future__ import annotations

import textwrap
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core import calendar
from edgectl.core.errors import ConfigError
from edgectl.fleet.overview import node_settings
from edgectl.inventory.patterns import expand
from edgectl.inventory.reading import parse
from edgectl.inventory.types import Inventory

PLANTS = """\
version: 1
fleet: acme-plants
time_zone: Europe/Paris
defaults:
  connect: {via: local, user: edge, jump: bastion.acme.example, host: "{name}.plant.example"}
  agent: {version: "1.4.*", memory: 200M, cpu: 20%, disk: 500M}
  report: {every: 60s, silent_after: 5m}
profiles:
  pi: {tier: far-edge, agent: {cpu: 15%, disk: 200M}, groups: [small], labels: {board: pi}}
  xeon: {tier: near-edge}
  cellular: {report: {every: 1h, silent_after: 26h}, agent: {disk: 300M}}
  monitored:
    sources: {host: {type: host-metrics, every: 10s}}
    models: {host: [host]}
    actions: [{type: log, on: critical}]
sites:
  lyon: {parent: "lyon-gw-01", change_window: "Sat 02:00-05:00"}
  pune: {profiles: [cellular], time_zone: Asia/Kolkata, change_window: "Sun 01:00-04:00", report: {every: 2h}}
nodes:
  - {name: "lyon-gw-[01-12]", site: lyon, profiles: [xeon], labels: {line: press}}
  - {name: "pune-pi-[1-3]", site: pune, profiles: [pi, monitored], connect: {host: "10.0.0.[7-9]", port: 2222}}
  - {name: pune-pi-2, agent: {cpu: 50%}, labels: {line: oven}, connect: {host: 10.0.0.99}}
"""


def fleet(nodes: str, rest: str = "") -> Inventory:
    return parse(f"version: 1\nfleet: a\n{textwrap.dedent(rest)}nodes:\n{nodes}")


def test_a_pattern_makes_a_node_of_each_name_and_a_later_entry_is_the_layer_of_one() -> None:
    plants = parse(PLANTS)
    assert len(plants.nodes) == 15
    assert plants.names[:2] == ("lyon-gw-01", "lyon-gw-02")
    one, two = plants.node("pune-pi-1"), plants.node("pune-pi-2")
    assert (one.agent.cpu, two.agent.cpu) == ("15%", "50%")
    assert (one.connect.host, two.connect.host) == ("10.0.0.7", "10.0.0.99")
    assert one.connect.port == two.connect.port == 2222
    assert (dict(one.labels), dict(two.labels)) == ({"board": "pi"}, {"board": "pi", "line": "oven"})


def test_profiles_are_those_of_the_site_then_of_the_node_and_the_site_beats_them() -> None:
    pi = parse(PLANTS).node("pune-pi-1")
    assert pi.profiles == ("cellular", "pi", "monitored")
    assert (pi.agent.disk, pi.origins["agent.disk"]) == ("200M", "profile pi")
    assert (pi.silent_after_ns, pi.origins["report.silent_after"]) == (26 * 3600 * 10**9, "profile cellular")
    assert (pi.report_every_ns, pi.origins["report.every"]) == (2 * 3600 * 10**9, "site pune")
    assert (pi.agent.memory, pi.origins["agent.memory"]) == ("200M", "defaults")
    assert pi.origins["agent.cpu"] == "profile pi"
    assert pi.origins["connect.port"] == "entry pune-pi-[1-3]"


def test_sources_models_and_actions_can_come_from_a_profile() -> None:
    pi = parse(PLANTS).node("pune-pi-3")
    assert dict(pi.models) == {"host": ("host",)}
    assert [action.on for action in pi.actions] == ["critical"]


def test_a_host_may_be_made_of_the_name() -> None:
    assert parse(PLANTS).node("lyon-gw-07").connect.host == "lyon-gw-07.plant.example"


def test_a_site_says_when_it_may_be_changed_and_through_whom_it_reports() -> None:
    plants = parse(PLANTS)
    pi, gateway, other = plants.node("pune-pi-1"), plants.node("lyon-gw-01"), plants.node("lyon-gw-02")
    assert (pi.time_zone, pi.change_window) == ("Asia/Kolkata", "Sun 01:00-04:00")
    assert (gateway.time_zone, gateway.parent, other.parent) == ("Europe/Paris", "", "lyon-gw-01")


def test_profiles_groups_and_the_way_to_a_node_can_be_selected_by() -> None:
    fields = parse(PLANTS).node("pune-pi-1").fields
    assert fields["profile"] == ("cellular", "pi", "monitored")
    assert fields["group"] == ("small",)
    assert fields["via"] == ("local",)


def test_show_has_every_setting_with_its_origin_and_never_a_secret() -> None:
    nodes = "  - {name: 'a-[1-2]', site: s, connect: {key: id_edge, sudo_password: {env: SUDO_PW}}}\n"
    rows = {row.setting: row for row in node_settings(fleet(nodes, "sites: {s: }\n").node("a-1"))}
    assert (rows["site"].value, rows["site"].origin) == ("s", "entry a-[1-2]")
    assert (rows["connect.sudo_password"].value, rows["connect.key"].value) == (
        "environment variable SUDO_PW",
        "id_edge",
    )
    assert (rows["agent.memory"].value, rows["agent.memory"].origin) == ("200M", "built in")


@pytest.mark.parametrize(
    ("nodes", "rest", "says"),
    [
        (
            "  - {name: 'a-[1-3]'}\n  - {name: 'a-[3-5]'}",
            "",
            "nodes[1].name: 'a-3' is there twice → nodes[0] (a-[1-3])",
        ),
        ("  - {name: a-1}\n  - {name: 'a-[1-3]'}", "", "nodes[1].name: 'a-1' is there twice"),
        ("  - {name: 'a-[1-3]'}\n  - {name: a-1}\n  - {name: a-1}", "", "nodes[2].name: 'a-1' is there twice"),
        ("  - {name: 'a-[3-1]'}", "", "nodes[0].name: pattern 'a-[3-1]': range 3-1 runs backwards"),
        ("  - {name: 'a-[01-3]'}", "", "expected 01-3 with numbers of equal width"),
        ("  - {name: 'a-[1-3'}", "", "expected brackets in pairs"),
        ("  - {name: 'a-[]'}", "", "in brackets, found []"),
        ("  - {name: 'a-[1-99999999]'}", "", "stands for 99,999,999 names, expected at most 100,000"),
        ("  - {name: 'a-[1,1]'}", "", "stands for 'a-1' twice"),
        ("  - {name: 'a-[1-3]', exclude: [a-4]}", "", "nodes[0].exclude: 'a-4' is no node of 'a-[1-3]' → did you mean"),
        ("  - {name: 'a-[1-3]', connect: {host: '10.0.0.[1-2]'}}", "", "expected as many hosts as names (3), found 2"),
        ("  - {name: a, connect: {host: '10.0.0.[1-2]'}}", "", "nodes[0].connect.host: a pattern belongs beside"),
        ("  - {name: a, profiles: [pj]}", "profiles: {pi: {}}\n", "nodes[0].profiles: no profile 'pj' under profiles"),
        ("  - {name: a}", "sites: {s: {profiles: [pj]}}\n", "sites.s.profiles: no profile 'pj' under profiles"),
        ("  - {name: a}", "sites: {s: {parent: b}}\n", "sites.s.parent: no node is called 'b' → known: a"),
        ("  - {name: a}", "sites: {s: {change_window: Sat}}\n", "sites.s.change_window: expected days and times such"),
        ("  - {name: a}", "sites: {s: {time_zone: Mars}}\n", "sites.s.time_zone: expected a zone"),
        ("  - {name: a, labels: {via: x}}", "", "nodes[0].labels.via: selectors ask for via already"),
        ("  - {name: a, profiles: [p]}", "profiles: {p: {models: {m: [s]}}}\n", "no source 's' (said by profile p)"),
        ("  - {name: a, limits: {streams: 3}}", "", "nodes[0].limits: unknown key → it is part of agent now"),
        ("  - {name: a}", "defaults: {limits: {outbox: 3M}}\n", "where disk was limits.outbox"),
        ("  - {name: a}", "profiles: {p: {traffic: 20M/day}}\n", "profiles.p.traffic: unknown key → nothing holds"),
        ("  - {name: a}", "profiles: {p: {role: parent}}\n", "profiles.p.role: unknown key → a node is a parent where"),
        ("  - {name: a}", "groups: {p: {}}\n", "groups: unknown key → settings that nodes share are profiles"),
        ("  - {name: a, csv: b.csv}", "", "nodes[0]: expected one of name, ansible and csv, found name and csv"),
        ("  - {site: s}", "", "nodes[0]: expected one of name, ansible and csv, found none"),
        ("  - {name: a, group: g}", "", "nodes[0]: group and site_from belong to an entry with ansible"),
        ("  - {csv: b.csv}", "", "b.csv: other inventories are read relative to fleet.yaml's folder"),
        ("  - {name: a, agent: {cpu: fast}}", "", "nodes[0].agent.cpu: expected"),
        ("  - {name: a, agent: {disk: big}}", "", "nodes[0].agent.disk: expected a size"),
        ("  - {name: a, agent: {listen: '0.0.0.0:1'}}", "", "nodes[0].agent.listen: expected"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_with_its_key(nodes: str, rest: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fleet(nodes, rest)
    assert says in str(caught.value)
    assert str(caught.value).startswith("fleet.yaml: ")
    assert "\n" not in str(caught.value)


# ── secrets ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        "defaults: {connect: {sudo_password: hunter2}}\n",
        "defaults: {connect: {key_passphrase: 'hunter2 and more'}}\n",
        "defaults: {connect: {token: [hunter2]}}\n",
        "defaults: {connect: {token: {env: 'hunter2!'}}}\n",
        "defaults: {connect: {token: {command: echo hunter2}}}\n",
        "defaults: {connect: {token: {value: hunter2}}}\n",
        "profiles: {p: {connect: {sudo_password: 'hunter2'}}}\n",
        "sites: {s: {connect: {sudo_password: 'hunter2'}}}\n",
        "store: postgresql://ops@db/edgectl\nstore_password: hunter2\n",
        "store: postgresql://ops:hunter2@db/edgectl\n",
        "store: postgresql://db/edgectl?user=ops&password=hunter2\n",
    ],
)
def test_a_secret_that_stands_in_the_file_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fleet("  - {name: a}", text)
    assert "hunter2" not in str(caught.value)
    assert "never stands in this file" in str(caught.value) or "expected one of env, file" in str(caught.value)


# ── laws ────────────────────────────────────────────────────────────────────────────────────────────────────────────

words = st.lists(st.from_regex(r"[a-z]{1,4}", fullmatch=True), min_size=1, max_size=4, unique=True)


@given(st.integers(0, 200), st.integers(0, 200), words)
def test_a_pattern_has_every_combination_once_and_in_order(first: int, more: int, letters: list[str]) -> None:
    names = expand(f"a-[{first:03}-{first + more:03}]-[{','.join(letters)}]")
    assert names == tuple(f"a-{n:03}-{letter}" for n in range(first, first + more + 1) for letter in letters)


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    window = calendar.parse("Fri 22:00-04:00")
    times = {"2026-11-27T20:59": False, "2026-11-27T21:00": True, "2026-11-28T02:59": True, "2026-11-28T03:00": False}
    for text, inside in times.items():  # Paris is an hour ahead of UTC
        assert window.holds(datetime.fromisoformat(text).replace(tzinfo=UTC), "Europe/Paris") is inside
    assert not window.holds(datetime(2026, 11, 27, 2, tzinfo=UTC), "UTC")


@pytest.mark.parametrize("text", ["Sat", "Sat 2:00-5:00", "Sat 02:00-25:00", "Sat 02:70-05:00", "Xyz 02:00-05:00", ""])
def test_a_window_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected days and times"):
        calendar.parse(text)


def test_three_thousand_nodes_are_read_in_seconds_even_on_a_busy_machine() -> None:
    node = "  - {{name: n{0}, site: s{1}, profiles: [p], labels: {{line: a}}, connect: {{host: 10.0.0.1}}}}\n"
    sites = "".join(f"  s{i}: {{labels: {{city: c{i}}}}}\n" for i in range(50))
    nodes = "".join(node.format(i, i % 50) for i in range(3000))
    began = time.process_time()
    read = fleet(nodes, f"profiles: {{p: {{agent: {{cpu: 15%}}}}}}\nsites:\n{sites}")
    assert len(read.nodes) == 3000
    assert time.process_time() - began < 5  # 0.3 s on two quiet cores; without libyaml it would be above
