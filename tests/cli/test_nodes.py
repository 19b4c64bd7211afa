"""`edgectl nodes`, with real agents."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.cli import Shell

RECIPE = """\
recipe: press
stream: machine
time: {column: at, zone: Europe/Paris}
channels:
  vib: {column: v.rms}
  temp: {}
features:
  - {of: all, window: 1m, stats: [mean]}
model: {type: pca}
alerts: {budget: {warning: 1/day, critical: 1/30d}}
"""


@pytest.fixture
def plant(shell: Shell) -> Shell:
    """A workspace with a recipe and a file of readings."""
    folder = shell.folder / "models" / "press"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    (shell.folder / "press.csv").write_text("machine,at,v.rms,temp\n")
    return shell


def agent_yaml(shell: Shell, name: str) -> str:
    return (shell.folder / ".edgectl" / "nodes" / name / "agent.yaml").read_text()


def pid(shell: Shell, name: str) -> int:
    path = shell.folder / ".edgectl" / "nodes" / name / "data" / "api.json"
    return int(json.loads(path.read_text())["pid"])


def test_add_starts_an_agent_and_remove_ends_it(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--via", "local", "--source", "host=host-metrics:1s")
    first = pid(shell, "pi-1")
    assert "edgectl_agent" in " ".join(psutil.Process(first).cmdline())
    shell.ok("nodes", "start", "pi-1")
    assert pid(shell, "pi-1") == first
    shell.ok("nodes", "restart", "pi-1")
    assert pid(shell, "pi-1") != first
    shell.ok("nodes", "remove", "pi-1", "--yes")
    assert not (shell.folder / ".edgectl" / "nodes" / "pi-1").exists()
    assert shell.ok("nodes", "list", "-o", "name") == ""


def test_stop_and_start_keep_the_node_and_its_data(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--source", "host=host-metrics:1s")
    process = psutil.Process(pid(shell, "pi-1"))
    shell.ok("nodes", "stop", "pi-1")
    shell.ok("nodes", "stop", "pi-1")
    assert not process.is_running()
    shell.ok("nodes", "start", "pi-1")
    shell.ok("nodes", "list")


def test_a_killed_agent_is_started_again(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--source", "host=host-metrics:1s")
    process = psutil.Process(pid(shell, "pi-1"))
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    shell.ok("nodes", "start", "pi-1")
    assert pid(shell, "pi-1") != process.pid


def test_ctrl_c_at_the_terminal_does_not_reach_the_agents(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--source", "host=host-metrics:1s")
    assert os.getsid(pid(shell, "pi-1")) != os.getsid(0)


def test_the_recipe_says_which_columns_a_source_has(plant: Shell) -> None:
    plant.ok("nodes", "add", "pi-1", "--no-start", "--source", "p=tail:press.csv", "--model", "press=p")
    text = agent_yaml(plant, "pi-1")
    assert text.startswith("# written by edgectl from fleet.yaml (sha256 ")
    assert f"path: {plant.folder}/press.csv" in text
    for part in ("format: csv", "stream: machine", "time: at", "zone: Europe/Paris", "{vib: v.rms, temp: temp}"):
        assert part in text


def test_a_changed_setting_reaches_agent_yaml_at_the_next_start(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--source", "host=host-metrics:1s")
    text = (shell.folder / "fleet.yaml").read_text()
    (shell.folder / "fleet.yaml").write_text(text.replace("every: 1s", "every: 2s"))
    assert "hold after edgectl nodes restart pi-1" in shell.run("nodes", "start", "pi-1").stderr
    assert "every: 2s" in agent_yaml(shell, "pi-1")
    audit = shell.run("audit")
    assert audit.returncode == 10
    assert "pi-1: agent.yaml is not the one that fleet.yaml makes → edgectl nodes restart pi-1" in audit.stdout
    drifted = ("nodes", "list", "--select", "finding=config-drift,state=healthy", "-o", "name")
    assert shell.ok(*drifted).split() == ["pi-1"]
    shell.ok("nodes", "restart", "pi-1")
    assert "config-drift" not in shell.run("audit").stdout
    shell.fails(4, *drifted, says="no node of 1 matches 'finding=config-drift")
    assert shell.run("nodes", "start", "pi-1").stderr == "pi-1 runs\n"


def test_show_prints_each_setting_with_its_origin(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--no-start", "--tier", "near-edge", "--label", "line=press")
    lines = {line.split()[0]: line.split()[1:] for line in shell.ok("nodes", "show", "pi-1").splitlines()}
    assert lines["tier"] == ["near-edge", "node"]
    assert lines["report.every"] == ["1m", "defaults"]
    assert lines["agent.memory"] == ["200M", "built", "in"]
    assert json.loads(shell.ok("nodes", "show", "pi-1", "-o", "json"))["name"] == "pi-1"


def test_list_takes_the_selector_of_every_verb(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--no-start", "--label", "line=press")
    shell.ok("nodes", "add", "gw-1", "--no-start", "--tier", "near-edge")
    assert shell.ok("nodes", "list", "--select", "tier=near-edge", "-o", "name").split() == ["gw-1"]
    shell.fails(4, "nodes", "list", "--select", "name=pi-2", says="no node of 2 matches")


def test_what_a_verb_did_to_a_node_is_there_for_programs_too(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--source", "host=host-metrics:1s")
    shown = [json.loads(shell.ok("nodes", verb, "pi-1", "-o", "json")) for verb in ("start", "restart", "stop")]
    assert [(row["name"], row["state"]) for row in shown] == [
        ("pi-1", state) for state in ("running", "running", "stopped")
    ]
    removed = json.loads(shell.ok("nodes", "remove", "pi-1", "--yes", "-o", "json"))
    assert removed == {"name": "pi-1", "state": "removed", "line": ""}


def test_a_token_and_how_long_it_lives_are_there_for_programs(shell: Shell) -> None:
    path = shell.folder / "fleet.yaml"
    pulls = "receiver: {url: https://hub.example}\nnodes: [{name: far-1, connect: {via: pull}}]"
    path.write_text(path.read_text().replace("nodes: []", pulls))
    made = json.loads(shell.ok("nodes", "token", "far-1", "--valid", "1d", "-o", "json"))
    assert (made["name"], len(made["token"]) > 20, made["expires"][:2], made["ended"]) == ("far-1", True, "20", 0)
    ended = json.loads(shell.ok("nodes", "token", "far-1", "--revoke", "-o", "json"))
    assert ended == {"name": "far-1", "token": "", "expires": "", "ended": 1}


# ── what bad input gets ─────────────────────────────────────────────────────────────────────────────────────────────


def test_of_a_fleet_without_nodes_the_first_one_is_told(shell: Shell) -> None:
    shell.fails(4, "nodes", "show", "nope", says="unknown node 'nope' → there is none yet: edgectl nodes add nope")


@pytest.mark.parametrize("verb", ["bootstrap", "upgrade", "configure"])
def test_whom_to_change_must_be_said_once_and_all_is_a_way_to_say_it(shell: Shell, verb: str) -> None:
    path = shell.folder / "fleet.yaml"
    path.write_text(path.read_text().replace("nodes: []", "nodes: [{name: here}, {name: far, connect: {via: usb}}]"))
    says = f"expected names of nodes, --select or --all, to {verb} → edgectl nodes list"
    shell.fails(2, "nodes", verb, says=says)
    shell.fails(2, "nodes", verb, "pi-1", "--all", says=says)
    shell.fails(4, "nodes", verb, "--all", says="fleet.yaml has no node on another machine that operators log in to")


def test_an_unknown_node_is_refused_with_the_closest_names(shell: Shell) -> None:
    text = (shell.folder / "fleet.yaml").read_text()
    (shell.folder / "fleet.yaml").write_text(text.replace("nodes: []", "nodes: [{name: lyon-01}]"))
    for verb in (("show",), ("start",), ("stop",), ("restart",), ("remove", "--yes")):
        shell.fails(4, "nodes", verb[0], "lyon-02", *verb[1:], says="unknown node 'lyon-02' → did you mean 'lyon-01'?")


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("pi-1",), 3, "a node 'pi-1' is there already → edgectl nodes start pi-1 starts it"),
        (("a/b",), 3, "nodes[1].name: expected"),
        (("x", "--via", "pigeon"), 3, "nodes[1].connect.via: expected one of"),
        (("x", "--tier", "edge"), 3, "nodes[1].tier: expected one of far-edge, near-edge, regional, found 'edge'"),
        (("x", "--site", "lyon"), 3, "nodes[1].site: no site 'lyon' under sites"),
        (("x", "--label", "press"), 2, "--label 'press': expected KEY=VALUE"),
        (("x", "--source", "press"), 2, "--source 'press': expected NAME=tail:PATH"),
        (("x", "--source", "p=tail:a.csv", "--source", "p=tail:b.csv"), 2, "--source: 'p' is given twice"),
        (("x", "--source", "p=replay:press.csv@0"), 3, "sources.p.speed: expected a factor above 0 or max"),
        (("x", "--source", "p=host-metrics:soon"), 3, "sources.p.every: expected a duration"),
        (("x", "--model", "press=p"), 3, "nodes[1].models.press[0]: this node has no source 'p'"),
        (("x", "--source", "p=tail:a.csv", "--model", "pres=p"), 4, "unknown recipe 'pres' → did you mean 'press'"),
        (("x", "--source", "p=tail:a.csv"), 3, "source 'p' feeds no model and does not say which columns it has"),
        (("x", "--source", "p=tail:a.dat", "--model", "press=p"), 3, "cannot tell the format of 'a.dat'"),
        (("x", "--source", "p=replay:no.csv", "--model", "press=p"), 3, "there is no file"),
        (("x", "--source", "h=host-metrics", "--model", "press=h"), 3, "has no channel 'vib', which press needs"),
    ],
)
def test_a_node_that_makes_no_sense_is_refused_and_nothing_is_written(
    plant: Shell, args: tuple[str, ...], code: int, says: str
) -> None:
    text = (plant.folder / "fleet.yaml").read_text()
    (plant.folder / "fleet.yaml").write_text(text.replace("nodes: []", "nodes: [{name: pi-1}]"))
    before = (plant.folder / "fleet.yaml").read_bytes()
    plant.fails(code, "nodes", "add", *args, says=says)
    assert (plant.folder / "fleet.yaml").read_bytes() == before
    assert not (plant.folder / ".edgectl" / "nodes").exists()


def test_a_wrong_recipe_is_named_with_its_key(plant: Shell) -> None:
    path = plant.folder / "models" / "press" / "recipe.yaml"
    path.write_text(RECIPE.replace("stats:", "stat:"))
    args = ("nodes", "add", "pi-1", "--no-start", "--source", "p=tail:a.csv", "--model", "press=p")
    plant.fails(3, *args, says="recipe.yaml: features[0].stat: unknown key, did you mean 'stats'?")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("sitess: {}", "fleet.yaml: sitess: unknown key, did you mean 'sites'?"),
        ("time_zone: [UTC]", "fleet.yaml: time_zone: expected str"),
        ("nodes: {a: b}", "fleet.yaml: nodes: expected"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_a_wrong_fleet_yaml_is_one_sentence_with_the_key(shell: Shell, line: str, says: str) -> None:
    (shell.folder / "fleet.yaml").write_text(f"version: 1\nfleet: acme\n{line}\n")
    for args in (("nodes", "list"), ("nodes", "add", "x"), ("repo", "show")):
        shell.fails(3, *args, says=says)


def test_an_agent_that_cannot_start_is_unreachable_with_its_last_words(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--no-start", "--source", "host=host-metrics:1s")
    data = shell.folder / ".edgectl" / "nodes" / "pi-1" / "data"
    (data / "agent.lock").mkdir()
    shell.fails(31, "nodes", "start", "pi-1", says="node pi-1: the agent ended at once; its log ends:")


def test_ctrl_c_while_an_agent_starts_leaves_a_node_that_can_be_started(shell: Shell) -> None:
    process = shell.start("nodes", "add", "pi-1", "--source", "host=host-metrics:1s")
    base = shell.folder / ".edgectl" / "nodes" / "pi-1"
    deadline = time.monotonic() + 60
    while not (base / "agent.pid").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 130), said
    assert "Traceback" not in said
    shell.ok("nodes", "start", "pi-1")


@pytest.mark.needs("root")
def test_a_full_disk_is_one_sentence_and_nothing_is_half_done(shell: Shell, small_disk: Path) -> None:
    folder = small_disk / "work"
    shutil.copytree(shell.folder, folder)
    shell.folder = folder
    before = (folder / "fleet.yaml").read_bytes()
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    shell.fails(75, "nodes", "add", "pi-1", "--no-start", says="no space left on device → make room on this disk")
    assert (folder / "fleet.yaml").read_bytes() == before
    (small_disk / "filler").unlink()
    shell.ok("nodes", "add", "pi-1", "--no-start")
