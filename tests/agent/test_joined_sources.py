"""A worker joins two sources that it reads at very different paces."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec
from edgectl_agent.config import Config
from edgectl_agent.core.bundle import Channel, FeatureSpec, InstantFeatures, Join, JoinMember, encode
from edgectl_agent.core.messages import ModelStatus
from edgectl_agent.core.units import SECOND_NS
from edgectl_agent.runtime import Runtime

from tests.support.agents import START_S, replay, stage, write_plant
from tests.support.bundles import make_bundle, make_release

MACHINES, SECONDS = 20, 600
JOIN = Join(
    stream="line-*",
    members=(JoinMember(streams="m*", channels=("vib",)), JoinMember(streams="hall", channels=("temp",))),
    within_ns=5 * SECOND_NS,
    idle_ns=15 * SECOND_NS,
)


def worked(folder: Path, sources: list[str]) -> ModelStatus:
    """What a node makes of both files from their beginning to their end; a poll brings ten seconds of one, two hundred
    of the other."""
    every = {
        "machines": replay(folder / "machines.jsonl", speed="max", channels={"vib": "value"}),
        "hall": replay(folder / "hall.jsonl", speed="max", channels={"temp": "value"}, stream="=hall"),
    }
    data = folder / "-".join(sources)
    document = {
        "version": 1, "node": "n1", "data_dir": str(data), "models": {"press": sources},
        "sources": {name: every[name] for name in sources}, "batch": {"max": 200}, "snapshot": {"every": "10ms"},
    }  # fmt: skip
    spec = FeatureSpec(
        channels=(Channel(name="vib"), Channel(name="temp")),
        features=(InstantFeatures(channels=("vib", "temp"), kinds=("value",)),),
        warm_up_ns=0,
        join=JOIN,
    )
    raw = encode(msgspec.structs.replace(make_bundle(1), features=spec, feature_names=("vib", "temp")))
    stage(data, raw, make_release("press", "1.0.0", 1, raw))
    runtime = Runtime(msgspec.convert(document, Config), "", "boot")
    runtime.open()
    worker = threading.Thread(target=runtime.run)
    worker.start()
    try:
        deadline = time.monotonic() + START_S
        while any(source.state != "ended" for source in runtime.report().sources):
            assert time.monotonic() < deadline, runtime.report()
            time.sleep(0.01)
    finally:
        runtime.stop()
        worker.join()
        runtime.close()
    runtime.publish()
    return runtime.report().models[0]


def test_no_reading_is_late_and_every_row_is_whole_however_far_apart_sources_are(tmp_path: Path) -> None:
    write_plant(tmp_path / "machines.jsonl", MACHINES, SECONDS, spikes=5)
    write_plant(tmp_path / "hall.jsonl", 1, SECONDS, spikes=0)
    one = worked(tmp_path, ["machines", "hall"])
    assert one.counters["ok"] == MACHINES * SECONDS
    assert "late" not in one.counters
    assert one.held == 0
    assert one.counters["alerts_opened"] >= 5
    other = worked(tmp_path, ["hall", "machines"])
    assert other.counters == one.counters
