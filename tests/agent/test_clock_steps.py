"""A clock that steps, the node's or a device's, closes no window early and expires no state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from edgectl_agent.config import Mapping, ReplayConfig
from edgectl_agent.core.batch import Batch
from edgectl_agent.core.clock import ClockWatch
from edgectl_agent.core.detector import Detector
from edgectl_agent.feeds import Feed
from edgectl_agent.sources.decode import JsonDecoder
from edgectl_agent.sources.repeated import Passes
from edgectl_agent.sources.replay import ReplaySource

from tests.agent.streams import SECOND
from tests.agent.test_reorder import detector

NOW = 1_800_000_000
HOUR, DAY, YEAR = 3600, 86_400, 365 * 86_400
AHEAD = 600
READINGS = 90
ARRIVALS = [(NOW + i, NOW + i, float(i % 7)) for i in range(READINGS)]
"""One reading per second that tells the true time: (true second, event second, value)."""


class Node:
    """A detector behind the rule for future readings, with a wall clock that is off by so many seconds."""

    def __init__(self, lateness: Any = msgspec.UNSET) -> None:
        self.watch, self.detector = ClockWatch(), detector(lateness)

    def feed(self, arrivals: Sequence[tuple[int, int, float]], clock_off_s: int = 0) -> list[float]:
        """Scores of (true second, event second, value); the monotonic clock began at `NOW`."""
        scores: list[float] = []
        for true_s, event_s, value in arrivals:
            latest = self.watch.latest_ns((true_s + clock_off_s) * SECOND, (true_s - NOW) * SECOND)
            horizon = None if latest is None else latest + AHEAD * SECOND
            batch = Batch(np.zeros(1, np.int32), np.array([event_s * SECOND]), np.array([[value, value]]))
            scores += self.detector.process(batch, 0, 0, horizon).scores.tolist()
        return scores

    def counted(self) -> dict[str, int]:
        return {name: n for name, n in self.detector.counters.items() if n and not name.startswith("alerts")}

    def restarted(self) -> Node:
        """Killed, and started again from its snapshot."""
        again = Node(self.detector.bundle.features.lateness_ns)
        again.detector.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(self.detector.snapshot())))
        again.watch.restore(self.watch.snapshot())
        return again


def undisturbed() -> list[float]:
    return Node().feed(ARRIVALS)


@pytest.mark.parametrize("off_s", [-HOUR, YEAR, -YEAR, -NOW, 1, -1], ids=["-1h", "+1y", "-1y", "1970", "+1s", "-1s"])
def test_a_step_of_the_nodes_clock_and_its_end_change_no_result(off_s: int) -> None:
    node = Node()
    scores = node.feed(ARRIVALS[:30])
    scores += node.feed(ARRIVALS[30:60], clock_off_s=off_s)
    scores += node.feed(ARRIVALS[60:])
    np.testing.assert_array_equal(scores, undisturbed())
    assert node.counted() == {"ok": READINGS}


def test_a_node_that_boots_in_1970_refuses_nothing_and_keeps_what_it_knew() -> None:
    node = Node()
    scores = node.feed(ARRIVALS[:30])
    node = node.restarted()
    scores += node.feed(ARRIVALS[30:60], clock_off_s=-NOW)
    scores += node.feed(ARRIVALS[60:])
    np.testing.assert_array_equal(scores, undisturbed())
    assert node.feed([(NOW + READINGS, NOW + READINGS + HOUR, 0.0)]) != []
    assert node.counted() == {"ok": READINGS, "future": 1}


def test_a_node_that_boots_an_hour_behind_its_last_snapshot_refuses_nothing() -> None:
    node = Node()
    node.feed(ARRIVALS[:30])
    node = node.restarted()
    node.feed(ARRIVALS[30:60], clock_off_s=-HOUR)
    assert node.counted() == {"ok": 60}


def test_a_future_reading_is_refused_again_once_a_clock_that_was_ahead_is_right() -> None:
    node = Node()
    node.feed(ARRIVALS[:10])
    node.feed(ARRIVALS[10:20], clock_off_s=YEAR)
    node.feed(ARRIVALS[20:30])
    node.feed([(NOW + 30, NOW + HOUR, 0.0)])
    assert node.counted() == {"ok": 30, "future": 1}


def test_a_clock_that_stays_an_hour_behind_is_believed_after_a_day() -> None:
    node = Node()
    node.feed(ARRIVALS[:10])
    node.feed([(NOW + 11, NOW + 11, 0.0), (NOW + DAY, NOW + DAY, 0.0)], clock_off_s=-HOUR)
    assert node.counted() == {"ok": 12}
    node.feed([(NOW + DAY + 60, NOW + DAY + 60, 0.0)], clock_off_s=-HOUR)
    assert node.counted() == {"ok": 12, "future": 1}


def test_readings_that_the_node_stamps_itself_are_late_while_its_clock_is_behind_and_expire_nothing() -> None:
    node = Node()
    node.feed(ARRIVALS[:30])
    node.feed([(t, e - HOUR, v) for t, e, v in ARRIVALS[30:60]], clock_off_s=-HOUR)
    after = node.feed(ARRIVALS[60:])
    skipping = Node().feed(ARRIVALS[:30] + ARRIVALS[60:])
    np.testing.assert_array_equal(after, skipping[30:])
    assert node.counted() == {"ok": 60, "late": 30}


@pytest.mark.parametrize("lateness", [msgspec.UNSET, 10 * SECOND], ids=["0", "10s"])
def test_a_stream_that_was_stamped_a_year_ahead_begins_anew_once_the_clock_is_right(lateness: Any) -> None:
    node = Node(lateness)
    node.feed(ARRIVALS[:30])
    node.feed([(t, e + YEAR, v) for t, e, v in ARRIVALS[30:60]], clock_off_s=YEAR)
    node.feed(ARRIVALS[60:])
    node.detector.flush(0)
    counted = node.counted()
    assert counted.pop("discarded", 0) <= 11
    assert counted.pop("ok") >= 79
    assert counted == {"restarted": 1}


def test_a_stream_that_was_told_the_year_2099_while_the_clock_stood_in_1970_begins_anew() -> None:
    node = Node()
    node.feed([(NOW, NOW, 0.0), (NOW, NOW + 70 * YEAR, 0.0), (NOW, NOW + 1, 0.0)], clock_off_s=-NOW)
    assert node.counted() == {"ok": 2, "late": 1}
    node.feed(ARRIVALS[2:])
    assert node.counted() == {"ok": READINGS, "late": 1, "restarted": 1}


def leap() -> list[tuple[int, int, float]]:
    """Readings every quarter of a second, in quarters; the second from 40 to 44 is told twice."""
    true = range(80)
    return [(q, q if q < 44 else q - 4, float(q)) for q in true]


@pytest.mark.parametrize(("lateness", "late"), [(msgspec.UNSET, 3), (2 * SECOND, 0)], ids=["0", "2s"])
def test_in_a_leap_second_at_most_that_second_is_late_and_nothing_with_a_lateness(lateness: Any, late: int) -> None:
    one: Detector = detector(lateness)
    for _, quarter, value in leap():
        time = np.array([NOW * SECOND + quarter * SECOND // 4])
        one.process(Batch(np.zeros(1, np.int32), time, np.full((1, 2), value)), 0, 0, None)
    one.flush(0)
    assert one.counters["late"] == late
    assert one.counters["ok"] == 80 - late


# ── daylight saving: local times without an offset ──────────────────────────────────────────────────────────────────

PARIS = ZoneInfo("Europe/Paris")
SPRING, AUTUMN = 1_774_746_000, 1_792_890_000
"""2026-03-29T01:00Z, when 02:00 becomes 03:00; 2026-10-25T01:00Z, when 03:00 becomes 02:00."""


def told(second: int, stream: str = "a") -> bytes:
    """A line as a device in Paris writes it, on the wall's time."""
    local = datetime.fromtimestamp(second, PARIS).replace(tzinfo=None)
    return json.dumps({"ts": local.isoformat(), "m": stream, "v": 1}).encode()


MAPPING = Mapping(path="x", stream="m", time="ts", channels={"v": "v"}, zone="Europe/Paris")


def seconds(lines: list[bytes], passes: Passes | None = None) -> list[int]:
    """Event times as a feed has them."""
    found = JsonDecoder(MAPPING).decode(lines)
    time = (passes or Passes()).settle(found.streams, found.event_time, found.again)
    return (time // SECOND).tolist()


@pytest.mark.parametrize("change", [SPRING, AUTUMN], ids=["spring", "autumn"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_when_daylight_saving_begins_or_ends_local_times_go_on_minute_by_minute(change: int, size: int) -> None:
    true = range(change - 2 * HOUR, change + 2 * HOUR, 60)
    lines = [told(second) for second in true]
    passes, found = Passes(), list[int]()
    for at in range(0, len(lines), size):  # with a restart after each batch
        found += seconds(lines[at : at + size], passes)
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(passes.snapshot()))
        passes = Passes()
        passes.restore(state)
    assert found == list(true)


def test_each_stream_has_a_clock_of_its_own_that_goes_back() -> None:
    passes = Passes()
    seconds([told(AUTUMN - 60, "a"), told(AUTUMN + 60, "a")], passes)
    slow = seconds([told(AUTUMN - 120, "b"), told(AUTUMN - 180, "b"), told(AUTUMN + 120, "a")], passes)
    assert slow == [AUTUMN - 120, AUTUMN - 180, AUTUMN + 120]


def test_a_day_after_the_repeated_hour_nothing_of_it_is_kept() -> None:
    passes = Passes()
    seconds([told(AUTUMN - 60), told(AUTUMN + 60)], passes)
    assert passes.snapshot() == {"a": ((AUTUMN + 60 - HOUR) * SECOND, True)}
    seconds([told(AUTUMN + 23 * HOUR)], passes)
    assert passes.snapshot()
    seconds([told(AUTUMN + 25 * HOUR)], passes)
    assert not passes.snapshot()


def test_a_time_with_an_offset_is_what_it_says_in_a_repeated_hour_too() -> None:
    lines = [b'{"ts": "2026-10-25T02:30:00+02:00", "m": "a", "v": 1}', b'{"ts": "2026-10-25T02:10:00+02:00", "m": "a"}']
    assert seconds(lines) == [AUTUMN - 1800, AUTUMN - 3000]


def test_a_node_that_restarts_within_the_second_pass_goes_on_in_it(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    true = list(range(AUTUMN - HOUR, AUTUMN + HOUR, 60))
    path.write_bytes(b"\n".join(map(told, true)) + b"\n")
    config = msgspec.convert(
        {"type": "replay", "path": str(path), "stream": "m", "time": "ts", "channels": {"v": "v"},
         "zone": "Europe/Paris", "speed": "max"}, ReplayConfig,
    )  # fmt: skip
    feed, found = Feed("s", config, ReplaySource(config)), list[int]()
    while (chunk := feed.poll(25, 0.0)) is not None:
        found += (chunk.event_time // SECOND).tolist()
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(feed.snapshot()))
        feed.close()
        feed = Feed("s", config, ReplaySource(config))
        feed.restore(state)
        if chunk.ended:
            break
    assert found == true
