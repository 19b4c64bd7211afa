"""A reading that is handled alone leaves the same features, scores and state as one in a batch."""

from __future__ import annotations

import numpy as np
import pytest
from edgectl_agent.core.batch import Batch
from edgectl_agent.core.bundle import (
    Channel,
    FeatureSpec,
    InstantFeatures,
    PhaseFeatures,
    UnchangedFeatures,
    WindowFeatures,
)
from edgectl_agent.core.features import FeatureBuilder
from edgectl_agent.core.threshold import AdaptiveThreshold
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import SECOND, batches, cuts, part
from tests.agent.test_detector import BUNDLE, detector, readings, same_but_clock

SPEC = FeatureSpec(
    channels=(Channel(name="a", low=-50, high=50, hold_ns=15 * SECOND), Channel(name="b", optional=True)),
    features=(
        InstantFeatures(channels=("b", "a"), kinds=("value", "diff")),
        WindowFeatures(
            channels=("a", "b"),
            window_ns=60 * SECOND,
            panes=6,
            stats=("mean", "std", "min", "max", "count", "sum", "slope"),
        ),
        WindowFeatures(channels=("b",), window_ns=20 * SECOND, panes=1, stats=("slope", "std")),
        PhaseFeatures(periods=("day", "week")),
        UnchangedFeatures(channels=("b", "a"), span_ns=2 * SECOND),
    ),
    warm_up_ns=30 * SECOND,
    gap_after_ns=300 * SECOND,
)


def one_by_one(builder: FeatureBuilder, batch: Batch, horizon_ns: int) -> tuple[list[bytes], list[int], int]:
    rows, statuses, out_of_range = [], [], 0
    nothing = np.full(len(builder.names), np.nan)
    for stream, time, values in zip(
        batch.stream.tolist(), batch.event_time.tolist(), batch.values.tolist(), strict=True
    ):
        one = builder.push_one(stream, time, values, horizon_ns)
        rows.append((np.array(one.x) if one.x else nothing).tobytes())
        statuses.append(one.status)
        out_of_range += one.out_of_range
    return rows, statuses, out_of_range


@pytest.mark.parametrize("streams", [1, 3])
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_features_are_bit_equal_whether_readings_come_alone_or_in_batches(streams: int, data: st.DataObject) -> None:
    batch = data.draw(batches(streams))
    horizon_ns = int(np.quantile(batch.event_time, 0.9)) if len(batch) else 0
    whole = FeatureBuilder(SPEC).push(batch, horizon_ns)
    mixed = FeatureBuilder(SPEC)
    assert mixed.takes_one
    rows: list[bytes] = []
    statuses: list[int] = []
    out_of_range = 0
    for where in data.draw(cuts(len(batch))):
        some = part(batch, where)
        if data.draw(st.booleans()):
            found, status, outside = one_by_one(mixed, some, horizon_ns)
        else:
            answer = mixed.push(some, horizon_ns)
            found, status = [row.tobytes() for row in answer.x], answer.status.tolist()
            outside = answer.out_of_range
        rows, statuses, out_of_range = rows + found, statuses + status, out_of_range + outside
    assert rows == [row.tobytes() for row in whole.x]
    assert statuses == whole.status.tolist()
    assert out_of_range == whole.out_of_range


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1000), alone=st.lists(st.booleans(), min_size=20, max_size=20))
def test_thresholds_are_bit_equal_whether_scores_come_alone_or_in_batches(seed: int, alone: list[bool]) -> None:
    score = np.random.default_rng(seed).exponential(1.0, 200) * 3
    time, stream = np.arange(200) * SECOND, np.zeros(200, np.int32)
    whole = AdaptiveThreshold(BUNDLE.tail, BUNDLE.budget, BUNDLE.adaptation).push(stream, time, score)
    mixed = AdaptiveThreshold(BUNDLE.tail, BUNDLE.budget, BUNDLE.adaptation)
    found: list[float] = []
    for i, by_one in enumerate(alone):
        where = slice(10 * i, 10 * i + 10)
        if by_one:
            found += [
                mixed.push_one(0, int(t), float(s)).warning for t, s in zip(time[where], score[where], strict=True)
            ]
        else:
            found += mixed.push(stream[where], time[where], score[where]).warning.tolist()
    assert found == whole.warning.tolist()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), size=st.integers(1, 7), streams=st.sampled_from([1, 4]))
def test_scores_and_alerts_are_equal_for_batches_of_few_readings(seed: int, size: int, streams: int) -> None:
    batch = readings(seed, 240, streams)
    whole, few = detector().process(batch, 1, 2), detector()
    pieces = [few.process(part(batch, slice(at, at + size)), 1, 2) for at in range(0, len(batch), size)]
    for name in ("scores", "threshold"):
        assert np.concatenate([getattr(p, name) for p in pieces]).tobytes() == getattr(whole, name).tobytes()
    assert same_but_clock([a for p in pieces for a in p.alerts]) == same_but_clock(list(whole.alerts))
