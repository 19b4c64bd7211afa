"""Recording what a real agent's source delivers: each reading once, or its absence counted, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from edgectl_agent.core.bundle import encode
from edgectl_agent.core.recordings import RecordingPage, RecordingStatus

from edgectl.connectors.client import NodeClient
from edgectl.connectors.local import LocalConnector
from edgectl.connectors.ssh import SshConnector
from edgectl.connectors.ssh_pool import Pool
from edgectl.core.errors import RemoteRefused, UsageError
from edgectl.history.parts import Parts, Summary
from edgectl.history.record import Tools, Wanted, record
from edgectl.machine.layout import Layout
from edgectl.machine.service import Supervised
from tests.support.agents import AgentProcess, replay, stage, write_plant
from tests.support.bundles import make_bundle, make_release
from tests.support.sshd import Sshd, way

STREAMS, SECONDS = 5, 4_000
TAIL: dict[str, Any] = {
    "type": "tail",
    "stream": "machine",
    "time": "ts",
    "channels": {"value": "value"},
    "live": False,
}


def tools(**more: Any) -> Tools:
    world: dict[str, Any] = {
        "clock_ns": time.time_ns, "monotonic_s": time.monotonic, "sleep": lambda s: time.sleep(min(s, 0.2)),
        "say": lambda text: None, "told": lambda status, readings: None,
    }  # fmt: skip
    return Tools(**(world | more))


def wanted(file: Path, **more: Any) -> Wanted:
    asked: dict[str, Any] = {
        "source": "s", "for_s": 600.0, "max_bytes": 10**9, "spool_bytes": 64 << 20, "file": file,
    }  # fmt: skip
    return Wanted(**(asked | more))


def agent_with(folder: Path, source: dict[str, Any], model: bool = True, **more: Any) -> AgentProcess:
    agent = AgentProcess(
        folder, sources={"s": source}, models={"press": ["s"]} if model else {}, snapshot={"every": "200ms"}, **more
    )
    if model:
        raw = encode(make_bundle())
        stage(agent.data_dir, raw, make_release("press", "1.0.0", 1, raw))
    return agent


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    path = tmp_path / "plant.jsonl"
    write_plant(path, STREAMS, SECONDS, 20)
    return path


_open: list[NodeClient] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


def client(agent: AgentProcess) -> NodeClient:
    _open.append(NodeClient("n1", LocalConnector("n1", agent.folder)))
    return _open[-1]


def recorded(file: Path) -> list[tuple[int, str, float]]:
    found = pq.read_table(file)
    times = found["time"].cast("int64").to_pylist()
    return list(zip(times, found["stream"].to_pylist(), found["value"].to_pylist(), strict=True))


def written(path: Path) -> list[tuple[int, str, float]]:
    rows = (json.loads(line) for line in path.read_text().splitlines())
    return [(row["ts"] * 10**9, row["machine"], row["value"]) for row in rows]


def test_what_a_source_delivers_is_recorded_while_the_model_goes_on_and_a_rerun_changes_nothing(
    tmp_path: Path, plant: Path
) -> None:
    file = tmp_path / "s.parquet"
    with agent_with(tmp_path / "n1", replay(plant, speed=2000) | {"units": {"value": "mm/s"}}) as agent:
        found, new = record(client(agent), wanted(file), tools())
        assert agent.status().models[0].inferences > 0
        again, new_again = record(client(agent), wanted(file), tools())
        assert agent.call("GET", "/v1/recordings/any")[0] == 404
        assert not list((agent.data_dir / "recordings").iterdir())
        source = agent.status().sources[0]
    everything = written(plant)
    rows = recorded(file)
    assert rows == everything[len(everything) - len(rows) :]
    assert (new, new_again, again) == (True, False, found)
    assert (found.readings, found.gaps, found.ended) == (len(rows), (), "source ended")
    assert (found.channels, found.node, found.source) == ({"value": "mm/s"}, "n1", "s")
    assert pq.read_schema(file).field("value").metadata == {b"unit": b"mm/s"}
    assert not Parts(file).folder.exists()
    assert (source.channels, source.recipes) == ({"value": "mm/s"}, ("press",))


class Writer:
    """Appends the plant's lines to a file that an agent follows, as fast as the agent is asked to read."""

    def __init__(self, path: Path, lines: list[str]) -> None:
        self.path, self.lines, self.at = path, lines, 0
        path.touch()

    def write(self, count: int) -> None:
        with self.path.open("a") as out:
            out.write("".join(self.lines[self.at : self.at + count]))
        self.at += count


def test_an_agent_killed_while_it_is_recorded_leaves_no_gap_and_nothing_twice(tmp_path: Path, plant: Path) -> None:
    lines = plant.read_text().splitlines(keepends=True)
    writer, file = Writer(tmp_path / "live.jsonl", lines), tmp_path / "s.parquet"
    agent = agent_with(tmp_path / "n1", TAIL | {"path": str(writer.path)})
    kills = iter((3_000, 8_000, 13_000))
    at = next(kills)

    def turn(status: RecordingStatus, readings: int) -> None:
        nonlocal at
        writer.write(500)
        if at and readings >= at:
            agent.kill()
            agent.start()
            at = next(kills, 0)

    stop = Stop(len(lines))
    with agent:
        found = until(stop, agent, file, turn)
    assert recorded(file) == written(plant)
    assert (found.gaps, found.readings) == ((), len(lines))
    assert at == 0, "the agent was killed three times"


def test_an_agent_that_lost_its_snapshots_meanwhile_begins_anew_and_the_gap_is_told(
    tmp_path: Path, plant: Path
) -> None:
    lines = plant.read_text().splitlines(keepends=True)
    writer, file = Writer(tmp_path / "live.jsonl", lines), tmp_path / "s.parquet"
    agent = agent_with(tmp_path / "n1", TAIL | {"path": str(writer.path)}, model=False)
    lost, deadline = False, time.monotonic() + 90

    def turn(status: RecordingStatus, readings: int) -> None:
        nonlocal lost
        assert time.monotonic() < deadline, f"{readings} readings of {len(lines) + 3_000}"
        writer.write(500)
        if not lost and readings >= 3_000:
            lost = True
            agent.kill()
            shutil.rmtree(agent.data_dir / "snapshots")
            agent.start()

    with agent:
        found = until(Stop(len(lines) + 3_000), agent, file, turn)
    assert [gap.why for gap in found.gaps] == ["the node has forgotten the recording, and began anew"]
    assert recorded(file)[-len(lines) :] == written(plant), "all that came since"


class Stop(Exception):
    """Everything that was written is here."""

    def __init__(self, count: int) -> None:
        self.count = count


def until(stop: Stop, agent: AgentProcess, file: Path, turn: Any) -> Summary:
    """Record until so many readings are here; interrupted then, and taken up again to the end of a short time."""

    def told(status: RecordingStatus, readings: int) -> None:
        turn(status, readings)
        if readings >= stop.count:
            raise stop

    with pytest.raises(Stop):
        record(client(agent), wanted(file), tools(told=told))
    assert not file.exists(), "nothing half-written under the final name"
    found, _ = record(client(agent), wanted(file, max_bytes=1), tools())
    return found


def test_readings_of_a_source_that_no_model_reads_are_recorded(tmp_path: Path, plant: Path) -> None:
    file = tmp_path / "s.parquet"
    with agent_with(tmp_path / "n1", replay(plant, speed="max"), model=False) as agent:
        assert agent.status().sources[0].accepted == 0
        record(client(agent), wanted(file), tools())
    assert recorded(file) == written(plant)


def test_what_a_full_spool_dropped_is_counted_as_a_gap(tmp_path: Path) -> None:
    plant, file = tmp_path / "long.jsonl", tmp_path / "s.parquet"
    write_plant(plant, 50, 2_000, 0)
    with agent_with(tmp_path / "n1", replay(plant, speed="max"), model=False) as agent:
        late = Late(client(agent), lambda: agent.wait_for_end())
        found, _ = record(late, wanted(file, spool_bytes=1 << 20), tools())  # type: ignore[arg-type]
        assert not list((agent.data_dir / "recordings").iterdir())
    rows, everything = recorded(file), written(plant)
    assert sum(gap.readings or 0 for gap in found.gaps) == len(everything) - len(rows) > 0
    assert rows == everything[len(everything) - len(rows) :], "the newest are kept"


class Late:
    """A node that nobody asks until `ready` returns."""

    def __init__(self, node: NodeClient, ready: Any) -> None:
        self.name, self._node, self._ready = node.name, node, ready

    def recorded(self, id_: str, after: int) -> RecordingPage:
        self._ready()
        return self._node.recorded(id_, after)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)


def test_a_size_ends_the_recording_and_bad_input_is_one_sentence(tmp_path: Path, plant: Path) -> None:
    file = tmp_path / "s.parquet"
    with agent_with(tmp_path / "n1", replay(plant, speed=500)) as agent:
        node = client(agent)
        with pytest.raises(RemoteRefused, match="n1 has no source 'x', known are: s"):
            record(node, wanted(file, source="x"), tools())
        assert not Parts(file).folder.exists()
        found, _ = record(node, wanted(file, max_bytes=1), tools())
        assert found.ended == "size"
        (tmp_path / "other.parquet").write_bytes(b"mine")
        with pytest.raises(UsageError, match="is there already"):
            record(node, wanted(tmp_path / "other.parquet"), tools())


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "fleet"
    yield folder
    edgectl(folder, "nodes", "remove", "n1", "--yes", check=False)


def edgectl(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgectl.cli.app", "--workspace", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=120)


def test_the_command_resumes_after_ctrl_c_and_its_file_can_be_trained_on(tmp_path: Path, workspace: Path) -> None:
    plant = tmp_path / "plant.jsonl"
    write_plant(plant, 2, 1_200, 5)
    recipe = workspace / "models" / "press" / "recipe.yaml"
    workspace.mkdir()
    edgectl(workspace, "init")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(
        "recipe: press\nstream: machine\ntime: {column: ts}\nchannels: {value: {unit: mm/s}}\n"
        "features:\n  - {of: all, window: 1m, stats: [mean, std]}\nmodel: {type: pca}\n"
        "alerts: {budget: {warning: 1/day, critical: 1/30d}}\nship: {variants: [fp32]}\n"
    )
    edgectl(workspace, "nodes", "add", "n1", "--source", f"s=replay:{plant}@200", "--model", "press=s")
    out = tmp_path / "s.parquet"
    command = [sys.executable, "-m", "edgectl.cli.app", "--workspace", str(workspace), "data", "record", "n1"]
    command += ["--source", "s", "--for", "5m", "--out", str(out)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "s.parquet.parts" / "recording.json").exists() and time.monotonic() < deadline:
        assert first.poll() is None, first.stderr and first.stderr.read()
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert (first.returncode, "the same command again" in said) == (130, True)
    done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["recording"]["gaps"], found["recording"]["ended"]) == ([], "source ended")
    rows, everything = recorded(out), written(plant)
    assert rows == everything[len(everything) - len(rows) :]
    assert np.isfinite([value for _, _, value in rows]).all()
    trained = edgectl(workspace, "train", "press", "--data", str(out), "-o", "json", check=False)
    assert trained.returncode == 0, trained.stderr
    assert os.listdir(tmp_path / "fleet" / ".edgectl" / "nodes" / "n1" / "data" / "recordings") == []


def test_a_node_behind_ssh_is_recorded_through_its_tunnel(tmp_path: Path, plant: Path, ssh_server: Sshd) -> None:
    (tmp_path / "known_hosts").write_text(ssh_server.pin)
    pool, layout = Pool(), Layout.within(str(tmp_path / "n1"))
    command = (sys.executable, "-m", "edgectl_agent", "run", "--config", layout.agent_yaml)
    reach = way(ssh_server, tmp_path, "n1", pool)
    node = SshConnector(reach, layout, lambda host: Supervised(host, layout, command))
    said = {"version": 1, "node": "n1", "data_dir": layout.data, "sources": {"s": replay(plant, speed="max")}}
    node.place({"agent.yaml": yaml.safe_dump(said | {"snapshot": {"every": "200ms"}}).encode()})
    try:
        node.start()
        record(NodeClient("n1", node), wanted(tmp_path / "s.parquet"), tools())
    finally:
        node.stop()
        node.close()
        pool.close()
    assert recorded(tmp_path / "s.parquet") == written(plant)
