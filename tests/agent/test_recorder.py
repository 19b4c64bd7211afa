"""What a node keeps of recordings, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from edgectl_agent.config import Config, TailConfig
from edgectl_agent.core.recordings import RecordingOrder
from edgectl_agent.core.units import DAY_NS
from edgectl_agent.feeds import Feed
from edgectl_agent.recording import Recorder
from edgectl_agent.runtime import Runtime
from edgectl_agent.sources.interface import Chunk
from edgectl_agent.sources.tail import TailSource

CONFIG: dict[str, Any] = {
    "type": "tail", "path": "/nowhere", "stream": "machine", "time": "ts", "channels": {"value": "value"},
}  # fmt: skip


def recorder(folder: Path, known: dict[str, list[Any]]) -> tuple[Recorder, Feed]:
    config = msgspec.convert(CONFIG, TailConfig)
    found, feed = Recorder(folder, "n1", "boot", lambda: 10**18), Feed("s", config, TailSource(config))
    found.open(known, {"s": feed})
    return found, feed


def brought(at: int) -> Chunk:
    return Chunk(("m",), np.array([at], np.int64), np.array([[1.0]]), {}, at)


def test_a_recording_that_the_disk_refused_has_still_failed_after_a_restart(tmp_path: Path) -> None:
    before, feed = recorder(tmp_path, {})
    before.start(RecordingOrder(id="rec-1", source="s", for_s=60.0), feed)
    (tmp_path / "s" / "000000000001.block").mkdir()
    before.take("s", brought(1))
    known = msgspec.msgpack.decode(msgspec.msgpack.encode(before.snapshot()))
    after, _ = recorder(tmp_path, known)
    status = after.page(
        "rec-1",
        0,
    ).status
    assert (status.state, after.wants("s")) == ("failed", False)
    assert "a block cannot be written" in status.detail


def test_an_older_snapshot_and_files_that_are_no_blocks_do_not_end_a_recording(tmp_path: Path) -> None:
    before, feed = recorder(tmp_path, {})
    before.start(RecordingOrder(id="rec-1", source="s", for_s=60.0), feed)
    before.take("s", brought(1))
    known = {source: kept[:3] for source, kept in before.snapshot().items()}
    foreign = [tmp_path / "s" / name for name in ("copy of 1.block", "1.block", "00000000000٣.block")]
    for path in foreign:
        path.write_bytes(b"mine")
    after, _ = recorder(tmp_path, known)
    assert [b[0] for b in map(msgspec.msgpack.decode, after.page("rec-1", 0).blocks)] == [1]
    assert all(path.exists() for path in foreign)


def test_a_recording_that_nobody_fetched_is_deleted_a_day_after_its_end(tmp_path: Path) -> None:
    now = [1_800_000_000 * 10**9]
    source: dict[str, Any] = {
        "type": "tail", "path": str(tmp_path / "in"), "stream": "machine", "time": "ts", "channels": {"value": "value"},
    }  # fmt: skip
    document = {"version": 1, "node": "n1", "data_dir": str(tmp_path / "data"), "sources": {"s": source}}
    runtime = Runtime(msgspec.convert(document, Config), "", "boot", clock=lambda: now[0])
    runtime.open()
    feed = runtime._feeds["s"]
    runtime.recorder.start(RecordingOrder(id="rec-1", source="s", for_s=60.0), feed)
    folder = tmp_path / "data" / "recordings" / "s"
    for later_ns, there in ((DAY_NS, True), (DAY_NS + 61 * 10**9, False)):
        now[0] = 1_800_000_000 * 10**9 + later_ns
        runtime.publish()
        assert folder.exists() is there
    assert runtime.recorder.snapshot() == {}
    runtime.close()
