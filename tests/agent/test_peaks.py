"""Lasting scores keep the alert budget when excursions are counted; a long one is learned after a stated time only."""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
import pytest
from edgectl_agent.core.bundle import Adaptation, Budget, Smoothing, Tail
from edgectl_agent.core.peaks import PeakThreshold, fit_peaks
from edgectl_agent.core.smoothing import Smoother
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import SECOND, cuts

MINUTE = 60 * SECOND
GAP = 10 * MINUTE
DAY = 1440


def lasting(seed: int, n: int, scale: float = 1.0) -> np.ndarray:
    """Smoothed scores of normal data, one a minute."""
    raw = np.random.default_rng(seed).exponential(scale, n)
    return Smoother(Smoothing(rise=0.5, fall=0.1)).push(np.zeros(n, np.int32), raw)


@cache
def tail(budget: Budget) -> Tail:
    scores = lasting(1, 8000)
    return fit_peaks(np.zeros(len(scores), np.int32), np.arange(len(scores)) * MINUTE, scores, MINUTE, budget, GAP)


def threshold(per_day: float = 2, block: int = 64) -> PeakThreshold:
    budget = Budget(warning_per_day=per_day, critical_per_day=per_day / 20)
    return PeakThreshold(tail(budget), budget, Adaptation(block=block))


def run(adaptive: PeakThreshold, scores: np.ndarray, start: int = 0) -> np.ndarray:
    """Warning thresholds in force, one reading a minute."""
    time = (start + np.arange(len(scores), dtype=np.int64)) * MINUTE
    return adaptive.push(np.zeros(len(scores), np.int32), time, scores).warning


@pytest.mark.parametrize("per_day", [1, 5])
def test_excursions_on_normal_scores_stay_near_the_budget(per_day: float) -> None:
    days = 60
    scores = lasting(2, days * DAY)
    above = np.flatnonzero(scores >= run(threshold(per_day), scores))
    onsets = int((np.diff(above, prepend=-DAY) > 10).sum())
    assert 0.5 <= onsets / days / per_day <= 2.0


def test_readings_that_are_near_each_other_are_one_excursion_of_one_stream() -> None:
    stream = np.repeat(np.array([0, 1], np.int32), 500)
    time = np.tile(np.arange(500), 2) * MINUTE
    scores = np.zeros(1000)
    scores[[100, 105, 112, 499, 500]] = [4, 6, 5, 3, 2]  # the last two are neighbours, of different streams
    found = fit_peaks(stream, time, scores, MINUTE, Budget(warning_per_day=1, critical_per_day=1), GAP)
    assert (found.base, found.excesses) == (0.0, 3)
    assert found.excess_mean == pytest.approx((6 + 3 + 2) / 3)


def test_a_long_anomaly_is_not_learned_within_a_day_and_a_new_level_is_in_the_end() -> None:
    adaptive = threshold()
    before = run(adaptive, lasting(3, 5 * DAY))[-1]
    anomaly = before + 2.0 + lasting(4, 8 * DAY, 0.3)
    levels = run(adaptive, anomaly, start=5 * DAY)
    assert levels[:DAY].max() <= 1.3 * before
    assert (anomaly[:DAY] >= levels[:DAY]).all()
    assert (anomaly[-DAY:] >= levels[-DAY:]).mean() < 0.1


def test_scores_beyond_the_signed_bounds_never_move_the_threshold_beyond_them() -> None:
    adaptive = threshold()
    levels = run(adaptive, np.full(20 * DAY, 1e6))
    assert levels.max() <= 4.0 * adaptive.calibrated[0] + 1e-9


def test_almost_constant_scores_give_a_finite_threshold() -> None:
    budget = Budget(warning_per_day=1, critical_per_day=0.1)
    constant = np.full(2000, 2.5)
    found = fit_peaks(np.zeros(2000, np.int32), np.arange(2000) * MINUTE, constant, MINUTE, budget, GAP)
    assert np.isfinite(run(PeakThreshold(found, budget, Adaptation()), constant)).all()
    with pytest.raises(ValueError, match="at least 20 scores, got 3"):
        fit_peaks(np.zeros(3, np.int32), np.arange(3), np.ones(3), MINUTE, budget, GAP)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), seed=st.integers(0, 10_000), streams=st.sampled_from([1, 3, 60]))
def test_thresholds_do_not_depend_on_batch_boundaries(data: st.DataObject, seed: int, streams: int) -> None:
    rng, n = np.random.default_rng(seed), 600
    stream = rng.integers(0, streams, n).astype(np.int32)
    time = np.cumsum(rng.integers(1, 300, n)) * SECOND
    scores = rng.exponential(0.4, n) * rng.choice([1, 9], n, p=[0.9, 0.1])

    def push(adaptive: PeakThreshold, where: slice) -> np.ndarray:
        order = np.argsort(stream[where], kind="stable")
        levels = adaptive.push(stream[where][order], time[where][order], scores[where][order])
        out = np.empty((len(order), 6))
        out[order] = np.column_stack([levels.warning, levels.critical, levels.tail])
        return out

    whole, adaptive, pieces = push(threshold(block=8), slice(0, n)), threshold(block=8), []
    for where in data.draw(cuts(n)):
        pieces.append(push(adaptive, where))
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(adaptive.snapshot()))
        adaptive = threshold(block=8)
        adaptive.restore(state)
    assert np.concatenate(pieces).tobytes() == whole.tobytes()
    one = threshold(block=8)
    alone = [one.push_one(*each) for each in zip(stream.tolist(), time.tolist(), scores.tolist(), strict=True)]
    assert np.array([[a.warning, a.critical, *a.tail] for a in alone]).tobytes() == whole.tobytes()


def test_a_forgotten_stream_is_back_at_the_calibration() -> None:
    adaptive = threshold(block=8)
    run(adaptive, lasting(5, 500, 3.0))
    adaptive.forget(np.array([0, 9]))
    assert run(adaptive, np.ones(1))[0] == adaptive.calibrated[0]
