"""Thresholds for scores that last: what is counted is how often an excursion reaches a level, not how many readings do.

A smoothed score stays high for a while, so that readings above a level come in clusters, and a threshold that is set by
readings keeps the budget several times over. Here readings above the base that are no further apart than ``gap_ns`` are
one excursion, and its highest score is one observation (runs declustering; Coles, "An Introduction to Statistical
Modeling of Extreme Values", 2001, section 5.3.2). Else the tail is that of `threshold`: generalised Pareto by moments,
in decayed sums, within signed bounds, constant inside a block.

* An excursion counts once, however long, and at most at the critical level.
* The base follows the share of readings above it, by a tenth of the mean excess per block at most. Readings of an alarm
  do not move it once the alarm has lasted ``gap_ns``, until it has lasted ``learn_after_ns``: from then on it is taken
  for a change of the stream's level, and learned step by step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import Adaptation, Budget, Peaks, Tail
from edgectl_agent.core.runs import Runs
from edgectl_agent.core.threshold import Levels, OneLevel, Pareto, base_share
from edgectl_agent.core.units import DAY_NS

_TINY = 1e-12
_STEP = 0.1
"""How far the base moves per block, in mean excesses, at most."""
_SHARE_MEMORY = 1_500.0
"""Readings after which the share above the base has forgotten 63 % of the past."""
_LONG_AGO = -(2**62)
_WIDE = 24
"""From so many streams on that go on at once, a step of all of them costs less than one of each."""

# Columns of a stream's numbers: the tail in force as `Pareto` has it, decayed sums, thresholds in force, the excess of
# the excursion under way that was counted already, and sums of the unfinished block.
_BASE, _FRACTION, _SHAPE, _SCALE = range(4)
_WEIGHT, _EXCESSES, _SUM, _SQUARE, _SHARE, _INTERVAL, _WARNING, _CRITICAL, _COUNTED = range(4, 13)
_USED, _ABOVE, _B_EXCESSES, _B_SUM, _B_SQUARE, _SEEN = range(13, 19)
# and of its times, ns: begin of the block, last reading above the base, begin of the alarm and its last reading.
_BLOCK, _LAST, _SINCE, _LAST_ALARM = range(4)


def fit_peaks(
    stream: NDArray[np.int32], time: Int64, score: Float64, interval_ns: int, budget: Budget, gap_ns: int
) -> Tail:
    """Summarise the peaks of calibration scores.

    Args:
        stream: shape (n,), sorted; a stream's scores are in event-time order.
        time: shape (n,), ns.
        score: shape (n,), finite, of normal data.
        interval_ns: median event time between two readings of one stream.
        budget: keeps the base well below the warning threshold that this budget will ask for.
        gap_ns: excursions further apart are two.

    Raises:
        ValueError: fewer than 20 scores.
    """
    n = len(score)
    if n < 20:
        raise ValueError(f"needs at least 20 scores, got {n}")
    share = base_share(n, interval_ns, budget)
    base = float(np.quantile(score, 1.0 - share))
    rows = np.flatnonzero(score > base)
    excess = np.array([max(abs(base), 1.0) * 1e-6])  # of a score that is almost constant
    if len(rows):
        begins = np.ones(len(rows), bool)
        begins[1:] = (np.diff(stream[rows]) != 0) | (np.diff(time[rows]) > gap_ns)
        excess = np.maximum.reduceat(score[rows], np.flatnonzero(begins)) - base
    return Tail(
        base=base,
        base_fraction=share,
        weight=float(n),
        excesses=float(len(excess)),
        excess_mean=float(excess.mean()),
        excess_square=float((excess * excess).mean()),
        interval_ns=max(1, int(interval_ns)),
        peaks=Peaks(gap_ns=gap_ns),
    )


class PeakThreshold:
    """Tail and thresholds of every stream; the outside is that of `AdaptiveThreshold`."""

    def __init__(self, tail: Tail, budget: Budget, adaptation: Adaptation) -> None:
        assert tail.peaks
        self._peaks: Peaks = tail.peaks
        self._share, self._budget, self._adaptation = tail.base_fraction, budget, adaptation
        pareto = Pareto.of(tail.base, tail.excesses / tail.weight, tail.excess_mean, tail.excess_square)
        self._calibrated = self._levels(pareto, float(tail.interval_ns))
        weight = min(float(adaptation.memory), tail.weight)
        excesses = weight * tail.excesses / tail.weight
        self._fresh = np.array(
            [*pareto, weight, excesses, excesses * tail.excess_mean, excesses * tail.excess_square,
             tail.base_fraction, float(tail.interval_ns), *self._calibrated, *[0.0] * 7]
        )  # fmt: skip
        self._fresh_times = np.array([0, _LONG_AGO, _LONG_AGO, _LONG_AGO], np.int64)
        self._state: Float64 = np.empty((0, len(self._fresh)))
        self._times: Int64 = np.empty((0, len(self._fresh_times)), np.int64)

    @property
    def calibrated(self) -> tuple[float, float]:
        """Warning and critical thresholds of a stream that has just begun."""
        return self._calibrated

    def push(self, stream: NDArray[np.int32], event_time: Int64, score: Float64) -> Levels:
        """Thresholds in force for each score; then learn from it. Arguments as `AdaptiveThreshold.push` has them."""
        self._reserve(int(stream.max(initial=-1)) + 1)
        n = len(score)
        levels = Levels(np.empty(n), np.empty(n), np.empty((n, 4)))
        if n == 0:
            return levels
        runs = Runs.of(stream)
        of_run = stream[runs.starts]
        longest = int(runs.lengths.max())
        if n >= _WIDE * longest:
            for rank in range(longest):
                rows = runs.starts[runs.lengths > rank] + rank
                self._step_many(stream[rows], event_time[rows], score[rows], levels, rows)
            return levels
        for start, end, one in zip(runs.starts.tolist(), (runs.ends + 1).tolist(), of_run.tolist(), strict=True):
            s, t = self._state[one].tolist(), self._times[one].tolist()
            for row, (at, x) in enumerate(
                zip(event_time[start:end].tolist(), score[start:end].tolist(), strict=True), start
            ):
                levels.warning[row], levels.critical[row] = s[_WARNING], s[_CRITICAL]
                levels.tail[row] = s[:_WEIGHT]
                self._step(s, t, at, x)
            self._state[one], self._times[one] = s, t
        return levels

    def push_one(self, stream: int, time_ns: int, score: float) -> OneLevel:
        """`push` of one score."""
        self._reserve(stream + 1)
        s, t = self._state[stream].tolist(), self._times[stream].tolist()
        level = OneLevel(s[_WARNING], s[_CRITICAL], s[:_WEIGHT])
        self._step(s, t, time_ns, score)
        self._state[stream], self._times[stream] = s, t
        return level

    def surprise(self, stream: int, score: float) -> float:
        """-log10 of the probability that a reading begins an excursion at least as high as `score`."""
        return Pareto(*self._state[stream, :_WEIGHT].tolist()).surprise(score)

    def snapshot(self) -> dict[str, Any]:
        return {"state": pack_array(self._state), "times": pack_array(self._times)}

    def restore(self, state: dict[str, Any]) -> None:
        self._state, self._times = unpack_array(state["state"]), unpack_array(state["times"])

    def forget(self, streams: NDArray[Any]) -> None:
        """Put these streams back to the calibration."""
        known = streams[streams < len(self._state)]
        self._state[known], self._times[known] = self._fresh, self._fresh_times

    def _reserve(self, streams: int) -> None:
        have = len(self._state)
        if streams > have:
            more = max(streams, 2 * have) - have
            self._state = np.concatenate([self._state, np.tile(self._fresh, (more, 1))])
            self._times = np.concatenate([self._times, np.tile(self._fresh_times, (more, 1))])

    def _step(self, s: list[float], t: list[int], at: int, score: float) -> None:
        """Learn from one score of a stream, in plain floats."""
        gap = self._peaks.gap_ns
        if s[_SEEN] == 0:
            t[_BLOCK] = at
        used = True
        if score >= s[_WARNING]:
            if at - t[_LAST_ALARM] > gap:
                t[_SINCE] = at
            t[_LAST_ALARM] = at
            used = not gap < at - t[_SINCE] < self._peaks.learn_after_ns
        s[_USED] += used
        if score > s[_BASE]:
            s[_ABOVE] += used
            if at - t[_LAST] > gap:
                s[_COUNTED] = 0.0
                s[_B_EXCESSES] += 1.0
            t[_LAST] = at
            excess = max(min(score, s[_CRITICAL]) - s[_BASE], 0.0)
            counted = s[_COUNTED]
            if excess > counted:
                s[_B_SUM] += excess - counted
                s[_B_SQUARE] += excess * excess - counted * counted
                s[_COUNTED] = excess
        s[_SEEN] += 1.0
        if s[_SEEN] >= self._adaptation.block:
            self._fold(s, at - t[_BLOCK])

    def _step_many(self, stream: NDArray[np.int32], at: Int64, score: Float64, levels: Levels, rows: Int64) -> None:
        """`_step` of one score of each of several streams: equal to the last bit. `rows` are theirs in `levels`."""
        gap = self._peaks.gap_ns
        s = np.ascontiguousarray(self._state[stream].T)
        t = np.ascontiguousarray(self._times[stream].T)
        levels.warning[rows], levels.critical[rows], levels.tail[rows] = s[_WARNING], s[_CRITICAL], s[:_WEIGHT].T
        t[_BLOCK] = np.where(s[_SEEN] == 0, at, t[_BLOCK])
        alarm = score >= s[_WARNING]
        t[_SINCE] = np.where(alarm & (at - t[_LAST_ALARM] > gap), at, t[_SINCE])
        t[_LAST_ALARM] = np.where(alarm, at, t[_LAST_ALARM])
        lasted = at - t[_SINCE]
        used = ~(alarm & (lasted > gap) & (lasted < self._peaks.learn_after_ns))
        s[_USED] += used
        above = score > s[_BASE]
        s[_ABOVE] += used & above
        begins = above & (at - t[_LAST] > gap)
        s[_COUNTED] = np.where(begins, 0.0, s[_COUNTED])
        s[_B_EXCESSES] += begins
        t[_LAST] = np.where(above, at, t[_LAST])
        excess, counted = np.maximum(np.minimum(score, s[_CRITICAL]) - s[_BASE], 0.0), s[_COUNTED]
        higher = above & (excess > counted)
        s[_B_SUM] += np.where(higher, excess - counted, 0.0)
        s[_B_SQUARE] += np.where(higher, excess * excess - counted * counted, 0.0)
        s[_COUNTED] = np.where(higher, excess, counted)
        s[_SEEN] += 1.0
        self._state[stream], self._times[stream] = s.T, t.T
        for i in np.flatnonzero(s[_SEEN] >= self._adaptation.block).tolist():
            one = s[:, i].tolist()
            self._fold(one, int(at[i] - t[_BLOCK, i]))
            self._state[stream[i]] = one

    def _fold(self, s: list[float], span_ns: int) -> None:
        """End of a block: age the sums, add the block, move the base, set new thresholds."""
        used = s[_USED]
        keep = math.exp(-used / self._adaptation.memory)
        for column, added in ((_WEIGHT, used), (_EXCESSES, s[_B_EXCESSES]), (_SUM, s[_B_SUM]), (_SQUARE, s[_B_SQUARE])):
            s[column] = s[column] * keep + added
        if used > 0:
            recent = math.exp(-used / _SHARE_MEMORY)
            s[_SHARE] = s[_SHARE] * recent + (1.0 - recent) * s[_ABOVE] / used
        if span_ns > 0 and s[_SEEN] > 1:
            s[_INTERVAL] += 0.1 * (span_ns / (s[_SEEN] - 1.0) - s[_INTERVAL])
        s[_USED:] = [0.0] * (len(s) - _USED)
        excesses = max(s[_EXCESSES], _TINY)
        move = _STEP * min(max(math.log(max(s[_SHARE], 1e-4) / self._share), -1.0), 1.0)
        s[_BASE] += move * s[_SUM] / excesses
        shrunk = math.exp(-move)  # excesses keep their mean, as an exponential tail would
        for column in (_SHARE, _EXCESSES, _SUM, _SQUARE):
            s[column] *= shrunk
        excesses = max(s[_EXCESSES], _TINY)
        fraction = min(max(excesses / max(s[_WEIGHT], _TINY), 1e-6), 0.5)
        pareto = Pareto.of(s[_BASE], fraction, s[_SUM] / excesses, s[_SQUARE] / excesses)
        s[:_WEIGHT] = pareto
        s[_WARNING], s[_CRITICAL] = (
            min(max(level, self._adaptation.lowest * calibrated), self._adaptation.highest * calibrated)
            for level, calibrated in zip(self._levels(pareto, s[_INTERVAL]), self._calibrated, strict=True)
        )

    def _levels(self, pareto: Pareto, interval_ns: float) -> tuple[float, float]:
        days = interval_ns / DAY_NS
        warning = pareto.level(min(self._budget.warning_per_day * days, 0.5))
        return warning, max(warning, pareto.level(min(self._budget.critical_per_day * days, 0.5)))
