"""What a node keeps of recordings, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from edgectl_agent.config import Config
from edgectl_agent.core.recordings import RecordingOrder
from edgectl_agent.core.units import DAY_NS
from edgectl_agent.runtime import Runtime


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
