from __future__ import annotations

import itertools

import numpy as np
import pytest
from edgectl_agent.core.bundle import Channel

from edgectl.training.faults import KINDS, SIZES, Fault, inject, judge, plan
from edgectl.training.tables import Table

STEP = 60 * 10**9
CHANNELS = (Channel(name="a"), Channel(name="b", high=3.5))


def table(n: int = 4000, streams: int = 2, seed: int = 0) -> Table:
    time = np.repeat(np.arange(n // streams, dtype=np.int64) * STEP, streams)
    stream = np.arange(n, dtype=np.int32) % streams
    values = np.random.default_rng(seed).normal(size=(n, 2))
    return Table(tuple(f"s{i}" for i in range(streams)), stream, time, values)


def test_equal_seeds_plan_equal_faults_of_every_kind() -> None:
    t = table()
    faults = plan(t, 1000, 10 * STEP, seed=3)
    assert faults == plan(t, 1000, 10 * STEP, seed=3)
    assert faults != plan(t, 1000, 10 * STEP, seed=4)
    assert {f.kind for f in faults} == set(KINDS)


def test_faults_are_held_out_and_a_window_apart() -> None:
    t, window = table(), 10 * STEP
    faults = plan(t, 1000, window, seed=1)
    assert min(min(f.rows) for f in faults) >= 1000
    for stream in t.streams:
        mine = sorted((f for f in faults if f.stream == stream), key=lambda f: f.start_ns)
        assert all(b.start_ns - a.end_ns > window for a, b in itertools.pairwise(mine))
    assert all(t.streams[t.stream[row]] == f.stream for f in faults for row in f.rows)


def test_injection_changes_only_the_rows_and_the_channel_of_the_fault() -> None:
    t = table()
    for fault in plan(t, 1000, 10 * STEP, seed=1)[:20]:
        changed = inject(t, [fault], CHANNELS).values != t.values
        assert set(np.flatnonzero(changed.any(axis=1))) <= set(fault.rows)
        assert set(np.flatnonzero(changed.any(axis=0))) <= set(fault.channels)
        assert changed.any()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_does_what_its_name_says(kind: str) -> None:
    t = table(streams=1)
    rows = tuple(range(2000, 2100))
    fault = next(f for f in plan(t, 1000, 10 * STEP, 0) if f.kind == kind)
    fault = Fault(fault.kind, "s0", (0,), 2000 * STEP, 2099 * STEP, 1.0, rows if kind != "spike" else rows[:1])
    before, after = t.values[rows, 0], inject(t, [fault], CHANNELS).values[rows, 0]
    size = SIZES[fault.kind] * 1.0  # the table's spread is about 1
    if kind == "spike":
        assert after[0] - before[0] == pytest.approx(size, rel=0.1)
    elif kind == "level":
        assert (after - before).tolist() == pytest.approx([size] * 100, rel=0.1)
    elif kind == "drift":
        assert after[0] == before[0]
        assert after[-1] - before[-1] == pytest.approx(size, rel=0.1)
    elif kind == "variance":
        assert after.std() == pytest.approx(size * before.std())
    else:
        assert np.ptp(after) == 0


def test_a_fault_shows_in_a_fifth_of_the_channels_and_in_one_at_least() -> None:
    t = table()
    wide = Table(t.streams, t.stream, t.event_time, np.tile(t.values, (1, 10)))
    assert {len(f.channels) for f in plan(t, 1000, 10 * STEP, seed=1)} == {1}
    assert {len(f.channels) for f in plan(wide, 1000, 10 * STEP, seed=1)} == {4}


def test_strength_multiplies_the_size() -> None:
    t = table(streams=1)
    fault = Fault("level", "s0", (0,), 0, 99 * STEP, -1.0, tuple(range(100)))
    once, thrice = (inject(t, [fault], CHANNELS, s).values[:100, 0] - t.values[:100, 0] for s in (1.0, 3.0))
    assert thrice.tolist() == pytest.approx((3 * once).tolist())


def test_a_fault_stays_within_the_channels_range() -> None:
    t = table(streams=1)
    fault = Fault("level", "s0", (1,), 0, 99 * STEP, 1.0, tuple(range(100)))
    assert inject(t, [fault], CHANNELS).values[:100, 1].max() == 3.5


def test_an_onset_counts_on_its_stream_from_the_first_reading_to_a_window_after_the_last() -> None:
    fault = Fault("level", "s0", (0,), 100, 200, 1.0, ())
    for onsets, found in (([("s0", 100)], 1), ([("s0", 250)], 1), ([("s0", 251)], 0), ([("s0", 99), ("s1", 150)], 0)):
        level = next(f for f in judge([fault], onsets, window_ns=50) if f.kind == "level")
        assert (level.injected, level.found) == (1, found)
    assert judge([fault], [("s0", 180), ("s0", 130)], 50)[1].delay_ns == 30
