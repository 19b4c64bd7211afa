"""Hypothesis strategies for readings and for cutting them into batches."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from edgectl_agent.core.batch import Batch
from edgectl_agent.core.categories import code
from hypothesis import strategies as st

SECOND = 10**9
VALUES = tuple(f"v{i}" for i in range(12))


@st.composite
def batches(
    draw: st.DrawFn, streams: int, channels: int = 2, most: int = 120, categories: int = 0, pace: int = 1
) -> Batch:
    """Readings with gaps, ties, lateness, missing values and wild magnitudes; categories are `VALUES` or missing.

    They are some seconds apart, `pace` times as far.
    """
    n = draw(st.integers(1, most))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    step = rng.choice([0, SECOND // 3, SECOND, 7 * SECOND, 200 * SECOND], n, p=[0.1, 0.3, 0.4, 0.15, 0.05])
    time = 1_700_000_000 * SECOND + np.cumsum(step) * pace
    time -= rng.choice([0, 5 * SECOND], n, p=[0.9, 0.1])
    scale = draw(st.sampled_from([1e-6, 1.0, 1e6, 1e12]))
    values = rng.normal(size=(n, channels)) * scale + draw(st.sampled_from([0.0, 1e3, -1e9]))
    values[rng.random((n, channels)) < 0.1] = np.nan
    repeated = np.flatnonzero(rng.random(n) < 0.05)
    repeated = repeated[repeated > 0]
    stream = rng.integers(0, streams, n).astype(np.int32)
    stream[repeated], time[repeated], values[repeated] = (
        stream[repeated - 1],
        time[repeated - 1],
        values[repeated - 1],
    )
    if not categories:
        return Batch(stream, time.astype(np.int64), values)
    known = np.array([code(value) for value in ("", *VALUES)], np.int32)
    codes = known[np.minimum(rng.zipf(1.5, (n, categories)), len(known)) - 1]
    codes[repeated] = codes[repeated - 1]
    return Batch(stream, time.astype(np.int64), values, codes)


@st.composite
def cuts(draw: st.DrawFn, n: int) -> list[slice]:
    """A partition of ``range(n)`` into consecutive slices."""
    inner = draw(st.lists(st.integers(0, n), max_size=12))
    edges = sorted({0, n, *inner})
    return [slice(a, b) for a, b in pairwise(edges)]


def part(batch: Batch, where: slice) -> Batch:
    return batch.take(where)
