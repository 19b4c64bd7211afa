"""A source is told what is covered by a stored snapshot, and only when that is true."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from edgectl_agent.config import Config
from edgectl_agent.core.bundle import encode
from edgectl_agent.runtime import Runtime
from edgectl_agent.snapshots import SnapshotStore
from edgectl_agent.sources.interface import Position
from edgectl_agent.sources.replay import ReplaySource

from tests.support.agents import START_S, replay, stage, write_plant
from tests.support.bundles import make_bundle, make_release

STREAMS, SECONDS = 20, 900


@contextmanager
def running(
    folder: Path, monkeypatch: pytest.MonkeyPatch, spikes: int, outbox: str = "1M"
) -> Iterator[tuple[Runtime, list[Position]]]:
    """A worker that reads a whole file at once, and what its source was told."""
    write_plant(folder / "plant.jsonl", STREAMS, SECONDS, spikes)
    document = {
        "version": 1, "node": "n1", "data_dir": str(folder / "data"), "models": {"press": ["s"]},
        "sources": {"s": replay(folder / "plant.jsonl", speed="max")},
        "snapshot": {"every": "10ms"}, "batch": {"max": 200}, "limits": {"outbox": outbox},
    }  # fmt: skip
    raw = encode(make_bundle(1))
    stage(folder / "data", raw, make_release("press", "1.0.0", 1, raw))
    runtime, told = Runtime(msgspec.convert(document, Config), "", "boot"), list[Position]()
    monkeypatch.setattr(ReplaySource, "covered", lambda _, position: told.append(position))
    runtime.open()
    worker = threading.Thread(target=runtime.run)
    worker.start()
    try:
        yield runtime, told
    finally:
        runtime.stop()
        worker.join()
        runtime.close()


def wait(runtime: Runtime, state: str) -> None:
    deadline = time.monotonic() + START_S
    while not any(state in reason for reason in (*runtime.report().reasons, runtime.report().sources[0].state)):
        assert time.monotonic() < deadline, runtime.report()
        time.sleep(0.01)


def stored(folder: Path) -> Position:
    state = SnapshotStore(folder / "data" / "snapshots").load()
    assert state is not None
    position: Position = state["sources"]["s"]["position"]
    return position


def test_what_it_is_told_last_is_what_the_snapshot_on_disk_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, monkeypatch, spikes=5) as (runtime, told):
        wait(runtime, "ended")
    assert len(told) > 1
    assert told[-1] == stored(tmp_path)


def test_a_snapshot_that_the_disk_refuses_covers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "snapshots").write_text("a file where the folder should be")
    with running(tmp_path, monkeypatch, spikes=5) as (runtime, told):
        wait(runtime, "ended")
        wait(runtime, "snapshot of")
    assert told == []


def test_while_alerts_cannot_be_recorded_nothing_more_is_covered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, monkeypatch, spikes=500, outbox="64k") as (runtime, told):
        wait(runtime, "storage: ")
        covered, read = told[-1], runtime.report().sources[0].accepted
    assert told[-1] == covered == stored(tmp_path)
    lines = (tmp_path / "plant.jsonl").read_bytes()[: int(covered["offset"])].count(b"\n")
    assert lines < read < STREAMS * SECONDS
