"""fleet.yaml: what is read from it, what is refused, and how nodes get in and out of it."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.core.errors import ConfigError, NothingMatched
from edgectl.initialise import FLEET as FIRST_FLEET
from edgectl.inventory import editing, example
from edgectl.inventory.reading import parse

FLEET = textwrap.dedent(
    """\
    version: 1
    fleet: acme
    defaults:
      report: {every: 30s}
    sites:
      lyon: {labels: {line: press}, report: {silent_after: 1h}, tier: near-edge}
    nodes:
      - name: gw-1          # the first one
        site: lyon
        sources:
          press: {type: tail, path: press.csv}
        models: {press: [press]}
      # pi-1 stands in the yard
      - {name: pi-1, agent: {streams: 10}}
    """
)


def test_settings_come_from_the_nearest_layer_and_say_so() -> None:
    gw, pi = parse(FLEET).nodes
    assert (gw.tier, gw.report_every_ns, gw.silent_after_ns) == ("near-edge", 30 * 10**9, 3600 * 10**9)
    assert gw.fields == {
        "line": ("press",), "name": ("gw-1",), "site": ("lyon",), "tier": ("near-edge",), "via": ("local",),
        "profile": (), "group": (),
    }  # fmt: skip
    assert gw.origins["tier"] == "site lyon"
    assert gw.origins["report.every"] == "defaults"
    assert gw.origins["agent.memory"] == "built in"
    assert (pi.tier, pi.limits.streams, pi.origins["agent.streams"]) == ("far-edge", 10, "node")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fleet: acme", "flet: acme", "fleet.yaml: flet: unknown key, did you mean 'fleet'?"),
        ("version: 1", "version: 2", "fleet.yaml: version: expected one of 1, found 2"),
        ("streams: 10", "streams: many", "fleet.yaml: nodes[1].agent.streams: expected int"),
        ("type: tail", "type: tial", "nodes[0].sources.press.type: expected one of"),
        ("path: press.csv", "pth: press.csv", "nodes[0].sources.press.pth: unknown key, did you mean 'path'?"),
        ("every: 30s", "every: soon", "fleet.yaml: defaults.report.every: expected a duration"),
        ("silent_after: 1h", "silent_after: -1h", "fleet.yaml: sites.lyon.report.silent_after: expected a duration"),
        ("models: {press: [press]}", "models: {press: [pres]}", "nodes[0].models.press[0]: this node has no source"),
        ("site: lyon", "site: lyom", "nodes[0].site: no site 'lyom' under sites → did you mean 'lyon'?"),
        ("name: pi-1", "name: gw-1", "fleet.yaml: nodes[1].name: 'gw-1' is there twice"),
        ("name: pi-1", "name: ../pi", "fleet.yaml: nodes[1].name: expected"),
        ("fleet: acme", "fleet: acme\ntime_zone: Mars/Base", "fleet.yaml: time_zone: expected a zone"),
        ("fleet: acme", "fleet: [acme", "fleet.yaml: line"),
        ("fleet: acme", "fleet: a\nfleet: b", "fleet.yaml: line 3: key 'fleet' is there twice"),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence_with_its_path(old: str, new: str, message: str) -> None:
    assert old in FLEET
    with pytest.raises(ConfigError) as caught:
        parse(FLEET.replace(old, new))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_node_names_the_closest() -> None:
    with pytest.raises(NothingMatched, match="unknown node 'pi-2' → did you mean 'pi-1'"):
        parse(FLEET).node("pi-2")


ENTRY = {
    "name": "new",
    "labels": {"line": "yes"},
    "sources": {"host": {"type": "host-metrics", "every": "5s"}},
    "models": {"host": ["host"]},
}

SHAPES = {
    "block": FLEET,
    "no final newline": FLEET.rstrip("\n"),
    "comment and key after the list": FLEET + "  # the end of the nodes\n\nstore: sqlite:///x.db  # here\n",
    "flow": "version: 1\nfleet: a\nnodes: [{name: gw-1}, {name: pi-1}]  # two\nstore: sqlite:///x.db\n",
    "flow over lines": "version: 1\nfleet: a\nnodes: [\n  {name: gw-1},\n  {name: pi-1},  # last\n]\n",
    "dashes at the margin": "version: 1\nfleet: a\nnodes:\n- {name: gw-1}\n- name: pi-1\n  # trailing\nstore: sqlite:///x.db\n",
    "deep dashes": "version: 1\nnodes:\n      - name: gw-1\n\n      - name: pi-1\nfleet: a\n",
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES.keys())
def test_adding_and_removing_a_node_keeps_every_other_byte(text: str) -> None:
    added = editing.add(text, ENTRY)
    assert parse(added).names == ("gw-1", "pi-1", "new")
    if "[" not in text.partition("nodes:")[2][:3]:  # a list in brackets has to grow on its last line
        assert all(line in added.splitlines() for line in text.splitlines())
    removed = editing.remove(added, "new")
    assert removed.rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES.keys())
def test_nodes_can_be_removed_one_by_one_down_to_none_and_added_again(text: str) -> None:
    for first, second in (("gw-1", "pi-1"), ("pi-1", "gw-1")):
        one = editing.remove(text, first)
        assert parse(one).names == (second,)
        none = editing.remove(one, second)
        assert parse(none).names == ()
        assert parse(editing.add(none, ENTRY)).names == ("new",)


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nfleet: a\n",
        "version: 1\nfleet: a\nnodes:\n",
        "version: 1\nfleet: a\nnodes:  # none yet\n  # - {name: like-this}\n",
        "version: 1\nfleet: a\nnodes: []  # none yet\nstore: sqlite:///x.db",
        "version: 1\nnodes: []\nfleet: a\n",
        "version: 1\nnodes: null # none\nfleet: a\n",
    ],
)
def test_the_first_node_goes_into_an_empty_fleet(text: str) -> None:
    added = editing.add(text, ENTRY)
    assert parse(added).names == ("new",)
    assert "#" not in text or text.partition("#")[2].splitlines()[0] in added


def test_a_second_node_of_the_same_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="a node 'pi-1' is there already"):
        editing.add(FLEET, {"name": "pi-1"})


def test_a_file_with_anchors_across_nodes_is_edited_only_if_it_reads_the_same() -> None:
    text = "version: 1\nfleet: a\nnodes:\n  - &one {name: gw-1, labels: &l {a: b}}\n  - {name: pi-1, labels: *l}\n"
    assert parse(editing.add(text, ENTRY)).names == ("gw-1", "pi-1", "new")
    with pytest.raises(ConfigError, match="cannot be edited safely"):
        editing.remove(text, "gw-1")


values = st.text(max_size=12)


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), values, max_size=4))
def test_any_label_survives_being_written_and_read(labels: dict[str, str]) -> None:
    for text in (FLEET, SHAPES["flow"]):
        try:
            added = editing.add(text, {"name": "new", "labels": labels})
        except ConfigError:
            continue  # what YAML cannot carry is refused, never altered
        assert dict(parse(added).node("new").labels) == labels


def test_the_example_is_a_valid_fleet_and_the_one_that_init_writes_is_too() -> None:
    assert parse(example.text(), example.FLEET).node("lyon-press-01").tier == "near-edge"
    assert parse(FIRST_FLEET.format(fleet="acme")).names == ()


# ── nodes that share an entry ───────────────────────────────────────────────────────────────────────────────────────

_HEAD = "version: 1\nfleet: a\nnodes:"
MANY = {
    "block": f"{_HEAD}\n  # gépek\n  - name: p-[01-03]  # three\n    labels: {{line: ő}}\n  - {{name: q}}\n",
    "flow": f"{_HEAD}\n  - {{name: 'p-[01-03]', labels: {{line: ő}}}}  # three\n  - {{name: q}}\n",
    "inline": f"{_HEAD} [{{name: 'p-[01-03]'}}, {{name: q}}]\n",
    "with others": f"{_HEAD}\n  - {{name: 'p-[00-03]', exclude: [p-00]}}\n  - {{name: q}}\n",
    "none yet": f"{_HEAD}\n  - {{name: 'p-[01-03]', exclude: []}}\n  - {{name: q}}\n",
    "listed": f"{_HEAD}\n  - name: 'p-[00-03]'\n    exclude:\n      - p-00  # broken\n  - {{name: q}}\n",
    "with an exception": f"{_HEAD}\n  - name: 'p-[01-03]'\n  - {{name: p-02, tier: regional}}\n  - {{name: q}}\n",
}


@pytest.mark.parametrize("text", MANY.values(), ids=MANY.keys())
def test_removing_one_of_many_makes_it_an_exception_and_keeps_the_comments(text: str) -> None:
    assert parse(text).names == ("p-01", "p-02", "p-03", "q")
    removed = editing.remove(text, "p-02")
    assert parse(removed).names == ("p-01", "p-03", "q")
    assert all(comment in removed for comment in ("# gépek", "# three", "# broken") if comment in text)
    assert parse(editing.remove(editing.remove(removed, "q"), "p-01")).names == ("p-03",)


def test_a_node_that_an_entry_stands_for_is_not_added_again() -> None:
    with pytest.raises(ConfigError, match="a node 'p-02' is there already"):
        editing.add(MANY["flow"], {"name": "p-02"})


def test_an_entry_with_comments_is_known_as_such() -> None:
    text = (
        "version: 1\nfleet: a\nnodes:\n  - name: x  # first\n  # of y\n  - name: y\n    tier: regional\n  - {name: z}\n"
    )
    assert [editing.commented(text, name) for name in "xyz"] == [True, False, False]
    changed = editing.put(text, [{"name": "n"}], {"y": {"name": "y", "tier": "near-edge"}})
    assert changed == (
        "version: 1\nfleet: a\nnodes:\n  - name: x  # first\n  # of y\n  - {name: y, tier: near-edge}\n  - {name: z}\n"
        "  - {name: n}\n"
    )


def test_the_example_shows_profiles_patterns_and_an_exception() -> None:
    fleet = parse(example.text(), example.FLEET)
    assert fleet.node("lyon-gw-03").connect.host == "10.1.0.3"
    assert fleet.node("lyon-gw-04").connect.host == "lyon-gw-04.plant.acme.example"
    assert fleet.node("lyon-gw-04").parent == "lyon-gw-01"
    assert "lyon-gw-07" not in fleet
