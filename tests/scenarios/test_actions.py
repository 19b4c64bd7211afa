"""A node acts only as its operator has signed, and a killed agent does nothing twice."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import msgspec
import yaml
from edgectl_agent.actions.journal import Line
from edgectl_agent.core.bundle import encode
from edgectl_agent.core.desired import Floor
from edgectl_agent.floorfile import FloorFile

from tests.scenarios.fleets import Plant, until
from tests.support.agents import AgentProcess, replay, stage, write_plant
from tests.support.bundles import make_bundle, make_release


def test_killed_while_a_program_runs_the_agent_does_not_run_it_again_and_says_unknown(tmp_path: Path) -> None:
    plant, ran = tmp_path / "plant.jsonl", tmp_path / "ran"
    write_plant(plant, 1, 600, 4)
    script = f'echo "$1" >> {ran}; exec sleep 600'
    agent = AgentProcess(
        tmp_path / "n1",
        sources={"s": replay(plant, speed="max")},
        models={"press": ["s"]},
        actions=[
            {"type": "exec", "name": "slow", "command": ["/bin/sh", "-c", script, "sh", "{id}"], "max_age": "none",
             "timeout": "10m", "rate": "100/1s"}
        ],
    )  # fmt: skip
    raw = encode(make_bundle(1))
    stage(agent.data_dir, raw, make_release("press", "1.0.0", 1, raw))
    (agent.data_dir / "trust").mkdir(parents=True)
    FloorFile(agent.data_dir / "trust" / "floor.json").write(Floor(allow=({"type": "exec", "path": "/bin/sh"},)))

    def begun() -> list[str]:
        return ran.read_text().split() if ran.exists() else []

    sleepers = []
    with agent:
        agent.wait(lambda: len(begun()) == 1)
        agent.wait_for_end()
        sleepers += children(agent)
        agent.kill()
    for life in (2, 3):
        with agent:
            agent.wait(lambda life=life: len(begun()) == life)  # type: ignore[misc]
            (action,) = agent.status().actions
            assert action.outcomes == {"unknown": 1}
            assert agent.status().state == "degraded"
            sleepers += children(agent)
            agent.kill()
    for pid in sleepers:
        os.kill(pid, signal.SIGKILL)
    assert len(set(begun())) == len(begun()) == 3
    lines = (agent.data_dir / "actions" / "slow.jsonl").read_bytes().splitlines()
    steps = [(line.key[0], line.step) for line in (msgspec.json.decode(text, type=Line) for text in lines)]
    assert [key for key, step in steps if step == "unknown"] == begun()[:2]


def children(agent: AgentProcess) -> list[int]:
    assert agent.process is not None
    pid = agent.process.pid
    text = "".join(p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for child in text.split()]


def test_a_node_does_nothing_that_its_operator_has_not_signed(tmp_path: Path) -> None:
    plant = Plant(tmp_path, ("pi-1",))
    try:
        out = tmp_path / "alarms.log"
        change(tmp_path, actions=[{"type": "file", "path": str(out), "payload": "{stream} {severity}"}])
        plant.release("1.0.0", seed=1)
        plant.shell.ok("deploy", "press", "--yes")
        plant.stop("pi-1")
        plant.shell.ok("nodes", "restart", "pi-1")
        begin_s = plant.feed("pi-1", [0.1 * (i % 7) for i in range(120)], int(time.time()) - 130)
        begin_s = plant.feed("pi-1", [50.0] * 3, begin_s)
        until(lambda: plant.report("pi-1").actions[0].outcomes.get("not-allowed", 0) > 0)
        report = plant.report("pi-1")
        assert report.state == "degraded"
        assert not out.exists()
        plant.shell.ok("collect")
        assert "no signed rule covers" in plant.shell.run("nodes", "why", "pi-1").stdout
        found = json.loads(plant.shell.run("audit", "-o", "json").stdout)
        assert "edgectl nodes allow" in json.dumps(found)

        change(tmp_path, allow=[{"type": "file", "path": str(tmp_path)}])
        assert "pi-1" in plant.shell.ok("nodes", "allow", "--dry-run")
        plant.shell.ok("nodes", "allow", "--yes")
        assert plant.report("pi-1").actions[0].refused == ""
        plant.feed("pi-1", [50.0] * 2, begin_s, "m2")
        begin_s = plant.feed("pi-1", [0.1 * (i % 7) for i in range(100)], begin_s - 110, "m3")
        plant.feed("pi-1", [50.0] * 3, begin_s, "m3")
        until(lambda: out.exists() and "m3 " in out.read_text())
        assert "m1" not in out.read_text()
        assert plant.shell.ok("nodes", "allow", "--yes").strip() == ""

        plant.stop("pi-1")  # what is allowed outlives the process
        plant.start("pi-1")
        until(lambda: plant.report("pi-1").actions[0].refused == "")
        change(tmp_path, allow=[])
        plant.stop("pi-1")  # it is off when the right is taken from it
        plant.shell.run("nodes", "allow", "--yes")
        plant.start("pi-1")
        until(lambda: plant.report("pi-1").actions[0].refused == "")
        assert "would be told" in plant.shell.ok("nodes", "allow", "--dry-run")
        plant.shell.ok("nodes", "allow", "--yes")
        assert "not allowed" in plant.report("pi-1").actions[0].refused
    finally:
        plant.close()


def change(folder: Path, **settings: object) -> None:
    """Say more about the only node in fleet.yaml."""
    path = folder / "fleet.yaml"
    document = yaml.safe_load(path.read_text())
    document["nodes"][0] |= settings
    path.write_text(yaml.safe_dump(document))
