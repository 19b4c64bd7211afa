"""The threshold keeps the alert budget, learns a stream's own tail, and cannot be talked out of an anomaly."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from edgectl_agent.core.bundle import Adaptation, Budget
from edgectl_agent.core.threshold import AdaptiveThreshold, Pareto, fit_tail
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import SECOND, cuts

BUDGET = Budget(warning_per_day=20, critical_per_day=1)
MINUTE = 60 * SECOND


def threshold(scores: np.ndarray, **adaptation: float) -> AdaptiveThreshold:
    return AdaptiveThreshold(fit_tail(scores, MINUTE), BUDGET, Adaptation(**adaptation))  # type: ignore[arg-type]


def exponential(seed: int, n: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(scale, n)


def run(adaptive: AdaptiveThreshold, scores: np.ndarray, stream: int = 0, start: int = 0) -> np.ndarray:
    """Thresholds in force, one reading a minute."""
    n = len(scores)
    time = (start + np.arange(n, dtype=np.int64)) * MINUTE
    return adaptive.push(np.full(n, stream, np.int32), time, scores).warning


def test_the_tail_of_an_exponential_is_found() -> None:
    tail = fit_tail(exponential(1, 100_000), MINUTE)
    pareto = Pareto.of(tail.base, tail.excesses / tail.weight, tail.excess_mean, tail.excess_square)
    assert pareto.shape == pytest.approx(0, abs=0.06)
    for p in (1e-2, 1e-3, 1e-4):
        assert pareto.level(p) == pytest.approx(-np.log(p), rel=0.08)
    assert pareto.surprise(-np.log(1e-4)) == pytest.approx(4, abs=0.3)


def test_the_level_and_its_surprise_are_inverse() -> None:
    for shape_square in (1.2, 2.0, 4.0):
        pareto = Pareto.of(3.0, 0.02, 1.0, shape_square)
        for p in (1e-2, 1e-3, 1e-5):
            assert pareto.surprise(pareto.level(p)) == pytest.approx(-np.log10(p))


def test_realised_false_alerts_on_normal_scores_stay_near_the_budget() -> None:
    adaptive = threshold(exponential(2, 3000))
    days = 60
    scores = exponential(3, days * 1440)
    above = scores >= run(adaptive, scores)
    assert 0.5 <= above.sum() / days / BUDGET.warning_per_day <= 2.0


def test_a_stream_with_another_level_gets_its_own_threshold_within_the_signed_bounds() -> None:
    adaptive = threshold(exponential(4, 3000))
    quiet, loud = exponential(5, 20_000, 0.7), exponential(6, 20_000, 1.8)
    calibrated = adaptive.calibrated[0]
    at_quiet, at_loud = run(adaptive, quiet, 0), run(adaptive, loud, 1)
    assert at_quiet[-1] < calibrated < at_loud[-1]
    for scores, levels in ((quiet, at_quiet), (loud, at_loud)):
        rate = (scores >= levels)[10_000:].sum() / (10_000 / 1440)
        assert 0.4 <= rate / BUDGET.warning_per_day <= 2.5
    bounded = threshold(exponential(4, 3000), highest=1.2)
    assert run(bounded, exponential(6, 20_000, 30.0)).max() <= 1.2 * calibrated + 1e-9


def test_a_long_anomaly_is_not_learned_as_normal() -> None:
    adaptive = threshold(exponential(7, 3000))
    before = run(adaptive, exponential(8, 5000))[-1]
    anomaly = np.full(5000, 50.0)
    levels = run(adaptive, anomaly, start=5000)
    assert (levels < 50).all()
    assert levels[-1] <= before * 1.5


def test_an_anomaly_soon_after_the_start_is_not_learned_either() -> None:
    adaptive = threshold(exponential(7, 3000))
    scores = exponential(8, 400)
    scores[40:150] = 40.0
    levels = run(adaptive, scores)
    assert levels[-1] <= 1.5 * adaptive.calibrated[0]


def test_a_stream_that_is_above_from_its_first_reading_on_is_taken_for_what_it_is() -> None:
    adaptive = threshold(exponential(4, 3000))
    strange = 9.0 + exponential(5, 3000, 0.3)
    levels = run(adaptive, strange)
    assert (strange[:64] >= levels[:64]).all()
    assert (strange[2000:] >= levels[2000:]).mean() < 0.1


@settings(deadline=None, max_examples=50)
@given(data=st.data(), seed=st.integers(0, 10_000), streams=st.integers(1, 5))
def test_thresholds_do_not_depend_on_batch_boundaries(data: st.DataObject, seed: int, streams: int) -> None:
    rng = np.random.default_rng(seed)
    n = 400
    stream = rng.integers(0, streams, n).astype(np.int32)
    time = np.cumsum(rng.integers(1, 100, n)) * SECOND
    scores = rng.exponential(1, n) * rng.choice([1, 20], n, p=[0.95, 0.05])

    def push(adaptive: AdaptiveThreshold, where: slice) -> np.ndarray:
        order = np.argsort(stream[where], kind="stable")
        levels = adaptive.push(stream[where][order], time[where][order], scores[where][order])
        out = np.empty(len(order))
        out[order] = levels.warning
        return out

    whole = push(threshold(exponential(9, 500), block=16), slice(0, n))
    adaptive = threshold(exponential(9, 500), block=16)
    pieces = []
    for where in data.draw(cuts(n)):
        pieces.append(push(adaptive, where))
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(adaptive.snapshot()))
        adaptive = threshold(exponential(9, 500), block=16)
        adaptive.restore(state)
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), streams=st.integers(5, 12), kind=st.sampled_from(["usual", "constant", "high"]))
def test_streams_whose_blocks_end_together_learn_what_each_learns_alone(seed: int, streams: int, kind: str) -> None:
    rng, block = np.random.default_rng(seed), 16
    time = np.cumsum(rng.integers(0, 3, (streams, 20 * block)), axis=1) * SECOND
    scores = rng.exponential(1, time.shape) * rng.choice([1, 20], time.shape, p=[0.9, 0.1])
    scores[0] = {"usual": scores[0], "constant": np.full(scores.shape[1], 1.0), "high": scores[0] + 1e6}[kind]
    together, alone = (threshold(exponential(9, 500), block=block) for _ in range(2))
    for begin in range(0, scores.shape[1], block):
        part = slice(begin, begin + block)
        stream = np.repeat(np.arange(streams, dtype=np.int32), block)
        found = together.push(stream, time[:, part].ravel(), scores[:, part].ravel()).warning
        order = reversed(range(streams))  # so that both have room for as many streams
        each = [alone.push(np.full(block, i, np.int32), time[i, part], scores[i, part]).warning for i in order]
        assert found.tobytes() == np.concatenate(each[::-1]).tobytes()
    assert together.snapshot() == alone.snapshot()


def test_almost_constant_scores_give_a_finite_threshold() -> None:
    adaptive = threshold(np.full(100, 2.5))
    assert np.isfinite(run(adaptive, np.full(500, 2.5))).all()
    with pytest.raises(ValueError, match="at least 20 scores, got 3"):
        fit_tail(np.ones(3), MINUTE)
