"""A lateness makes the order of arrival irrelevant; what comes too late, too early or too much has a defined result."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import numpy as np
import pytest
from edgectl_agent.core.batch import Batch, Int64, StreamTable
from edgectl_agent.core.bundle import (
    Channel,
    FeatureSpec,
    InstantFeatures,
    NewFeatures,
    TimingFeatures,
    WindowFeatures,
    encode,
)
from edgectl_agent.core.detector import Detector
from edgectl_agent.core.features import feature_names
from edgectl_agent.core.messages import Alert
from edgectl_agent.core.reorder import Released, Reorder, arranged
from edgectl_agent.engine import Engine, Trial
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import SECOND, batches, cuts
from tests.agent.test_detector import BUNDLE, squares
from tests.support.bundles import make_bundle

EXAMPLES = int(os.environ.get("EDGECTL_LAW_EXAMPLES", "30"))
"""10,000 under ``make soak``."""
LATENESS = 10 * SECOND
SPEC = FeatureSpec(
    channels=(Channel(name="a"), Channel(name="b", optional=True)),
    features=(
        InstantFeatures(channels=("a", "b"), kinds=("value", "diff")),
        WindowFeatures(channels=("a",), window_ns=30 * SECOND, stats=("mean", "std", "slope")),
        TimingFeatures(kinds=("since_last",), half_life_ns=60 * SECOND),
    ),
    warm_up_ns=0,
    lateness_ns=LATENESS,
)


def detector(lateness: int | msgspec.UnsetType) -> Detector:
    """Of `SPEC`; sixteen streams."""
    spec = msgspec.structs.replace(SPEC, lateness_ns=lateness)
    names = feature_names(spec)
    scaler = msgspec.structs.replace(BUNDLE.scaler, center=(0.0,) * len(names), scale=(1.0,) * len(names))
    bundle = msgspec.structs.replace(BUNDLE, features=spec, feature_names=names, scaler=scaler)
    table = StreamTable([f"s{i}" for i in range(16)])
    return Detector(bundle, node="n1", version="1", digest="d" * 64, streams=table, score=squares)


def through_a_restart(one: Detector) -> Detector:
    again = detector(one.bundle.features.lateness_ns)
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(one.snapshot())))
    return again


def results(batch: Batch, where: list[slice], lateness: Any, restart: bool = False) -> tuple[list[Alert], bytes]:
    """All alerts; and scores by stream in the order in which they were made."""
    one, alerts, scores = detector(lateness), [], []
    for part in (*where, None):
        found = one.flush(0) if part is None else one.process(batch.take(part), 0, 0)
        alerts += found.alerts
        scores.append(np.stack([batch.stream[found.serial].astype(float), found.scores]))
        if restart:
            one = through_a_restart(one)
    alerts.sort(key=lambda a: (a.stream, a.changed_ns, a.state, a.severity))
    rows = np.concatenate(scores, axis=1)
    rows = rows[:, np.isfinite(rows[1])]
    kept = rows[:, np.argsort(rows[0], kind="stable")]
    return alerts, kept.tobytes()


def whole(batch: Batch) -> list[slice]:
    return [slice(0, len(batch))]


@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data(), batch=batches(streams=3))
def test_with_a_lateness_batch_boundaries_and_restarts_change_nothing(data: st.DataObject, batch: Batch) -> None:
    where = data.draw(cuts(len(batch)))
    assert results(batch, where, LATENESS, restart=True) == results(batch, whole(batch), LATENESS)


@st.composite
def delays(draw: st.DrawFn, n: int) -> Int64:
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, LATENESS + 1, n)


@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data(), batch=batches(streams=3))
def test_with_a_lateness_any_order_of_arrival_within_it_gives_the_same(data: st.DataObject, batch: Batch) -> None:
    shuffled = batch.take(np.argsort(batch.event_time + data.draw(delays(len(batch))), kind="stable"))
    behind = np.maximum.accumulate(shuffled.event_time) - shuffled.event_time
    assert behind.max() <= LATENESS
    one = results(batch.take(np.argsort(batch.event_time, kind="stable")), whole(batch), LATENESS)
    assert results(shuffled, data.draw(cuts(len(batch))), LATENESS) == one


@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data(), batch=batches(streams=3))
def test_without_a_lateness_batches_restarts_and_readings_told_again_change_nothing(
    data: st.DataObject, batch: Batch
) -> None:
    """Told again is what was told before, from any point on, as a broker does after a lost acknowledgement; where two
    readings of a stream have one time, only its last can be known again."""
    order = np.lexsort((np.arange(len(batch)), batch.event_time, batch.stream))
    tied = np.zeros(len(batch), bool)
    tied[order[1:]] = (np.diff(batch.event_time[order]) == 0) & (np.diff(batch.stream[order]) == 0)
    batch = batch.take(~tied)
    again = []
    for part in data.draw(cuts(len(batch))):
        back = data.draw(st.integers(0, part.stop))
        again.append(np.arange(back, part.stop) if back < part.start else np.arange(part.start, part.stop))
    rows = np.concatenate(again)
    told = batch.take(rows)
    one = results(batch, whole(batch), msgspec.UNSET)
    assert results(told, data.draw(cuts(len(told))), msgspec.UNSET, restart=True) == one


@settings(deadline=None, max_examples=EXAMPLES)
@given(batch=batches(streams=3), data=st.data())
def test_training_sees_readings_in_the_order_of_the_node(batch: Batch, data: st.DataObject) -> None:
    parts = [batch.take(part) for part in data.draw(cuts(len(batch)))]
    seen = list(arranged(SPEC, parts))
    serial = np.concatenate([place for _, place in seen])
    assert len(np.unique(serial)) == len(serial)
    for ordered, place in seen:
        np.testing.assert_array_equal(ordered.values, batch.values[place])
        np.testing.assert_array_equal(ordered.event_time, batch.event_time[place])


def test_categories_wait_with_their_readings_and_order_those_of_equal_time() -> None:
    spec = msgspec.structs.replace(SPEC, features=(*SPEC.features, NewFeatures(categories=("land",), memory_ns=SECOND)))
    orders = []
    for codes in ([5, 7, -1], [-1, 7, 5]):
        buffer = Reorder(spec)
        same = np.zeros(3, np.int32), np.zeros(3, np.int64), np.zeros((3, 2))
        buffer.push(Batch(*same, np.array(codes, np.int32)[:, None]), np.arange(3))
        buffer.push(Batch(*same), np.arange(3, 6))
        again = Reorder(spec)
        again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(buffer.snapshot())))
        found = again.flush().batch.codes
        assert found is not None
        orders.append(found[:, 0].tolist())
    assert orders[0] == orders[1] == [-1, -1, -1, -1, 5, 7]


def test_a_model_on_trial_scores_at_once_what_the_running_one_holds() -> None:
    bundle = make_bundle()
    spec = msgspec.structs.replace(bundle.features, lateness_ns=3600 * SECOND, warm_up_ns=0)
    raw = encode(msgspec.structs.replace(bundle, features=spec))
    running, candidate = (Engine.load(raw, "1", "n", StreamTable(["m"]), 9, lambda seconds: None) for _ in range(2))
    trial = Trial(candidate, running)
    batch = Batch(np.zeros(3, np.int32), np.arange(3) * SECOND, np.zeros((3, 1)))
    trial.observe(batch, 0, 0, None)
    running.process(batch, 0, 0, None)
    assert (trial.scored, trial.failure) == (True, "")
    assert (running.detector.held, running.detector.inferences) == (3, 0)


# ── each kind of reading ────────────────────────────────────────────────────────────────────────────────────────────


def push(buffer: Reorder, *readings: tuple[int, float], stream: int = 0, horizon_s: int | None = None) -> Released:
    """Readings (second, value) of one stream."""
    time = np.array([t for t, _ in readings], np.int64) * SECOND
    values = np.array([[v, np.nan] for _, v in readings]).reshape(-1, 2)
    batch = Batch(np.full(len(readings), stream, np.int32), time, values)
    return buffer.push(batch, np.arange(len(readings)), None if horizon_s is None else horizon_s * SECOND)


def seconds(released: Released) -> list[int]:
    return (released.batch.event_time // SECOND).tolist()


def test_readings_come_out_in_order_once_their_stream_is_past_them_by_the_lateness() -> None:
    buffer = Reorder(SPEC)
    assert seconds(push(buffer, (5, 0), (3, 0), (12, 0), (15, 0))) == [3]
    assert seconds(push(buffer, (16, 0), (26, 0))) == [5, 12, 15]
    assert buffer.held == 2
    assert seconds(buffer.flush()) == [16, 26]


def test_a_reading_is_late_when_it_is_more_than_the_lateness_behind_its_stream() -> None:
    buffer = Reorder(SPEC)
    push(buffer, (100, 0))
    assert push(buffer, (89, 0), (90, 0)).late == 1
    assert seconds(buffer.flush()) == [90, 100]


def test_a_stream_that_others_are_past_waits_no_longer_and_may_still_go_on() -> None:
    buffer = Reorder(SPEC)
    push(buffer, (100, 0))
    assert seconds(push(buffer, (200, 0), stream=1)) == [100]
    backlog = push(buffer, (100, 1), (101, 0), (103, 0), (102, 0))
    assert (seconds(backlog), backlog.late) == ([100, 101, 103], 1)


def test_a_stream_ahead_of_all_others_makes_none_of_their_readings_late() -> None:
    buffer = Reorder(SPEC)
    push(buffer, (600, 0), stream=1)
    normal = push(buffer, *((t, 0.0) for t in range(100, 120)))
    assert (seconds(normal), normal.late) == (list(range(100, 120)), 0)


def test_a_reading_from_the_future_moves_no_watermark() -> None:
    buffer = Reorder(SPEC)
    assert push(buffer, (10, 0), (9999, 0), (11, 0), horizon_s=50).future == 1
    assert buffer.held == 2
    assert push(buffer, (5, 0), horizon_s=50).late == 0


def test_equal_times_are_ordered_by_content() -> None:
    one, other = Reorder(SPEC), Reorder(SPEC)
    push(one, (1, 3.0), (1, 2.0), (1, np.nan))
    push(other, (1, np.nan), (1, 2.0), (1, 3.0))
    np.testing.assert_array_equal(one.flush().batch.values, other.flush().batch.values)


def test_a_full_buffer_releases_the_oldest_readings_early_and_counts_them() -> None:
    buffer = Reorder(SPEC, max_held=8)
    full = push(buffer, *((t, 0.0) for t in (4, 1, 3, 2, 5, 6, 9, 8, 7)))
    assert (seconds(full), full.early, buffer.held) == ([1, 2], 2, 7)
    assert push(buffer, (1, 0)).late == 1
    assert seconds(buffer.flush()) == [3, 4, 5, 6, 7, 8, 9]


def test_readings_that_come_one_by_one_wait_in_few_arrays() -> None:
    buffer = Reorder(msgspec.structs.replace(SPEC, lateness_ns=3600 * SECOND))
    for second in range(2000):
        push(buffer, (second ^ 1, 0))
    assert buffer.held == 2000
    assert len(buffer._pieces) <= 513
    assert seconds(buffer.flush()) == list(range(2000))


@pytest.mark.parametrize("lateness", [msgspec.UNSET, LATENESS])
def test_every_reading_is_counted_once(lateness: Any) -> None:
    one = detector(lateness)
    time = np.array([10, 11, 11, 0, 12, 99, 13]) * SECOND
    values = np.array([[1, 1], [2, 2], [2, 2], [3, 3], [4, 4], [5, 5], [np.nan, 6]])
    one.process(Batch(np.zeros(7, np.int32), time, values), 0, 0, horizon_ns=50 * SECOND)
    one.flush(0)
    found = {name: count for name, count in one.counters.items() if count and not name.startswith("alerts")}
    assert found == {"ok": 3, "duplicate": 1, "late": 1, "future": 1, "incomplete": 1}


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize(
    ("lateness", "told", "ok", "duplicate"),
    [
        (0, [1.0, 2.0, 3.0], 3, 0),
        (0, [1.0, 2.0, 2.0], 2, 1),
        (0, [1.0, 2.0, 1.0], 3, 0),  # the last of one time alone is known again
        (0, [1.0, 2.0, 1.0, 1.0], 3, 1),
        (LATENESS, [1.0, 2.0, 1.0], 2, 1),
        (LATENESS, [2.0, 1.0, 1.0, 2.0, 3.0], 3, 2),
    ],
)
def test_several_readings_of_one_time_count_and_what_is_told_again_is_known_as_the_guide_says(
    size: int, lateness: int, told: list[float], ok: int, duplicate: int
) -> None:
    one = detector(lateness or msgspec.UNSET)
    values = np.array([[value, 0.0] for value in told])
    batch = Batch(np.zeros(len(told), np.int32), np.full(len(told), 1_700_000_000 * SECOND), values)
    for at in range(0, len(told), size):
        one.process(batch.take(slice(at, at + size)), 0, 0)
    one.flush(0)
    assert (one.counters["ok"], one.counters["duplicate"], one.counters["late"]) == (ok, duplicate, 0)
    assert results(batch, whole(batch), lateness or msgspec.UNSET) == results(
        batch, [slice(i, i + 1) for i in range(len(told))], lateness or msgspec.UNSET, restart=True
    )
