"""A file is rotated by logrotate while agents that follow it are killed: the alerts are those of the whole file."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from edgectl_agent.core.bundle import encode

from tests.support.agents import AgentProcess, outcome, stage, write_plant
from tests.support.bundles import make_bundle, make_release

STREAMS, SECONDS, SPIKES = 5, 2400, 150
LINES, BEGIN = STREAMS * SECONDS, 1_700_000_000
PIECES, KILLS = 12, 5
RAW = encode(make_bundle(1))


def node(folder: Path, path: Path) -> AgentProcess:
    source = {"type": "tail", "path": str(path), "stream": "machine", "time": "ts", "channels": {"value": "value"}}
    agent = AgentProcess(
        folder,
        sources={"s": source | {"live": False, "history": True}},
        models={"press": ["s"]},
        snapshot={"every": "40ms"},
    )
    stage(agent.data_dir, RAW, make_release("press", "1.0.0", 1, RAW))
    return agent


def read_all(agent: AgentProcess) -> set[tuple[object, ...]]:
    last_ns = (BEGIN + SECONDS - 1) * 10**9
    agent.wait(lambda: agent.status().sources[0].newest_event_ns == last_ns)
    agent.terminate()  # what was read is scored, and its alerts are recorded
    with agent:
        assert agent.status().sources[0].rejected == {}
        return outcome(agent.alerts())


@pytest.mark.needs("logrotate")
def test_rotation_and_kills_lose_double_and_change_no_alert(tmp_path: Path) -> None:
    plant, log = tmp_path / "plant.jsonl", tmp_path / "log.jsonl"
    write_plant(plant, STREAMS, SECONDS, SPIKES)
    lines = plant.read_bytes().splitlines(keepends=True)
    whole = node(tmp_path / "whole", plant)
    with whole:
        expected = read_all(whole)
    assert len(expected) > SPIKES

    conf = tmp_path / "rotate.conf"
    conf.write_text(f"{log} {{\n  rotate 20\n  create\n  compress\n}}\n")
    conf.chmod(0o644)
    rotate = [shutil.which("logrotate", path="/usr/sbin:/usr/bin"), "--force", "-s", str(tmp_path / "state"), str(conf)]
    rng, agent = random.Random(3), node(tmp_path / "killed", log)
    killed = set(rng.sample(range(PIECES), KILLS))
    agent.start()
    for piece in range(PIECES):
        with log.open("ab") as out:
            out.writelines(lines[piece * LINES // PIECES : (piece + 1) * LINES // PIECES])
        if piece in killed:
            time.sleep(rng.uniform(0, 0.2))
            agent.kill()
        if piece < PIECES - 1:
            subprocess.run(rotate, check=True, timeout=60)
        if piece in killed:
            agent.start()
            agent.wait(agent.answers)
    assert read_all(agent) == expected
    agent.kill()
