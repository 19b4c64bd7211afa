"""Sketches err as little as their groups say."""

from __future__ import annotations

import numpy as np
import pytest
from edgectl_agent.core import bundle
from edgectl_agent.core.batch import Batch
from edgectl_agent.core.features import FeatureBuilder
from edgectl_agent.core.groups.distinct import estimate

SECOND = 10**9
HOUR = 3600 * SECOND


def push(group: bundle.Features, codes: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """The group's columns for readings of all streams, ``codes[stream, reading]``, a nanosecond apart."""
    streams, n = codes.shape
    spec = bundle.FeatureSpec(channels=(bundle.Channel(name="a"),), features=(group,), warm_up_ns=0)
    x = np.zeros(codes.size) if values is None else values.ravel()
    batch = Batch(
        np.repeat(np.arange(streams, dtype=np.int32), n),
        np.tile(np.arange(n, dtype=np.int64), streams) + 10**18,
        x[:, None],
        codes.reshape(-1, 1).astype(np.int32) if spec.categories else None,
    )
    return FeatureBuilder(spec).push(batch).x.reshape(streams, n, -1)


def values(streams: int, n: int) -> np.ndarray:
    """Different codes in each stream."""
    random = np.random.default_rng(7)
    return np.stack([random.choice(2**31, n, replace=False) for _ in range(streams)])


def test_a_distinct_count_has_the_standard_error_that_was_asked_for() -> None:
    group = bundle.DistinctFeatures(categories=("c",), window_ns=HOUR, registers=128)
    found = push(group, values(100, 2000))[:, :, 0]
    for n, most in ((1, 0.0), (10, 0.08), (100, 0.1), (500, 0.12), (2000, 0.12)):
        error = found[:, n - 1] / n - 1
        assert np.sqrt((error**2).mean()) <= most, n
        assert abs(error.mean()) <= 0.03, n


def test_an_empty_sketch_stands_for_nothing_and_a_full_one_for_much() -> None:
    assert estimate(np.zeros((1, 16), np.uint8)).tolist() == [0]
    assert np.isfinite(estimate(np.full((1, 128), 33, np.uint8))).all()


@pytest.mark.parametrize(("n", "most"), [(100, 0.012), (200, 0.092)])
def test_a_new_value_passes_as_known_as_seldom_as_stated(n: int, most: float) -> None:
    known = push(bundle.NewFeatures(categories=("c",), memory_ns=HOUR), values(200, n + 1))
    assert 1 - known[:, n].mean() <= most + 0.03  # 200 trials
    again = values(3, 50)
    twice = push(bundle.NewFeatures(categories=("c",), memory_ns=HOUR), np.concatenate([again, again], axis=1))
    assert (twice[:, 50:] == 0).all()


def test_a_count_of_the_own_value_is_never_too_low_and_seldom_much_too_high() -> None:
    random = np.random.default_rng(7)
    codes = np.minimum(random.zipf(1.3, (20, 1000)), 5000)
    found = push(bundle.CountFeatures(categories=("c",), window_ns=HOUR), codes)[:, -1, 0]
    exact = (codes == codes[:, -1:]).sum(axis=1)
    assert (found >= exact).all()
    assert (found - exact <= 0.043 * 1000).mean() >= 0.9


def test_quantiles_of_a_channel_without_negative_values_are_within_their_error() -> None:
    x = np.random.default_rng(7).lognormal(3, 1, (5, 800))
    group = bundle.QuantileFeatures(
        channels=("a",), window_ns=HOUR, quantiles=(0.5, 0.99), error=0.02, resolution=0.01, highest=1e4, signed=False
    )
    found = push(group, np.zeros_like(x), x)[:, -1]
    exact = np.quantile(x, [0.5, 0.99], axis=1, method="lower").T
    assert (np.abs(found / exact - 1) <= 0.0200001).all()
