"""How far a value is from what is usual at this time of the day, or of the week.

A day has ``bins`` equal bins of local time; a week has seven times as many. A *visit* is a stay of the stream's
readings in one bin. When the stream moves on, the visit's mean and variance enter the bin's own baseline with weight 1,
and what the bin knew before fades with a half-life in event time (exponentially weighted moments as in Finch,
"Incremental calculation of weighted mean and variance", 2009, with the decay taken from time instead of from counts).
A baseline thus weighs every day alike, however many readings it brought, and needs no regular sampling: a bin that was
not visited keeps what it knew, and fades.

* ``residual`` = x - mean of the bin, as it was before the visit; missing until the bin was visited once.
* ``z`` = residual / max(std, 1 % of |mean|) within ± 100; missing until visits of a weight of 1.5 (two recent ones).
  The variance is that within visits plus that between them.

Local time comes from the offsets in the bundle, so nodes need no time zone data. When daylight saving repeats an hour
its bins are visited twice, when it skips one they are not visited.

A batch takes as many numpy steps as one stream returns to the same bin in it.
"""

from __future__ import annotations

import numpy as np

from edgectl_agent.core.batch import Float64, Int32, Int64
from edgectl_agent.core.bundle import FeatureSpec, Period, SeasonalFeatures
from edgectl_agent.core.groups.decay import Weighted, deviation, power, running_cells, weighted
from edgectl_agent.core.groups.interface import MONDAY_NS, NEVER, Group, Rows, StreamArrays, channel_columns, elapsed
from edgectl_agent.core.runs import Runs
from edgectl_agent.core.units import DAY_NS

_SEEN, _KNOWN = 0.01, 1.5
"""Least weight of a bin's visits for a residual, and for a deviation in units of their spread."""


class Seasonal(Group):
    """One baseline per period."""

    def __init__(self, group: SeasonalFeatures, spec: FeatureSpec) -> None:
        self._group = group
        self._columns = channel_columns(spec, group.channels)
        self.width = len(group.channels) * len(group.periods) * len(group.kinds)
        self._since = np.array([since for since, _ in group.offsets], np.int64)
        self._offset = np.array([0, *(offset for _, offset in group.offsets)], np.int64)
        self._baselines = [_Baseline(group, period, n) for period, n in zip(group.periods, group.bins, strict=True)]
        columns = {f"{b.period}_{name}": c for b in self._baselines for name, c in b.columns.items()}
        self.state = StreamArrays(**columns)

    def push(self, rows: Rows) -> Float64:
        self.state.reserve(rows.stream)
        values = rows.values[:, self._columns]
        local = rows.event_time + self._offset[np.searchsorted(self._since, rows.event_time, side="right")] - MONDAY_NS
        found = np.empty((len(rows), len(self._columns), len(self._baselines), len(self._group.kinds)))
        for i, baseline in enumerate(self._baselines):
            habit = baseline.push(self.state, rows.stream, rows.event_time, local, values)
            residual = values - habit.mean
            for j, kind in enumerate(self._group.kinds):
                shown, least = (residual, _SEEN) if kind == "residual" else (deviation(residual, habit), _KNOWN)
                found[:, :, i, j] = np.where(habit.weight >= least, shown, np.nan)
        return found.reshape(len(rows), self.width)


class _Baseline:
    """The bins of one period; state lives in the group's `StreamArrays`."""

    def __init__(self, group: SeasonalFeatures, period: Period, bins: int) -> None:
        self.period = period
        self._half_life_ns = group.half_life_ns
        self._bin_ns = DAY_NS // bins
        self._bins = bins * (7 if period == "week" else 1)
        channels = len(group.channels)
        self.columns = {
            "bins": ((self._bins, 3, channels), np.float64, 0.0),  # `Weighted` at the time of the last visit
            "visited": ((self._bins,), np.int64, NEVER),  # when that was
            "visit": ((), np.int64, NEVER),  # the one that lasts
            "began": ((), np.int64, NEVER),
            "cell": ((channels, 4), np.float64, 0.0),  # its count, sum, sum of squares about the reference; reference
        }

    def push(self, state: StreamArrays, stream: Int32, time: Int64, local: Int64, values: Float64) -> Weighted:
        """The bin's moments before each reading's visit, shapes (n, c)."""
        bins, visited, visit, began, cell = (state[f"{self.period}_{name}"] for name in self.columns)
        number = local // self._bin_ns
        runs = Runs.of(stream, number)
        of, mine = stream[runs.starts], number[runs.starts]
        first = np.append(True, of[1:] != of[:-1])
        goes_on = first & (visit[of] == mine)
        left = of[first & ~goes_on & (visit[of] != NEVER)]
        if len(left):
            where = visit[left] % self._bins
            bins[left, where] = self._fold(bins[left, where], visited[left, where], cell[left], began[left])
            visited[left, where] = began[left]
        start = np.where(goes_on[:, None, None], cell[of], 0.0)
        begins = np.where(goes_on, began[of], time[runs.starts])
        final = running_cells(runs, start, np.ones((len(stream), 1)), values)[runs.ends]
        known, when = self._chain(bins, visited, of, mine, begins, final)
        last = np.append(first[1:], True)
        visit[of[last]], began[of[last]], cell[of[last]] = mine[last], begins[last], final[last]
        return self._faded(known, when, begins).take(runs.of_row)

    def _chain(
        self, bins: Float64, visited: Int64, of: Int32, mine: Int64, begins: Int64, final: Float64
    ) -> tuple[Float64, Int64]:
        """What each run's bin knew before the visit, and since when; enters every visit that ended."""
        where = mine % self._bins
        order = np.argsort(of.astype(np.int64) * self._bins + where, kind="stable")
        chain = Runs.of(of[order], where[order])
        rank = chain.rank
        known, when = bins[of, where], visited[of, where]
        for step in range(1, int(rank.max(initial=0)) + 1):
            place = np.flatnonzero(rank == step)
            rows, before = order[place], order[place - 1]
            known[rows] = self._fold(known[before], when[before], final[before], begins[before])
            when[rows] = begins[before]
        newest = order[chain.ends]
        bins[of[newest], where[newest]], visited[of[newest], where[newest]] = known[newest], when[newest]
        ended = newest[np.append(of[1:] == of[:-1], False)[newest]]
        bins[of[ended], where[ended]] = self._fold(known[ended], when[ended], final[ended], begins[ended])
        visited[of[ended], where[ended]] = begins[ended]
        return known, when

    def _fold(self, known: Float64, when: Int64, cell: Float64, began: Int64) -> Float64:
        """A bin's moments with those of a visit that has ended; shapes (bins, 3, c), (bins,), (bins, c, 4), (bins,)."""
        count, mean, m2 = weighted(cell)
        some = count > 0
        visit = Weighted(some.astype(np.float64), mean, np.divide(m2, count, out=np.zeros_like(m2), where=some))
        return np.stack(self._faded(known, when, began).merge(visit), axis=1)

    def _faded(self, known: Float64, when: Int64, now: Int64) -> Weighted:
        halvings = elapsed(when, now) / self._half_life_ns
        return Weighted(*known.swapaxes(0, 1)).fade(power(-halvings)[:, None])
