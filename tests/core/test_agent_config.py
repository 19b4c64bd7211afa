"""agent.yaml as edgectl writes it, for nodes here and elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from edgectl_agent import config as agent

from edgectl import provision
from edgectl.core.errors import ConfigError
from edgectl.inventory.agent_config import Columns, here, render, sha256, there
from edgectl.inventory.reading import parse
from edgectl.inventory.types import Node
from edgectl.machine.layout import Layout
from edgectl.workspace import Workspace

COLUMNS = {"press": Columns(stream="machine", time="at", zone="UTC", channels={"vib": "v"})}


def node(text: str) -> Node:
    return parse(f"version: 1\nfleet: a\nnodes:\n  - {text}\n").nodes[0]


PRESS = "{name: '0417', sources: {s: {type: %s, path: %s}}, models: {press: [s]}, actions: [{type: log, path: %s}]}"


def test_a_node_elsewhere_has_its_own_paths_the_journal_and_a_free_port(tmp_path: Path) -> None:
    text = render(node(PRESS % ("tail", "/var/log/p.csv", "/var/log/a.jsonl")), COLUMNS, there(Layout()))
    (tmp_path / "agent.yaml").write_text(text)
    found, sha = agent.load(tmp_path / "agent.yaml")
    assert (found.node, found.data_dir, found.log.to) == ("0417", "/var/lib/edgectl-agent", "journald")
    assert found.sources["s"].path == "/var/log/p.csv"  # type: ignore[union-attr]
    assert found.actions[0].path == "/var/log/a.jsonl"
    assert found.api.listen == "127.0.0.1:0"
    assert sha == sha256(text)


def test_a_recording_elsewhere_need_not_exist_here() -> None:
    assert "path: /data/no.csv" in render(node(PRESS % ("replay", "/data/no.csv", "''")), COLUMNS, there(Layout()))


@pytest.mark.parametrize(
    ("source", "action", "says"),
    [
        ("p.csv", "''", "node 0417: source 's': expected an absolute path of the node's own, found 'p.csv'"),
        ("/p.csv", "a.jsonl", "node 0417: action: expected an absolute path of the node's own, found 'a.jsonl'"),
    ],
)
def test_a_path_of_a_node_elsewhere_is_absolute(source: str, action: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render(node(PRESS % ("tail", source, action)), COLUMNS, there(Layout()))
    assert str(caught.value) == says


def test_what_the_agent_would_refuse_is_never_written(tmp_path: Path) -> None:
    tiny = node("{name: a, agent: {memory: 1M}}")
    with pytest.raises(ConfigError, match=r"node a: agent\.yaml: limits\.memory: expected at least 64M"):
        render(tiny, {}, here(tmp_path, lambda path: tmp_path / path))


def test_limits_log_and_port_are_what_fleet_yaml_says() -> None:
    said = node("{name: a, agent: {memory: 300M, cpu: 15%, disk: 1M, streams: 7, listen: '127.0.0.1:8710', log: file}}")
    found = yaml.safe_load(render(said, {}, there(Layout())))
    assert found["limits"] == {"memory": "300M", "cpu": "15%", "outbox": "1M", "streams": 7}
    assert (found["log"], found["api"]) == ({"to": "file"}, {"listen": "127.0.0.1:8710"})


def test_what_every_node_should_have_is_known_without_reaching_one(tmp_path: Path) -> None:
    text = (
        "version: 1\nfleet: a\nnodes:\n  - {name: 'p-[1-3]', sources: {h: {type: host-metrics}}, models: {host: [h]}}\n"
    )
    fleet = parse(text + "  - {name: q, sources: {s: {type: tail, path: x.dat}}}\n")
    workspace = Workspace(tmp_path)

    def columns(recipe: str) -> Columns:
        return Columns(stream="=host", time="t", zone="UTC", channels={"cpu": "cpu"})

    found, wrong = provision.desired(fleet, workspace, columns)
    files = provision.files(fleet.node("p-2"), workspace, columns, b"root")
    assert found["p-2"] == sha256(files["agent.yaml"].decode())
    assert len(set(found.values())) == 3
    assert list(wrong) == ["q"]
    assert "cannot tell the format" in wrong["q"]
