"""Raw scores → thresholds that keep an alert budget, per stream and online.

Peaks over a threshold: above a base level that a fraction ``phi`` of scores exceeds, excesses follow a generalised
Pareto distribution (Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory", KDD 2017, equation 1). Its
parameters come from the mean and variance of the excesses (Hosking & Wallis, "Parameter and Quantile Estimation for the
Generalized Pareto Distribution", 1987, section 3), which a stream can keep in four decayed sums.

A stream starts from the bundle's calibration and moves to its own tail. What keeps it honest:

* of an excursion above the warning threshold only the first score enters the tail, and at most at the critical level:
  a long anomaly counts once (declustering, Coles, "An Introduction to Statistical Modeling of Extreme Values", 2001,
  section 5.3.2). Only while a stream has been mostly above from its very first block on, for at most `SETTLE_BLOCKS`
  blocks, all scores enter, bounded: that is no anomaly but a stream unlike those of the calibration;
* the threshold stays within the signed bounds (`Adaptation`) around the calibrated one;
* it changes only between blocks of ``adaptation.block`` scores of the stream, so that batch boundaries change nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import Adaptation, Budget, Tail
from edgectl_agent.core.runs import Runs
from edgectl_agent.core.units import DAY_NS

SETTLE_BLOCKS = 16
_PRIOR = 500.0
"""Readings that the bundle's calibration counts for against a stream's own."""
_SHAPE = (-0.2, 0.4)
"""Bounds of the shape parameter; moments do not exist above 0.5, and short samples give wild values."""
_BASE_STEP = 0.2
"""How far per block the base level moves towards its fraction, in units of the log ratio."""
_TINY = 1e-12
_FEW = 4
"""So many streams are folded sooner one by one."""


class Pareto(NamedTuple):
    """A fitted tail: ``P(score > base + e) = fraction * (1 + shape * e / scale) ** (-1 / shape)``."""

    base: float
    fraction: float
    shape: float
    scale: float

    @classmethod
    def of(cls, base: float, fraction: float, mean: float, square: float) -> Pareto:
        """From the mean excess and the mean squared excess."""
        mean = max(mean, _TINY)
        variance = max(square - mean * mean, _TINY * mean)
        shape = min(max((1.0 - mean * mean / variance) / 2.0, _SHAPE[0]), _SHAPE[1])
        return cls(base, fraction, shape, mean * (1.0 - shape))

    def level(self, probability: float) -> float:
        """The score that is exceeded with `probability`; at least the base."""
        if probability >= self.fraction:
            return self.base
        ratio = probability / self.fraction
        if abs(self.shape) < 1e-6:
            return self.base - self.scale * math.log(ratio)
        return self.base + self.scale / self.shape * (math.pow(ratio, -self.shape) - 1.0)

    def surprise(self, score: float) -> float:
        """-log10 of the probability of a score at least this high; a lower bound below the base."""
        if score <= self.base:
            return -math.log10(self.fraction)
        e = (score - self.base) / self.scale
        if abs(self.shape) < 1e-6:
            log = -e
        else:
            inner = 1.0 + self.shape * e
            log = -math.log(inner) / self.shape if inner > 0 else -math.inf
        return min(-math.log10(self.fraction) - log / math.log(10), 300.0)


def base_share(n: int, interval_ns: int, budget: Budget | None) -> float:
    """Which share of `n` calibration scores lies above the base: enough of them, and more than the budget asks for."""
    wanted = 5.0 * budget.warning_per_day * interval_ns / DAY_NS if budget else 0.0
    return min(max(50.0 / n, wanted, 0.02), 0.1)


def fit_tail(scores: Float64, interval_ns: int, budget: Budget | None = None) -> Tail:
    """Summarise the tail of calibration scores.

    Args:
        scores: shape (n,), finite raw scores of normal data, pooled over streams.
        interval_ns: median event time between two readings of one stream.
        budget: keeps the base well below the warning threshold that this budget will ask for.

    Raises:
        ValueError: fewer than 20 scores.
    """
    n = len(scores)
    if n < 20:
        raise ValueError(f"needs at least 20 scores, got {n}")
    fraction = base_share(n, interval_ns, budget)
    base = float(np.quantile(scores, 1.0 - fraction))
    excess = scores[scores > base] - base
    if len(excess) == 0:  # a score that is almost constant
        excess = np.array([max(abs(base), 1.0) * 1e-6])
    return Tail(
        base=base,
        base_fraction=fraction,
        weight=float(n),
        excesses=float(len(excess)),
        excess_mean=float(excess.mean()),
        excess_square=float((excess * excess).mean()),
        interval_ns=max(1, int(interval_ns)),
    )


@dataclass(frozen=True, slots=True)
class Levels:
    """What was in force for each score: thresholds of shape (n,), tails of shape (n, 4) as `Pareto` has them."""

    warning: Float64
    critical: Float64
    tail: Float64

    def surprise(self, row: int, score: float) -> float:
        """-log10 of the tail probability of `score` under the tail in force at `row`."""
        return Pareto(*self.tail[row].tolist()).surprise(score)


class OneLevel(NamedTuple):
    """What was in force for one score."""

    warning: float
    critical: float
    tail: list[float]

    @property
    def levels(self) -> Levels:
        """The same as arrays."""
        return Levels(np.array([self.warning]), np.array([self.critical]), np.array([self.tail]))


class AdaptiveThreshold:
    """Tail and thresholds of every stream."""

    def __init__(self, tail: Tail, budget: Budget, adaptation: Adaptation) -> None:
        self._tail, self._budget, self._adaptation = tail, budget, adaptation
        pareto = Pareto.of(tail.base, tail.excesses / tail.weight, tail.excess_mean, tail.excess_square)
        self._calibrated = self._levels(pareto, tail.interval_ns)
        weight = min(_PRIOR, tail.weight)
        excesses = weight * tail.excesses / tail.weight
        self._fresh = np.array(
            [*pareto, weight, excesses, excesses * tail.excess_mean, excesses * tail.excess_square,
             float(tail.interval_ns), *self._calibrated, *[0] * 11]
        )  # fmt: skip
        self._state: Float64 = np.empty((0, len(self._fresh)))
        self._block_start: Int64 = np.empty(0, np.int64)

    # Columns: the tail in force; decayed sums; thresholds in force; sums of the unfinished block, declustered
    # and of all its scores; how many blocks were mostly above from the beginning, and whether the last score was above.
    _BASE, _FRACTION, _SHAPE, _SCALE = range(4)
    _WEIGHT, _EXCESSES, _SUM, _SQUARE, _INTERVAL, _WARNING, _CRITICAL = range(4, 11)
    _USED, _B_EXCESSES, _B_SUM, _B_SQUARE, _SEEN, _A_EXCESSES, _A_SUM, _A_SQUARE, _HIGH = range(11, 20)
    _SETTLING, _ABOVE = range(20, 22)

    @property
    def calibrated(self) -> tuple[float, float]:
        """Warning and critical thresholds of a stream that has just begun."""
        return self._calibrated

    def push(self, stream: NDArray[np.int32], event_time: Int64, score: Float64) -> Levels:
        """Thresholds in force for each score; then learn from it.

        Args:
            stream: shape (n,), sorted; a stream's scores are in event-time order.
            event_time: shape (n,), ns.
            score: shape (n,), finite.
        """
        self._reserve(int(stream.max(initial=-1)) + 1)
        runs = Runs.of(stream)
        of_run = stream[runs.starts]
        room = self._room(of_run)
        if (runs.lengths <= room).all():
            return self._learn(runs, of_run, event_time, score)
        levels = Levels(np.empty_like(score), np.empty_like(score), np.empty((len(score), 4)))
        done = np.zeros(len(of_run), np.int64)
        while True:  # one turn per block of the longest run
            active = np.flatnonzero(done < runs.lengths)
            if len(active) == 0:
                return levels
            take = np.minimum(self._room(of_run[active]), runs.lengths[active] - done[active])
            rows = _spans(runs.starts[active] + done[active], take)
            part = Runs(np.cumsum(take) - take, len(rows))
            learnt = self._learn(part, of_run[active], event_time[rows], score[rows])
            levels.warning[rows], levels.critical[rows], levels.tail[rows] = (
                learnt.warning, learnt.critical, learnt.tail,
            )  # fmt: skip
            done[active] += take

    def _room(self, stream: NDArray[np.int32]) -> Int64:
        """How many scores are missing in each stream's block."""
        room: Int64 = self._adaptation.block - self._state[stream, self._SEEN].astype(np.int64)
        return room

    def push_one(self, stream: int, time_ns: int, score: float) -> OneLevel:
        """`push` of one score, in plain floats: equal to the last bit."""
        self._reserve(stream + 1)
        s: list[float] = self._state[stream].tolist()
        level = OneLevel(s[self._WARNING], s[self._CRITICAL], s[: self._WEIGHT])
        if s[self._SEEN] == 0:
            self._block_start[stream] = time_ns
        base, critical = s[self._BASE], s[self._CRITICAL]
        above = score >= s[self._WARNING]
        used = not (above and s[self._ABOVE] > 0)
        clustered = max(min(score, max(critical, self._adaptation.highest * self._calibrated[0])) - base, 0.0)
        excess = max(min(score, critical) - base, 0.0) * used
        added = (
            used, excess > 0, excess, excess * excess,
            1.0, clustered > 0, clustered, clustered * clustered, above,
        )  # fmt: skip
        for i, one in enumerate(added, self._USED):
            s[i] += one
        s[self._ABOVE] = float(above)
        self._state[stream] = s
        if s[self._SEEN] >= self._adaptation.block:
            self._fold(stream, time_ns)
        return level

    def surprise(self, stream: int, score: float) -> float:
        """-log10 of the tail probability of `score` under the stream's present tail."""
        return Pareto(*self._state[stream, : self._WEIGHT].tolist()).surprise(score)

    def snapshot(self) -> dict[str, Any]:
        return {"state": pack_array(self._state), "block_start": pack_array(self._block_start)}

    def restore(self, state: dict[str, Any]) -> None:
        self._state, self._block_start = unpack_array(state["state"]), unpack_array(state["block_start"])

    def forget(self, streams: NDArray[Any]) -> None:
        """Put these streams back to the calibration."""
        known = streams[streams < len(self._state)]
        self._state[known], self._block_start[known] = self._fresh, 0

    def _reserve(self, streams: int) -> None:
        have = len(self._state)
        if streams > have:
            more = max(streams, 2 * have) - have
            self._state = np.concatenate([self._state, np.tile(self._fresh, (more, 1))])
            self._block_start = np.append(self._block_start, np.zeros(more, np.int64))

    def _learn(self, runs: Runs, of_run: NDArray[np.int32], event_time: Int64, score: Float64) -> Levels:
        """Add scores that all fall into their stream's unfinished block; begin another where it is full."""
        state = self._state.take(of_run, axis=0)
        warning, critical, base = (
            state[:, column].take(runs.of_row) for column in (self._WARNING, self._CRITICAL, self._BASE)
        )
        levels = Levels(warning, critical, state[:, : self._WEIGHT].take(runs.of_row, axis=0))
        begins = state[:, self._SEEN] == 0
        self._block_start[of_run[begins]] = event_time[runs.starts[begins]]
        above = score >= warning
        above_before = np.empty_like(above)
        above_before[1:] = above[:-1]
        above_before[runs.starts] = state[:, self._ABOVE] > 0
        used = ~(above & above_before)
        bound = np.maximum(critical, self._adaptation.highest * self._calibrated[0])
        clustered = np.maximum(np.minimum(score, bound) - base, 0.0)
        excess = np.maximum(np.minimum(score, critical) - base, 0.0) * used
        added = np.empty((self._SETTLING - self._USED, len(score)))
        added[:] = (
            used, excess > 0, excess, excess * excess,
            np.ones_like(score), clustered > 0, clustered, clustered * clustered, above,
        )  # fmt: skip
        # It adds one by one in order: equal bits for any batch boundaries.
        state[:, self._USED : self._SETTLING] = runs.fold(np.add, added, state[:, self._USED : self._SETTLING].T).T
        state[:, self._ABOVE] = above[runs.ends]
        self._state[of_run] = state
        full = np.flatnonzero(state[:, self._SEEN] >= self._adaptation.block)
        if len(full) > _FEW:
            self._fold_many(of_run[full], event_time[runs.ends[full]])
            return levels
        for run in full:
            self._fold(int(of_run[run]), int(event_time[runs.ends[run]]))
        return levels

    def _fold(self, stream: int, now: int) -> None:
        """End of a block: age the sums, add the block, move the base, set new thresholds."""
        s = self._state[stream].tolist()  # plain floats: the same arithmetic as the array's, and faster
        keep = math.exp(-self._adaptation.block / self._adaptation.memory)
        for i, added in enumerate(self._block_sums(s), self._WEIGHT):
            s[i] = s[i] * keep + added
        span = now - int(self._block_start[stream])
        if span > 0 and s[self._SEEN] > 1:
            s[self._INTERVAL] += 0.1 * (span / (s[self._SEEN] - 1.0) - s[self._INTERVAL])
        s[self._USED : self._SETTLING] = [0.0] * (self._SETTLING - self._USED)
        self._move_base(s)
        pareto = self._refit(s)
        s[: self._WEIGHT] = pareto
        s[self._WARNING], s[self._CRITICAL] = (
            min(max(level, self._adaptation.lowest * calibrated), self._adaptation.highest * calibrated)
            for level, calibrated in zip(self._levels(pareto, s[self._INTERVAL]), self._calibrated, strict=True)
        )
        self._state[stream] = s

    def _fold_many(self, streams: NDArray[np.int32], now: Int64) -> None:
        """`_fold` of several streams: equal to the last bit. Vector logarithms and powers may differ in it, so these
        are taken one by one."""
        s = np.ascontiguousarray(self._state.take(streams, axis=0).T)
        aged, seen, settling = s[self._WEIGHT : self._INTERVAL], s[self._SEEN], s[self._SETTLING]
        settles = (settling >= 0) & (settling < SETTLE_BLOCKS) & (s[self._HIGH] > seen / 2)
        aged *= math.exp(-self._adaptation.block / self._adaptation.memory)
        aged += np.where(settles, s[self._SEEN : self._HIGH], s[self._USED : self._SEEN])
        settling[:] = np.where(settles, settling + 1.0, -1.0)
        span, interval = now - self._block_start[streams], s[self._INTERVAL]
        timed = (span > 0) & (seen > 1)
        interval += np.where(timed, 0.1 * (span / np.where(timed, seen - 1.0, 1.0) - interval), 0.0)
        s[self._USED : self._SETTLING] = 0.0
        self._move_bases(s)
        excesses = np.maximum(s[self._EXCESSES], _TINY)
        fraction = np.minimum(np.maximum(excesses / s[self._WEIGHT], 1e-6), 0.5)
        mean = np.maximum(s[self._SUM] / excesses, _TINY)
        squared = mean * mean
        variance = np.maximum(s[self._SQUARE] / excesses - squared, _TINY * mean)
        shape = np.minimum(np.maximum((1.0 - squared / variance) / 2.0, _SHAPE[0]), _SHAPE[1])
        s[self._FRACTION], s[self._SHAPE], s[self._SCALE] = fraction, shape, mean * (1.0 - shape)
        s[self._WARNING], critical = (_exceeded(s[: self._WEIGHT], p) for p in self._probabilities(interval))
        s[self._CRITICAL] = np.maximum(s[self._WARNING], critical)
        for level, calibrated in zip(s[self._WARNING : self._USED], self._calibrated, strict=True):
            np.maximum(level, self._adaptation.lowest * calibrated, out=level)
            np.minimum(level, self._adaptation.highest * calibrated, out=level)
        self._state[streams] = s.T

    def _move_bases(self, s: Float64) -> None:
        """`_move_base` of several streams, the columns of `s`."""
        some = s[self._EXCESSES] > 0
        share = s[self._EXCESSES] / s[self._WEIGHT] / self._tail.base_fraction
        wanted = np.full(len(some), -1.0)
        wanted[some] = list(map(math.log, share[some].tolist()))
        mean = np.where(some, s[self._SUM] / np.where(some, s[self._EXCESSES], 1.0), _TINY)
        move = _BASE_STEP * np.minimum(np.maximum(wanted, -1.0), 3.0)
        s[self._BASE] += move * mean
        s[self._EXCESSES : self._INTERVAL] *= list(map(math.exp, (-move).tolist()))

    def _probabilities(self, interval_ns: Float64) -> tuple[Float64, Float64]:
        """Of a score above the warning and above the critical threshold, as the budget wants them."""
        per_day = DAY_NS / interval_ns
        return np.minimum(self._budget.warning_per_day / per_day, 0.5), np.minimum(
            self._budget.critical_per_day / per_day, 0.5
        )

    def _block_sums(self, s: list[float]) -> list[float]:
        """Weight, excesses, their sum and squares: of all scores while the stream settles, else declustered."""
        if 0 <= s[self._SETTLING] < SETTLE_BLOCKS and s[self._HIGH] > s[self._SEEN] / 2:
            s[self._SETTLING] += 1.0
            return s[self._SEEN : self._HIGH]
        s[self._SETTLING] = -1.0
        return s[self._USED : self._SEEN]

    def _move_base(self, s: list[float]) -> None:
        """Let the base drift towards its fraction; excesses keep their mean, as an exponential tail would."""
        if s[self._EXCESSES] <= 0:
            mean, wanted = _TINY, -1.0
        else:
            mean = s[self._SUM] / s[self._EXCESSES]
            wanted = math.log(s[self._EXCESSES] / s[self._WEIGHT] / self._tail.base_fraction)
        move = _BASE_STEP * min(max(wanted, -1.0), 3.0)
        s[self._BASE] += move * mean
        shrunk = math.exp(-move)
        for i in range(self._EXCESSES, self._INTERVAL):
            s[i] *= shrunk

    def _refit(self, s: list[float]) -> Pareto:
        excesses = max(float(s[self._EXCESSES]), _TINY)
        return Pareto.of(
            float(s[self._BASE]),
            min(max(excesses / float(s[self._WEIGHT]), 1e-6), 0.5),
            float(s[self._SUM]) / excesses,
            float(s[self._SQUARE]) / excesses,
        )

    def _levels(self, pareto: Pareto, interval_ns: float) -> tuple[float, float]:
        per_day = DAY_NS / interval_ns
        warning = pareto.level(min(self._budget.warning_per_day / per_day, 0.5))
        return warning, max(warning, pareto.level(min(self._budget.critical_per_day / per_day, 0.5)))


def _exceeded(tail: Float64, probability: Float64) -> Float64:
    """`Pareto.level` of several tails, shape (4, n)."""
    base, fraction, shape, scale = tail
    ratio = probability / fraction
    straight = np.abs(shape) < 1e-6
    power = np.array(list(map(math.pow, ratio.tolist(), (-shape).tolist())))
    level = base + scale / np.where(straight, 1.0, shape) * (power - 1.0)
    for i in np.flatnonzero(straight):
        level[i] = base[i] - scale[i] * math.log(ratio[i])
    found: Float64 = np.where(probability >= fraction, base, level)
    return found


def _spans(starts: Int64, lengths: Int64) -> Int64:
    """Concatenated ranges ``starts[i] .. starts[i] + lengths[i]``."""
    offset = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + offset
