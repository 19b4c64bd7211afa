"""Features are exact, and equal to the last bit however the readings arrive."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from edgectl_agent.core.batch import Batch
from edgectl_agent.core.bundle import Channel, FeatureSpec, InstantFeatures, PhaseFeatures, WindowFeatures
from edgectl_agent.core.features import (
    DUPLICATE,
    FUTURE,
    INCOMPLETE,
    LATE,
    OK,
    WARMING,
    FeatureBuilder,
    FeatureRows,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import SECOND, batches, cuts, part

STATS = ("mean", "std", "min", "max", "count", "sum", "slope")
SPEC = FeatureSpec(
    channels=(Channel(name="a"), Channel(name="b", optional=True, hold_ns=10 * SECOND)),
    features=(
        InstantFeatures(channels=("a", "b"), kinds=("value", "diff")),
        WindowFeatures(channels=("a", "b"), window_ns=60 * SECOND, panes=6, stats=STATS),
        WindowFeatures(channels=("b",), window_ns=300 * SECOND, stats=("mean",)),
        PhaseFeatures(periods=("day", "week")),
    ),
    warm_up_ns=20 * SECOND,
    gap_after_ns=100 * SECOND,
)
ONE = FeatureSpec(
    channels=(Channel(name="a", low=-50, high=50),),
    features=(InstantFeatures(channels=("a",), kinds=("value", "diff")),),
    warm_up_ns=0,
)


def through_a_restart(builder: FeatureBuilder) -> FeatureBuilder:
    """State written and read back as a snapshot would."""
    return FeatureBuilder.restore(builder.spec, msgspec.msgpack.decode(msgspec.msgpack.encode(builder.snapshot())))


def one(times_s: list[float], values: list[float]) -> Batch:
    return Batch(
        np.zeros(len(times_s), np.int32),
        (np.array(times_s) * SECOND).astype(np.int64),
        np.array(values, float)[:, None],
    )


@pytest.mark.parametrize("streams", [1, 3, 40])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_features_are_bit_equal_for_any_batch_boundaries_and_restarts(streams: int, data: st.DataObject) -> None:
    batch = data.draw(batches(streams))
    whole = FeatureBuilder(SPEC).push(batch)
    builder = FeatureBuilder(SPEC)
    pieces: list[FeatureRows] = []
    for where in data.draw(cuts(len(batch))):
        pieces.append(builder.push(part(batch, where)))
        if data.draw(st.booleans()):
            builder = through_a_restart(builder)
    assert np.concatenate([p.x for p in pieces]).tobytes() == whole.x.tobytes()
    assert np.concatenate([p.status for p in pieces]).tobytes() == whole.status.tobytes()


@settings(deadline=None, max_examples=60)
@given(batch=batches(streams=3), data=st.data())
def test_a_stream_is_not_touched_by_the_others(batch: Batch, data: st.DataObject) -> None:
    together = FeatureBuilder(SPEC).push(batch)
    alone = np.flatnonzero(batch.stream == data.draw(st.integers(0, 2)))
    rows = FeatureBuilder(SPEC).push(
        Batch(np.zeros(len(alone), np.int32), batch.event_time[alone], batch.values[alone])
    )
    assert rows.x.tobytes() == together.x[alone].tobytes()


@settings(deadline=None, max_examples=60)
@given(batch=batches(streams=2))
def test_window_statistics_equal_a_computation_from_the_raw_readings(batch: Batch) -> None:
    rows = FeatureBuilder(SPEC).push(batch)
    names = FeatureBuilder(SPEC).names
    pane = batch.event_time // (10 * SECOND)
    counted = np.isin(rows.status, (OK, WARMING, INCOMPLETE))
    for i in np.flatnonzero(counted):
        inside = counted & (batch.stream == batch.stream[i]) & (np.arange(len(batch)) <= i) & (pane > pane[i] - 6)
        for column, channel in enumerate("ab"):
            value = batch.values[inside, column]
            t = (batch.event_time[inside][~np.isnan(value)] - batch.event_time[i]) / 1e9
            value = value[~np.isnan(value)]
            found = {s: rows.x[i, names.index(f"{channel}.{s}.1m")] for s in STATS}
            assert found["count"] == len(value)
            if len(value) == 0:
                assert np.isnan(found["mean"])
                continue
            t = t - t.mean()
            slope = (t * (value - value.mean())).sum() / (t * t).sum() if (t * t).sum() > 0 else 0.0
            size = np.abs(value).max()
            assert found["min"] == value.min()
            assert found["max"] == value.max()
            np.testing.assert_allclose(found["mean"], value.mean(), rtol=1e-9, atol=1e-9 * size)
            np.testing.assert_allclose(found["sum"], value.sum(), rtol=1e-9, atol=1e-9 * size)
            np.testing.assert_allclose(found["std"], value.std(), rtol=1e-6, atol=1e-9 * size)
            np.testing.assert_allclose(found["slope"], slope, rtol=1e-6, atol=1e-8 * size)


def test_late_duplicate_and_future_readings_change_nothing() -> None:
    builder = FeatureBuilder(ONE)
    rows = builder.push(one([10, 9, 10, 10, 99, 11], [1, 2, 1, 3, 4, 5]), horizon_ns=50 * SECOND)
    assert rows.status.tolist() == [OK, LATE, DUPLICATE, OK, FUTURE, OK]
    np.testing.assert_array_equal(rows.x[[0, 3, 5]], [[1, np.nan], [3, 2], [5, 2]])


def test_a_value_outside_the_channels_range_counts_as_missing() -> None:
    rows = FeatureBuilder(ONE).push(one([1, 2, 3, 4], [1, 51, np.inf, 2]))
    assert rows.status.tolist() == [OK, INCOMPLETE, INCOMPLETE, OK]
    assert rows.out_of_range == 2
    assert rows.x[3].tolist() == [2, 1]


def test_a_missing_value_is_held_for_as_long_as_declared() -> None:
    spec = msgspec.structs.replace(ONE, channels=(Channel(name="a", hold_ns=5 * SECOND),))
    rows = FeatureBuilder(spec).push(one([1, 6, 7], [4, np.nan, np.nan]))
    assert rows.status.tolist() == [OK, OK, INCOMPLETE]
    assert rows.x[1, 0] == 4


def test_a_stream_warms_up_and_does_so_again_after_a_gap() -> None:
    spec = msgspec.structs.replace(ONE, warm_up_ns=3 * SECOND, gap_after_ns=10 * SECOND)
    builder = FeatureBuilder(spec)
    rows = builder.push(one([0, 2, 3, 13, 24, 27], [1, 2, 3, 4, 5, 6]))
    assert rows.status.tolist() == [WARMING, WARMING, OK, OK, WARMING, OK]
    assert builder.warming_streams == 0


def test_the_phase_of_the_day_and_the_week_is_that_of_the_calendar() -> None:
    spec = FeatureSpec(channels=(Channel(name="a"),), features=(PhaseFeatures(periods=("day", "week")),), warm_up_ns=0)
    six_in_the_morning_on_a_monday = 1_700_460_000  # 2023-11-20T06:00:00Z
    x = FeatureBuilder(spec).push(one([six_in_the_morning_on_a_monday], [0])).x[0]
    np.testing.assert_allclose(x[:2], [1, 0], atol=1e-12)
    np.testing.assert_allclose(x[2:], [np.sin(2 * np.pi / 28), np.cos(2 * np.pi / 28)], atol=0.005)
