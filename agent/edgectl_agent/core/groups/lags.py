"""The value some readings ago, and the difference to it.

The value at lag ``k`` is the channel's k-th valid value before the reading; ``diff`` is the reading's own value (held,
if the channel says so) minus that. Lag 1 is the ``diff`` of instant features. Missing until there were k valid values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import FeatureSpec, LagFeatures
from edgectl_agent.core.groups.interface import Group, Rows, StreamArrays, channel_columns
from edgectl_agent.core.runs import Runs


class Lags(Group):
    """The last ``max(lags)`` valid values of each channel."""

    def __init__(self, group: LagFeatures, spec: FeatureSpec) -> None:
        self._group = group
        self._columns = channel_columns(spec, group.channels)
        self.width = len(group.channels) * len(group.lags) * len(group.kinds)
        self._depth = max(group.lags)
        self.state = StreamArrays(values=((len(group.channels), self._depth), np.float64, np.nan))

    def push(self, rows: Rows) -> Float64:
        self.state.reserve(rows.stream)
        runs = Runs.of(rows.stream)
        x = np.empty((len(rows), len(self._columns), len(self._group.lags), len(self._group.kinds)))
        for place, column in enumerate(self._columns):
            valid = np.flatnonzero(~np.isnan(rows.values[:, column]))
            given = rows.values[valid, column]
            ago = _Ago(self.state["values"][:, place], given, np.searchsorted(valid, runs.starts), rows.stream)
            before = np.searchsorted(valid, np.arange(len(rows)))
            for i, lag in enumerate(self._group.lags):
                then = ago.value(lag, before, runs.of_row, runs)
                for j, kind in enumerate(self._group.kinds):
                    x[:, place, i, j] = then if kind == "value" else rows.held[:, column] - then
            ends = np.searchsorted(valid, runs.ends, side="right")
            newest = [ago.value(lag, ends, np.arange(len(ends)), runs) for lag in range(self._depth, 0, -1)]
            self.state["values"][rows.stream[runs.starts], place] = np.stack(newest, axis=1)
        return x.reshape(len(rows), self.width)


class _Ago:
    """Values of one channel: those stored, oldest first, and those of this batch behind them."""

    def __init__(self, stored: Float64, given: Float64, first: Int64, stream: NDArray[np.int32]) -> None:
        self._stored, self._given, self._first, self._stream = stored, given, first, stream

    def value(self, lag: int, behind: Int64, run: Int64, runs: Runs) -> Float64:
        """The `lag`-th value before position `behind` of the batch's values, which lies in `run`."""
        here = behind - self._first[run]
        earlier: Float64 = self._stored[self._stream[runs.starts[run]], np.minimum(here - lag, -1)]
        if len(self._given) == 0:
            return earlier
        return np.where(here >= lag, self._given[np.maximum(behind - lag, 0)], earlier)
