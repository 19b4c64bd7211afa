"""Sources keep their promise: every complete record once, and after a restart the very next one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from edgectl_agent.config import HOST_CHANNELS, HostMetricsConfig, ReplayConfig, SourceConfig, TailConfig
from edgectl_agent.core.errors import SourceError
from edgectl_agent.sources import SOURCES
from edgectl_agent.sources.host_metrics import HostMetricsSource
from edgectl_agent.sources.interface import Position, Source
from edgectl_agent.sources.lines import LineReader
from edgectl_agent.sources.replay import ReplaySource
from edgectl_agent.sources.tail import TailSource
from hypothesis import given, settings
from hypothesis import strategies as st


class ManualTime:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def record(i: int) -> bytes:
    return json.dumps({"ts": 1_000_000 + i, "m": "a", "v": i}).encode() + b"\n"


_opened: list[Source] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def tail(path: Path, **more: object) -> TailSource:
    config = TailConfig(path=str(path), stream="m", time="ts", channels={"v": "v"}, **more)  # type: ignore[arg-type]
    source = TailSource(config)
    _opened.append(source)
    return source


def replay(path: Path, clock: ManualTime | None = None, **more: object) -> ReplaySource:
    config = ReplayConfig(path=str(path), stream="m", time="ts", channels={"v": "v"}, **more)  # type: ignore[arg-type]
    source = ReplaySource(config, monotonic=clock or ManualTime())
    _opened.append(source)
    return source


def drain(source: Source, limit: int = 100) -> tuple[list[float], Position, dict[str, int]]:
    """Poll until nothing comes."""
    values: list[float] = []
    rejected: dict[str, int] = {}
    while True:
        chunk = source.poll(limit, 0)
        values += chunk.values[:, 0].tolist()
        for reason, count in chunk.rejected.items():
            rejected[reason] = rejected.get(reason, 0) + count
        if chunk.ended or not (len(chunk) or chunk.rejected):
            return values, chunk.position, rejected


def test_every_source_type_of_the_configuration_has_a_source() -> None:
    assert {c.__struct_config__.tag for c in get_args(SourceConfig)} == set(SOURCES)


# ── tail ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tail_waits_for_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    source = tail(tmp_path / "later.jsonl")
    source.open(None)
    assert drain(source)[0] == []
    assert source.waiting
    (tmp_path / "later.jsonl").write_bytes(record(1))
    assert drain(source)[0] == [1]
    assert not source.waiting


def test_tail_gives_a_line_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(record(1) + record(2)[:10])
    source = tail(path)
    source.open(None)
    assert drain(source)[0] == [1]
    with path.open("ab") as f:
        f.write(record(2)[10:])
    assert drain(source)[0] == [2]


def test_tail_from_the_end_skips_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(record(1) + record(2) + record(3)[:5])
    source = tail(path, start="end")
    source.open(None)
    with path.open("ab") as f:
        f.write(record(3)[5:] + record(4))
    assert drain(source)[0] == [3, 4]


def test_tail_finishes_a_rotated_file_before_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(record(1))
    source = tail(path)
    source.open(None)
    assert drain(source)[0] == [1]
    with path.open("ab") as f:
        f.write(record(2) + b'{"torn')
    path.rename(tmp_path / "f.1")
    path.write_bytes(record(3))
    values, position, rejected = drain(source)
    assert (values, rejected) == ([2, 3], {"unterminated": 1})
    assert (position["inode"], position["offset"]) == (path.stat().st_ino, len(record(3)))
    only = tail(path)
    only.open(None)
    assert drain(only) == ([3], position, {}), "nothing of the old file stays in it"


def test_tail_finishes_a_file_that_was_rotated_while_the_agent_was_down(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(record(1) + record(2))
    source = tail(path)
    source.open(None)
    position = source.poll(1, 0).position
    source.close()
    path.rename(tmp_path / "f.1")
    path.write_bytes(record(3))
    source = tail(path)
    source.open(position)
    assert drain(source)[0] == [2, 3]


def test_tail_reads_a_truncated_file_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(record(1) + record(2))
    source = tail(path)
    source.open(None)
    assert drain(source)[0] == [1, 2]
    os.truncate(path, 0)
    assert drain(source)[0] == []
    with path.open("ab") as f:
        f.write(record(3))
    assert drain(source)[0] == [3]


def test_tail_of_csv_waits_for_the_header_and_keeps_it_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b"ts,m,")
    source = tail(path, format="csv")
    source.open(None)
    assert drain(source)[0] == []
    assert source.waiting
    with path.open("ab") as f:
        f.write(b"v\n1,a,1\n2,a,2\n")
    position = source.poll(1, 0).position
    source = tail(path, format="csv")
    source.open(position)
    assert drain(source)[0] == [2]


def test_a_csv_without_the_column_fails_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b"ts,m\n1,a\n")
    with pytest.raises(SourceError, match="column 'v' is missing"):
        tail(path, format="csv").open(None)


def test_a_line_of_two_megabytes_is_counted_and_skipped_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(record(1) + b"x" * 2_000_000 + b"\n" + record(2))
    source = tail(path)
    source.open(None)
    values, position, rejected = drain(source)
    assert values == [1, 2]
    assert rejected == {"too-long": 1}
    assert position["offset"] == path.stat().st_size


# ── replay ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_replay_paces_by_event_time_and_factor(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"".join(record(i) for i in range(100)).rstrip(b"\n"))
    clock = ManualTime()
    source = replay(path, clock, speed=10)
    source.open(None)
    assert drain(source)[0] == [0]
    clock.now += 1
    assert drain(source)[0] == list(range(1, 11))
    clock.now += 1000
    assert drain(source)[0] == list(range(11, 100))
    assert source.poll(1, 0).ended


def test_replay_goes_on_with_the_very_next_reading(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"".join(record(i) + b"bad\n" * (i % 3) for i in range(50)))
    source = replay(path, speed="max")
    source.open(None)
    values: list[float] = []
    while True:
        chunk = source.poll(7, 0)
        values += chunk.values[:, 0].tolist()
        if chunk.ended:
            break
        source = replay(path, speed="max")
        source.open(chunk.position)
    assert values == list(range(50))


def test_replay_repeats_with_times_that_go_on(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"".join(record(i) for i in range(3)))
    source = replay(path, speed="max", repeat=True)
    source.open(None)
    times: list[int] = []
    for _ in range(20):
        chunk = source.poll(2, 0)
        times += (chunk.event_time // 10**9).tolist()
        source = replay(path, speed="max", repeat=True)
        source.open(chunk.position)
    assert times[:8] == [1_000_000 + i for i in range(8)]


def test_replay_of_a_file_without_readings_ends_even_when_repeated(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"nothing\n")
    source = replay(path, speed="max", repeat=True)
    source.open(None)
    assert drain(source)[2] == {"unparsable": 1}
    assert source.poll(1, 0).ended


def test_a_missing_replay_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no-such cannot be read: No such file"):
        replay(tmp_path / "no-such").open(None)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 5), st.integers(1, 5))
def test_lines_and_offsets_do_not_depend_on_how_they_are_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, first: int, second: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_bytes(data)
    with path.open("rb", buffering=0) as file:
        whole = LineReader(file).read(10_000)
        assert whole.lines == data.split(b"\n")[:-1]
        a = LineReader(file).read(first)
        b = LineReader(file, int(a.ends[-1]) if len(a.ends) else 0).read(second)
    np.testing.assert_array_equal(np.concatenate([a.ends, b.ends]), whole.ends[: len(a.ends) + len(b.ends)])


# ── host metrics ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_host_metrics_are_plausible_and_come_once_a_period() -> None:
    clock = ManualTime()
    source = HostMetricsSource(HostMetricsConfig(every="10s"), "n1", clock=lambda: 42, monotonic=clock)
    source.open(None)
    assert len(source.poll(10, 0)) == 0
    clock.now += 35
    chunk = source.poll(10, 0)
    assert chunk.streams == ("n1",)
    assert chunk.event_time.tolist() == [42]
    values = dict(zip(HOST_CHANNELS, chunk.values[0], strict=True))
    assert 0 < values["memory"] <= 100
    assert np.isfinite(chunk.values).all()
    assert (chunk.values >= 0).all()
    assert len(source.poll(10, 0)) == 0
    clock.now += 5
    assert len(source.poll(10, 0)) == 1
