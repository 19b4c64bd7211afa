"""Statistics whose past fades with a half-life in event time, and how far a value is from such a habit.

With the weight ``w = 2^(-age / half_life)`` of each valid value ``x`` at the time of the reading:

* ``count`` = Σw, ``sum`` = Σwx, ``mean`` = Σwx / Σw, ``std`` = √(Σw(x - mean)² / Σw), the reading itself included;
* ``rate`` = Σw · ln 2 / half_life, values per second: an exponential kernel's estimate of the intensity;
* ``residual`` = x - mean, ``z`` = residual / max(std, 1 % of |mean|) within ± 100, both against mean and std of the
  values *before* the reading, so that it does not hide itself.

Cold: mean and std are missing until Σw reaches 2⁻²⁰, that is without a value for 20 half-lives; ``residual`` is missing
while Σw of the values before is below 1, ``z`` while it is below 2.
"""

from __future__ import annotations

import math

import numpy as np

from edgectl_agent.core.batch import Float64
from edgectl_agent.core.bundle import DecayedFeatures, DecayedStat, FeatureSpec
from edgectl_agent.core.groups.decay import DecayedMoments, Weighted, deviation
from edgectl_agent.core.groups.interface import Group, Rows, channel_columns

_GONE = 2.0**-20
_KNOWN = {"residual": 1.0, "z": 2.0}
"""Least weight of a habit that a value is compared with."""


class Decayed(Group):
    """Decayed moments, and what is made of them."""

    def __init__(self, group: DecayedFeatures, spec: FeatureSpec) -> None:
        self._group = group
        self._columns = channel_columns(spec, group.channels)
        self.width = len(group.channels) * len(group.stats)
        self._moments = DecayedMoments(group.half_life_ns, len(group.channels))
        self.state = self._moments.state

    def push(self, rows: Rows) -> Float64:
        values = rows.values[:, self._columns]
        after, before = self._moments.push(rows.stream, rows.event_time, values)
        found = [self._stat(stat, values, after, before) for stat in self._group.stats]
        return np.stack(found, axis=2).reshape(len(rows), self.width)

    def _stat(self, stat: DecayedStat, values: Float64, after: Weighted, before: Weighted) -> Float64:
        if stat == "count":
            return after.weight
        if stat == "rate":
            return after.weight * (math.log(2) * 1e9 / self._group.half_life_ns)
        if stat == "sum":
            return after.weight * after.mean
        if stat in _KNOWN:
            residual = values - before.mean
            found = residual if stat == "residual" else deviation(residual, before)
            return np.where(before.weight >= _KNOWN[stat], found, np.nan)
        found = after.mean if stat == "mean" else after.std
        return np.where(after.weight >= _GONE, found, np.nan)
