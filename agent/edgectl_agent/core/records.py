"""Three records of one series: how far a reading goes beyond what the series itself did so far.

Three features of each reading are followed, all O(1) and none with a scale to choose: the value; how far its fast mean
is from its slow one (a level shift); how rare it is in a histogram over the range so far. Each keeps the range it had
so far, which fades slowly towards its middle. How far a feature goes beyond that range, in units of the range, is its
excess; the largest excess of the three, put through a calibrated table, is the reading's surprise.

An onset is a surprise above the peak of those before it, which decays: what goes on is not new again and again.

`RecordsFormula.many` and `RecordsFormula.run` do the same arithmetic, operation by operation, on arrays and on plain
floats; logarithms come from `math` on both ways, because those of numpy may differ in the last bit.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Float64
from edgectl_agent.core.bundle import Records
from edgectl_agent.core.units import DAY_NS

BINS = 64
FIELDS = ("count", "time", "interval", "fast", "slow", "low", "high", "peak",
          "low0", "low1", "low2", "high0", "high1", "high2")  # fmt: skip
_COUNT, _TIME, _INTERVAL, _FAST, _SLOW, _LOW, _HIGH, _PEAK, _LOWS, _HIGHS = (*range(9), 11)
_SCORE, _WARNING, _CRITICAL, _ONSET, _LOW_OUT, _HIGH_OUT, _KIND, _OF_KIND, _KIND_LOW, _KIND_HIGH = range(10)
OUT = ("score", "warning", "critical", "onset", "low", "high", "kind", "of_kind", "kind_low", "kind_high")
KINDS = ("value", "level", "rarity")
_CAP = 1e3
"""Excess in units of the range at most, and that of a series which never moved before."""
_LEAST, _MOST = 1e-15, 0.5
"""Probability per reading that a budget asks for."""
_PACE = 500.0
"""Readings over which the interval between two is averaged."""
_PAUSE = 4.0
"""A pause counts as so many intervals at most."""
_DAY_S = DAY_NS / 1e9
_CENTERS = np.arange(BINS) + 0.5
Counts = NDArray[np.int32]


class RecordsFormula:
    """The arithmetic of one reading, for a series whose state is a row of `FIELDS` and a row of `BINS` counts.

    Args:
        constants: signed, in the bundle.
        warning_per_day: false alerts that one series may raise.
        critical_per_day: likewise.
    """

    def __init__(self, constants: Records, warning_per_day: float, critical_per_day: float) -> None:
        self._c = constants
        self._warning, self._critical = warning_per_day / _DAY_S, critical_per_day / _DAY_S
        self._decay = math.exp(-1.0 / constants.refractory)
        self._excess = [excess for excess, _ in constants.surprise]
        self._surprise = [surprise for _, surprise in constants.surprise]
        pairs = list(zip(constants.surprise, constants.surprise[1:], strict=False))
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs]
        self._slope = [*slopes, 0.0]

    def many(self, s: Float64, bins: Counts, time: Float64, x: Float64) -> tuple[Float64, Counts, Float64]:
        """One reading of each of m series.

        Args:
            s: shape (m, fields), a copy of what is stored.
            bins: shape (m, BINS), likewise.
            time: shape (m,), seconds.
            x: shape (m,), finite.

        Returns:
            The new state, the new counts, and what `OUT` says of each reading, shape (10, m).
        """
        c, s, out = self._c, np.ascontiguousarray(s.T), np.empty((len(OUT), len(x)))
        begins = s[_COUNT] == 0
        for field in (_FAST, _SLOW, _LOW, _HIGH):
            s[field, begins] = x[begins]
        s[_TIME, begins] = time[begins]
        self._keep_pace(s, time)
        s[_FAST] += c.fast * (x - s[_FAST])
        s[_SLOW] += c.slow * (x - s[_SLOW])
        grown = np.flatnonzero((x < s[_LOW]) | (x > s[_HIGH]))
        if len(grown):
            low, high = np.minimum(s[_LOW, grown], x[grown]), np.maximum(s[_HIGH, grown], x[grown])
            bins[grown] = rebinned(bins[grown], s[_LOW, grown], s[_HIGH, grown], low, high)
            s[_LOW, grown], s[_HIGH, grown] = low, high
        features = np.array([x, s[_FAST] - s[_SLOW], self._rarity(s, bins, x)])
        lows, highs = s[_LOWS:_HIGHS], s[_HIGHS:]
        lows[:, begins], highs[:, begins] = features[:, begins], features[:, begins]
        out[_LOW_OUT], out[_HIGH_OUT] = lows[0], highs[0]
        span, beyond = highs - lows, np.maximum(features - highs, lows - features)
        within = beyond < _CAP * span
        excess = np.where(within, beyond, _CAP) / np.where(within, span, 1.0)
        excess[beyond <= 0] = 0.0
        kind = excess.argmax(axis=0)
        row = np.arange(len(x))
        out[_KIND:] = kind, features[kind, row], lows[kind, row], highs[kind, row]
        middle = (highs + lows) / 2.0
        highs -= c.fade * (highs - middle)
        lows += c.fade * (middle - lows)
        np.maximum(highs, features, out=highs)
        np.minimum(lows, features, out=lows)
        self._judge(s, excess[kind, row], out)
        return s.T, bins, out

    def _keep_pace(self, s: Float64, time: Float64) -> None:
        step, count, interval = np.maximum(time - s[_TIME], 0.0), s[_COUNT], s[_INTERVAL]
        step = np.where(count > 1, np.minimum(step, _PAUSE * interval), step)
        moved = interval + (step - interval) / np.minimum(np.maximum(count, 1.0), _PACE)
        s[_INTERVAL] = np.where(count > 0, moved, 0.0)
        s[_TIME] = time

    def _rarity(self, s: Float64, bins: Counts, x: Float64) -> Float64:
        """-log of the share of earlier readings near `x`; then count it."""
        row, span = np.arange(len(x)), s[_HIGH] - s[_LOW]
        flat = span <= 0
        place = np.where(flat, 0.0, (x - s[_LOW]) / np.where(flat, 1.0, span) * BINS)
        at = np.minimum(place.astype(np.int64), BINS - 1)
        near = bins[row, at] + np.where(at > 0, bins[row, at - 1], 0)
        near = near + np.where(at < BINS - 1, bins[row, np.minimum(at + 1, BINS - 1)], 0)
        share = (near + 1.0) / (s[_COUNT] + 3.0)
        bins[row, at] += 1
        s[_COUNT] += 1.0
        return -np.array(list(map(math.log, share.tolist())))

    def _judge(self, s: Float64, excess: Float64, out: Float64) -> None:
        """Surprise, levels and onset of readings whose largest excess this is."""
        warm = s[_COUNT] > self._c.warm_up
        at = np.searchsorted(self._excess, excess, "right") - 1
        surprise = np.array(self._surprise)[at] + (excess - np.array(self._excess)[at]) * np.array(self._slope)[at]
        out[_SCORE] = np.where(warm, surprise, np.nan)
        for level, per_s in ((_WARNING, self._warning), (_CRITICAL, self._critical)):
            asked = np.minimum(np.maximum(per_s * s[_INTERVAL], _LEAST), _MOST)
            out[level] = [-math.log10(p) for p in asked.tolist()]
        peak = s[_PEAK] * self._decay
        onset = warm & (surprise > peak)
        out[_ONSET] = onset
        s[_PEAK] = np.where(onset, surprise, peak)

    def run(
        self, s: list[float], bins: list[int], times: Sequence[float], values: Sequence[float]
    ) -> tuple[list[float], list[int], list[tuple[float, ...]]]:
        """`many` for the readings of one series, one after the other: equal to the last bit."""
        c, decay, bounds, base, slope = self._c, self._decay, self._excess, self._surprise, self._slope
        fade, fast_step, slow_step, warm_up = c.fade, c.fast, c.slow, c.warm_up
        log, log10, nan = math.log, math.log10, math.nan
        (count, last, interval, fast, slow, low, high, peak, low0, low1, low2, high0, high1, high2) = s
        out: list[tuple[float, ...]] = []
        for time, x in zip(times, values, strict=True):
            begins = count == 0
            if begins:
                fast = slow = low = high = x
                interval = 0.0
            else:
                step = time - last if time > last else 0.0  # a stream that was told a wrong time goes back
                if count > 1 and step > _PAUSE * interval:
                    step = _PAUSE * interval
                interval += (step - interval) / (count if count < _PACE else _PACE)
            last = time
            fast += fast_step * (x - fast)
            slow += slow_step * (x - slow)
            if x < low or x > high:
                new_low, new_high = (x, high) if x < low else (low, x)
                bins = _rebinned_one(bins, low, high, new_low, new_high)
                low, high = new_low, new_high
            span = high - low
            at = 0 if span <= 0 else min(int((x - low) / span * BINS), BINS - 1)
            near = bins[at] + (bins[at - 1] if at > 0 else 0) + (bins[at + 1] if at < BINS - 1 else 0)
            rarity = -log((near + 1.0) / (count + 3.0))
            bins[at] += 1
            count += 1.0
            shift = fast - slow
            if begins:
                low0, low1, low2, high0, high1, high2 = x, shift, rarity, x, shift, rarity
            usual_low, usual_high = low0, high0
            kind, excess, of_kind, kind_low, kind_high = 0.0, 0.0, x, low0, high0
            for i, f, lo, hi in ((0.0, x, low0, high0), (1.0, shift, low1, high1), (2.0, rarity, low2, high2)):
                beyond = f - hi if f > hi else lo - f
                if beyond > 0:
                    one = beyond / (hi - lo) if beyond < _CAP * (hi - lo) else _CAP
                    if one > excess:
                        kind, excess, of_kind, kind_low, kind_high = i, one, f, lo, hi
            middle = (high0 + low0) / 2.0
            high0 -= fade * (high0 - middle)
            low0 += fade * (middle - low0)
            if x > high0:
                high0 = x
            if x < low0:
                low0 = x
            middle = (high1 + low1) / 2.0
            high1 -= fade * (high1 - middle)
            low1 += fade * (middle - low1)
            if shift > high1:
                high1 = shift
            if shift < low1:
                low1 = shift
            middle = (high2 + low2) / 2.0
            high2 -= fade * (high2 - middle)
            low2 += fade * (middle - low2)
            if rarity > high2:
                high2 = rarity
            if rarity < low2:
                low2 = rarity
            i_bound = bisect_right(bounds, excess) - 1
            surprise = base[i_bound] + (excess - bounds[i_bound]) * slope[i_bound]
            warm = count > warm_up
            peak *= decay
            onset = warm and surprise > peak
            if onset:
                peak = surprise
            asked = self._warning * interval
            warning = -log10(_LEAST if asked < _LEAST else _MOST if asked > _MOST else asked)
            asked = self._critical * interval
            critical = -log10(_LEAST if asked < _LEAST else _MOST if asked > _MOST else asked)
            out.append((
                surprise if warm else nan, warning, critical, float(onset), usual_low, usual_high,
                kind, of_kind, kind_low, kind_high,
            ))  # fmt: skip
        state = [count, last, interval, fast, slow, low, high, peak, low0, low1, low2, high0, high1, high2]
        return state, bins, out


def rebinned(bins: Counts, low: Float64, high: Float64, new_low: Float64, new_high: Float64) -> Counts:
    """Counts of bins over ``low..high``, shape (m, BINS), as bins over the wider ``new_low..new_high``."""
    span = np.where(high > low, high - low, 0.0)[:, None]
    center = low[:, None] + _CENTERS * span / BINS
    at = ((center - new_low[:, None]) / (new_high - new_low)[:, None] * BINS).astype(np.int64)
    rows = np.arange(len(bins))[:, None] * BINS
    place = (np.minimum(at, BINS - 1) + rows).ravel()
    return np.bincount(place, bins.ravel(), bins.size).astype(np.int32).reshape(bins.shape)


def _rebinned_one(bins: list[int], low: float, high: float, new_low: float, new_high: float) -> list[int]:
    edges = (np.array([edge]) for edge in (low, high, new_low, new_high))
    found: list[int] = rebinned(np.array([bins], np.int32), *edges)[0].tolist()
    return found
