"""Quantiles of a channel in a sliding window: a histogram of fixed, logarithmic buckets per pane.

The buckets are those of DDSketch (Masson, Rim & Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
Relative-Error Guarantees", VLDB 2019, section 2), the bounds fixed beforehand as in HdrHistogram, so that a sketch
never collapses and depends on nothing but the values: with ``γ = (1 + error) / (1 - error)``, bucket ``i`` holds
``resolution · γ^(i-1) < |x| ≤ resolution · γ^i`` and stands for ``2 resolution · γ^i / (γ + 1)``.

Bound: the answer differs from a value of rank ``⌊q (n - 1)⌋`` by at most ``error`` of that value, or by at most
``resolution`` if it lies within ± resolution; values beyond ± ``highest`` count as ± ``highest``. A window without any
value gives a missing one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import FeatureSpec, HabitFeatures, QuantileFeatures
from edgectl_agent.core.groups.interface import Group, Rows, channel_columns
from edgectl_agent.core.groups.panes import Panes, counted


class Histograms(Group):
    """A histogram per channel and pane."""

    def __init__(self, group: QuantileFeatures | HabitFeatures, spec: FeatureSpec) -> None:
        self._columns = channel_columns(spec, group.channels)
        gamma = (1 + group.error) / (1 - group.error)
        bounds = [group.resolution]
        while bounds[-1] < group.highest:
            bounds.append(group.resolution * gamma ** len(bounds))
        self._bounds = np.array(bounds)
        middles = np.array([0.0, *(2 * bound / (gamma + 1) for bound in bounds[1:])])
        signed = isinstance(group, QuantileFeatures) and group.signed
        self._below = len(bounds) - 1 if signed else 0
        """Buckets below the one around zero."""
        self._middles = np.concatenate([-middles[:0:-1], middles]) if signed else middles
        shape = (len(group.channels), len(self._middles))
        self._panes = Panes(group.window_ns, group.panes, shape, np.uint32, np.add)
        self.state = self._panes.state

    def _windows(self, rows: Rows, index: Int64, valid: NDArray[np.bool_]) -> Iterator[NDArray[np.uint32]]:
        """Adds the readings; counts of the window just after each one, channel by channel, shape (n, buckets)."""
        opened = self._panes.open(rows.stream, rows.event_time)
        final = np.empty_like(opened.start)
        running = []
        for c in range(len(self._columns)):
            running.append(counted(opened.runs, opened.start[:, c], index[:, c], valid[:, c]))
            final[:, c] = running[c][opened.runs.ends]
        closed = self._panes.close(opened, final)
        for c, counts in enumerate(running):
            yield counts + closed[opened.runs.of_row, c]

    def _bucket(self, values: Float64) -> Int64:
        known = np.where(np.isnan(values), 0.0, values)
        size = np.minimum(np.searchsorted(self._bounds, np.abs(known)), len(self._bounds) - 1)
        signed = np.sign(known).astype(np.int64) * size if self._below else np.where(known > 0, size, 0)
        found: Int64 = signed + self._below
        return found


class Quantiles(Histograms):
    """Quantiles of the window that ends with the reading."""

    def __init__(self, group: QuantileFeatures, spec: FeatureSpec) -> None:
        super().__init__(group, spec)
        self._quantiles = group.quantiles
        self.width = len(group.channels) * len(group.quantiles)

    def push(self, rows: Rows) -> Float64:
        values = rows.values[:, self._columns]
        x = np.empty((len(rows), len(self._columns), len(self._quantiles)))
        for c, counts in enumerate(self._windows(rows, self._bucket(values), ~np.isnan(values))):
            total = np.cumsum(counts, axis=1, dtype=np.uint32)
            for i, quantile in enumerate(self._quantiles):
                place = ranked(total, quantile)
                x[:, c, i] = np.where(total[:, -1] > 0, self._middles[place], np.nan)
        return x.reshape(len(rows), self.width)


def ranked(total: NDArray[np.uint32], quantile: float) -> Int64:
    """The bucket of the value of rank ``⌊q (n - 1)⌋``; cumulative counts of shape (n, buckets), the first of none."""
    rank = np.floor(quantile * (np.maximum(total[:, -1], 1) - 1)).astype(np.uint32)
    found: Int64 = (total > rank[:, None]).argmax(axis=1)
    return found
