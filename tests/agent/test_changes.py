"""Updates carried out by a running agent, in this process: what an update waits for, and what it does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from edgectl_agent import changes
from edgectl_agent import config as configs
from edgectl_agent.runtime import Runtime

from tests.support.operators import NODE, NodeFolder, Operator


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Runtime]:
    """An agent that follows a file in which nobody writes."""
    path = tmp_path / "agent.yaml"
    source = {
        "type": "tail", "path": str(tmp_path / "s.jsonl"), "stream": "machine", "time": "ts",
        "channels": {"value": "value"},
    }  # fmt: skip
    data = str(tmp_path / "data")
    document = {"version": 1, "node": NODE, "data_dir": data, "sources": {"s": source}, "models": {"press": ["s"]}}
    path.write_text(yaml.safe_dump(document))
    (tmp_path / "s.jsonl").touch()
    runtime = Runtime(*configs.load(path), boot="0" * 16)
    runtime.open()
    worker = threading.Thread(target=runtime.run)
    worker.start()
    yield runtime
    runtime.stop()
    worker.join()
    runtime.close()


def test_where_no_readings_flow_an_update_does_not_wait_for_any(
    running: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_TRIAL_S", 120.0)
    mona = Operator(tmp_path / "mona")
    mona.now = datetime.now(UTC).replace(microsecond=0)
    node = NodeFolder(tmp_path / "data", mona)
    with ThreadPoolExecutor(1) as caller:
        for epoch, version in enumerate(("1.0.0", "2.0.0"), start=1):
            mona.release(version, seed=epoch)
            mona.deploy(version, epoch)
            node.push(mona)
            answer = caller.submit(running.update).result(timeout=60)
            assert (answer.state, answer.models[0].version) == ("confirmed", version), answer
