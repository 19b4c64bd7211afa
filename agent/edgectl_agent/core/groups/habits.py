"""How far a value's size is from the stream's own habit, on a scale of octaves: for amounts, which vary by factors.

The habit is that of the values *before* the reading in a sliding window of panes, kept as the histogram of `quantiles`
with its bounds, without sign. ``z = (log2 |x| - log2 median) / spread``, within ± 100. The spread is the interquartile
range in octaves, divided by 1.349 as for a normal distribution (Rousseeuw & Croux, "Alternatives to the Median Absolute
Deviation", 1993, section 1), mixed with a spread of one octave that counts as much as `PRIOR` values, so that the first
few values do not pass as a narrow habit. Median and quartiles do not move much by what a fault brings, as long as that
is less than a quarter of the window.

Missing until the window has `LEAST` values. Sizes below the resolution count as the resolution.
"""

from __future__ import annotations

import math

import numpy as np

from edgectl_agent.core.batch import Float64
from edgectl_agent.core.bundle import FeatureSpec, HabitFeatures
from edgectl_agent.core.groups.decay import Z_LIMIT
from edgectl_agent.core.groups.interface import Rows
from edgectl_agent.core.groups.quantiles import Histograms, ranked

LEAST, PRIOR = 5, 8.0
_STEPS = 4096
# A table, because numpy's vector logarithm may differ from its scalar one in the last bit.
_LOG2 = np.array([math.log2(0.5 + i / (2 * _STEPS)) for i in range(_STEPS)])


class Habits(Histograms):
    """One deviation per channel."""

    def __init__(self, group: HabitFeatures, spec: FeatureSpec) -> None:
        super().__init__(group, spec)
        self.width = len(group.channels)
        self._octaves = octaves(np.maximum(self._middles, group.resolution))
        self._resolution = group.resolution

    def push(self, rows: Rows) -> Float64:
        sizes = np.abs(rows.values[:, self._columns])
        valid = ~np.isnan(sizes)
        index = self._bucket(sizes)
        size = octaves(np.maximum(np.where(valid, sizes, 1.0), self._resolution))
        x = np.empty((len(rows), self.width))
        every = np.arange(len(rows))
        for c, counts in enumerate(self._windows(rows, index, valid)):
            counts[every, index[:, c]] -= valid[:, c]
            total = np.cumsum(counts, axis=1, dtype=np.uint32)
            low, middle, high = (self._octaves[ranked(total, q)] for q in (0.25, 0.5, 0.75))
            n = total[:, -1]
            spread = (n * ((high - low) / 1.349) + PRIOR) / (n + PRIOR)
            z = np.clip((size[:, c] - middle) / spread, -Z_LIMIT, Z_LIMIT)
            x[:, c] = np.where(valid[:, c] & (n >= LEAST), z, np.nan)
        return x


def octaves(size: Float64) -> Float64:
    """The binary logarithm of positive numbers in steps of less than 1/2800, the same bits for every shape."""
    mantissa, exponent = np.frexp(size)
    found: Float64 = exponent + _LOG2[((mantissa - 0.5) * (2 * _STEPS)).astype(np.int64)]
    return found
