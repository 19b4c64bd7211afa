"""A log of several lines per event is rotated while the agent that follows it is killed: alerts and features are those
of the whole file."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from edgectl_agent.core.messages import BundleRef, Release
from edgectl_agent.snapshots import SnapshotStore

from edgectl.generate import weblog
from edgectl.training.pipeline import Built, train
from edgectl.training.recipe import find, load
from edgectl.training.tables import read
from tests.support.agents import AgentProcess, outcome, stage

SERVICE = weblog.Service(seed=4, hosts=("web-1", "web-2"))
HISTORY, LIVE = 14 * 60, 5 * 60
PIECES, KILLS = 6, 3


def trained(folder: Path) -> Built:
    """The shipped recipe with shorter windows, on a short history."""
    shipped = find("logs", None).path.read_text(encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(shipped.replace("1h, top: 0", "20m, top: 0"), encoding="utf-8")
    history = folder / "history.log"
    history.write_text("".join(SERVICE.lines(0, HISTORY)), encoding="utf-8")
    return train(load(recipe), read([history], load(recipe))).built[0]


def node(folder: Path, path: Path, built: Built) -> AgentProcess:
    said = {"pattern": r"^\S+ (?P<host>[\w.-]+) (?P<level>[A-Z]+) (?P<message>.*)", "wait": "30m"}
    source = {"type": "tail", "path": str(path), "format": "log", "log": said, "stream": "host", "time": "time",
              "categories": {"level": "level", "template": "message"}, "history": True}  # fmt: skip
    agent = AgentProcess(folder, sources={"s": source}, models={"logs": ["s"]}, snapshot={"every": "30ms"})
    ref = BundleRef(variant=built.variant, sha256=built.sha256, length=len(built.raw))
    stage(agent.data_dir, built.raw, Release(recipe="logs", version="1.0.0", counter=1, variants=(ref,)))
    return agent


def newest_ns(agent: AgentProcess) -> int:
    return agent.status().sources[0].newest_event_ns


def read_all(agent: AgentProcess, last_ns: int) -> tuple[set[tuple[object, ...]], dict[str, Any]]:
    """Its alerts, the state of its features, and how many lines were scored."""
    agent.wait(lambda: newest_ns(agent) // 10**6 == last_ns // 10**6)
    assert agent.status().sources[0].rejected == {}
    assert not {"late", "duplicate"} & set(agent.status().models[0].counters), "a line was read twice"
    agent.terminate()
    state = SnapshotStore(agent.data_dir / "snapshots").load()
    assert state is not None
    with agent:
        detector = state["models"]["logs"]["detector"]
        return outcome(agent.alerts()), {key: detector[key] for key in ("features", "counters", "inferences")}


def test_kills_and_rotation_within_and_between_events_change_no_alert(tmp_path: Path) -> None:
    built = trained(tmp_path)
    faults = [weblog.Fault(host=host, kind="errors", first=HISTORY + at, count=10)
              for host, at in (("web-1", 60), ("web-2", 100), ("web-1", 160), ("web-2", 240))]  # fmt: skip
    events = list(SERVICE.lines(HISTORY, LIVE, faults))
    last_ns = SERVICE.time_of(events[-2])
    assert any("\n\tat " in event for event in events)

    plain, log = tmp_path / "plain.log", tmp_path / "app.log"
    plain.write_text("".join(events), encoding="utf-8")
    with (whole := node(tmp_path / "whole", plain, built)):
        expected = read_all(whole, last_ns)
    assert len(expected[0]) >= 4

    rng, agent = random.Random(3), node(tmp_path / "killed", log, built)
    killed = set(rng.sample(range(PIECES), KILLS))
    agent.start()
    for piece in range(PIECES):
        some = events[piece * len(events) // PIECES : (piece + 1) * len(events) // PIECES]
        raw = "".join(some).encode()
        cut = rng.randrange(len(raw) // 2, len(raw))  # within a line, most often within an event
        seen_ns = SERVICE.time_of(some[len(some) // 3])
        with log.open("ab") as out:
            out.write(raw[:cut])
            out.flush()
            if piece in killed:
                agent.wait(lambda seen_ns=seen_ns: agent.answers() and newest_ns(agent) > seen_ns)
                time.sleep(rng.uniform(0, 0.1))
                agent.kill()
            out.write(raw[cut:])
        if piece < PIECES - 1:
            for n in range(piece, 0, -1):
                (tmp_path / f"app.log.{n}").rename(tmp_path / f"app.log.{n + 1}")
            log.rename(tmp_path / "app.log.1")
        if piece in killed:
            agent.start()
            agent.wait(agent.answers)
    assert read_all(agent, last_ns) == expected
    agent.kill()
