"""The Numenta Anomaly Benchmark's score, version 1.1, computed from its published definition.

Lavin & Ahmad, "Evaluating Real-time Anomaly Detection Algorithms", ICMLA 2015.

The best detection within a window earns up to 1, more the earlier it comes; a missed window costs; every detection
outside of windows costs, little just after one and in full elsewhere. Null (no detection) is 0, perfect is 100:

* within a window of rows L..R, width W: ``x = -(R - row + 1) / W``, worth ``sigma(x) / sigma(-1)``;
* outside, R and W being those of the latest window that has ended: ``x = (row - R) / (W - 1)``, costing ``sigma(x)``
  times the profile's price, and the full price beyond x = 3 or where no window has ended yet;
* ``sigma(x) = 2 / (1 + exp(5 x)) - 1``.

NAB chooses the threshold on the corpus that it reports, with its labels: `best` does so too, and whoever shows it must
say so. `at` scores detections that were made without labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from edgectl_agent.core.batch import Float64, Int64
from numpy.typing import NDArray

from edgectl.evaluation.series import Series

Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Profile:
    """What a false detection and a missed window cost; a perfect detection earns 1."""

    name: str
    false: float
    missed: float


STANDARD = Profile("standard", 0.11, 1.0)
PROFILES = (STANDARD, Profile("low FP", 0.22, 1.0), Profile("low FN", 0.11, 2.0))


@dataclass(frozen=True)
class Rows:
    """The scored rows of one series.

    Attributes:
        window: shape (m,), which window each row is in, counted from 0; -1 outside.
        value: shape (m,), what a detection there is worth, before the price: positive within windows.
        windows: how many windows have a scored row.
    """

    window: Int64
    value: Float64
    windows: int


@dataclass(frozen=True, slots=True)
class Points:
    """Raw points of one series: what was earned, and how many windows there were."""

    raw: float
    windows: int

    def __add__(self, other: Points) -> Points:
        return Points(self.raw + other.raw, self.windows + other.windows)


def rows_of(series: Series) -> Rows:
    """What a detection is worth at each scored row of `series`."""
    n = len(series)
    window, value = np.full(n, -1), np.full(n, -1.0)
    scored = 0
    for place in sorted(series.windows, key=lambda one: one.first):
        inside = np.arange(place.first, place.last + 1)
        value[inside] = _sigma(-(place.last - inside + 1) / place.rows) / _sigma(-1.0)
        if place.last >= series.begin:
            window[inside] = scored
            scored += 1
        after = np.arange(place.last + 1, n)
        x = (after - place.last) / (place.rows - 1) if place.rows > 1 else np.full(len(after), math.inf)
        value[after] = np.where(x > 3, -1.0, _sigma(np.minimum(x, 3.0)))
    return Rows(window[series.begin :], value[series.begin :], scored)


def at(detected: Bool, rows: Rows, profile: Profile = STANDARD) -> Points:
    """Points for detections, chosen without labels: shape (m,), one for each scored row."""
    raw = 0.0
    for number in range(rows.windows):
        found = rows.value[(rows.window == number) & detected]
        raw += float(found.max()) if len(found) else -profile.missed
    return Points(raw + profile.false * float(rows.value[(rows.window < 0) & detected].sum()), rows.windows)


def normalised(points: Points, profile: Profile = STANDARD) -> float:
    """0 for detecting nothing, 100 for a detection at the start of each window and no other. NaN without windows."""
    nothing, perfect = -profile.missed * points.windows, float(points.windows)
    return 100 * (points.raw - nothing) / (perfect - nothing) if points.windows else math.nan


def best(scores: Sequence[Float64], rows: Sequence[Rows], profile: Profile = STANDARD) -> tuple[float, float]:
    """The highest score that any one threshold over all series gives, and that threshold; chosen with the labels.

    Args:
        scores: of each series, shape (m,) for its scored rows; NaN is never detected.
        rows: likewise.
        profile: what mistakes cost.
    """
    total = sum(one.windows for one in rows)
    if not total:
        return math.nan, math.nan
    score, gain = _gains(scores, rows, profile)
    order = np.argsort(-score, kind="stable")
    score = score[order]
    raw = -profile.missed * total + np.cumsum(gain(order))
    last = np.append(score[1:] != score[:-1], True) if len(score) else np.empty(0, bool)  # equal scores switch together
    at_changes, levels = raw[last], score[last]
    if not len(at_changes) or at_changes.max() <= -profile.missed * total:
        return 0.0, math.inf
    place = int(np.argmax(at_changes))
    return normalised(Points(float(at_changes[place]), total), profile), float(levels[place])


class _Gain:
    """What each row adds to the raw score if rows are detected in a given order."""

    def __init__(self, window: Int64, value: Float64, profile: Profile) -> None:
        self._window, self._value, self._profile = window, value, profile

    def __call__(self, order: Int64) -> Float64:
        window, value = self._window[order], self._value[order]
        gain = np.where(window < 0, self._profile.false * value, 0.0)
        inside = np.flatnonzero(window >= 0)
        inside = inside[np.argsort(window[inside], kind="stable")]
        bounds = np.flatnonzero(np.diff(window[inside], prepend=-1, append=-1))
        for begin, end in pairwise(bounds.tolist()):
            place = inside[begin:end]
            highest = np.maximum.accumulate(value[place])
            gain[place] = np.diff(highest, prepend=-self._profile.missed)
        return gain


def _gains(scores: Sequence[Float64], rows: Sequence[Rows], profile: Profile) -> tuple[Float64, _Gain]:
    """All rows that have a score, pooled; windows are numbered through."""
    offsets = np.cumsum([0, *(one.windows for one in rows)])
    window = np.concatenate([np.where(r.window < 0, -1, r.window + o) for r, o in zip(rows, offsets, strict=False)])
    score = np.concatenate([np.asarray(one, np.float64) for one in scores])
    some = ~np.isnan(score)
    return score[some], _Gain(window[some], np.concatenate([r.value for r in rows])[some], profile)


def _sigma(x: Float64 | float) -> Float64:
    found: Float64 = 2 / (1 + np.exp(5 * np.asarray(x, np.float64))) - 1
    return found
