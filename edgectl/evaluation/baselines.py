"""What every detector must beat, and any claim is printed beside: methods that know nothing.

random        uniform scores; alarms as often as the budget allows
always alarm  an alarm that is never off
new high/low  how far a value leaves the range of all its past, in units of that range; alarms at each record
mean z²       mean squared distance from the history's mean in its deviations; alarms above the history's quantile
null          no alarm ever

Each has a threshold that needs no labels, so that its alerts can be counted as a detector's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.units import DAY_NS

from edgectl.evaluation.events import alarms_of
from edgectl.evaluation.series import Alarm, Replayed, Series

_FIT_SHARE = 0.7
"""Of the history, to learn mean and deviation from; the rest sets the threshold."""
_LEAST_HISTORY = 50


def baseline(name: str, series: Series, per_day: float, seed: int = 0) -> Replayed:
    """What the baseline makes of `series`.

    Args:
        name: one of `BASELINES`.
        series: the series.
        per_day: false alerts per day that are tolerated.
        seed: of what is random.
    """
    return BASELINES[name](series, per_day, seed)


def _random(series: Series, per_day: float, seed: int) -> Replayed:
    salt = [seed, *series.name.encode()]
    score = np.random.default_rng(salt).random(len(series))
    threshold = 1.0 - _share(series, per_day)
    return Replayed(score=score, threshold=threshold, alarms=alarms_of(score, threshold, series))


def _always(series: Series, per_day: float, seed: int) -> Replayed:
    alarms = (Alarm(int(series.time[series.begin])),) if series.begin < len(series) else ()
    return Replayed(score=np.ones(len(series)), threshold=1.0, alarms=alarms)


def _records(series: Series, per_day: float, seed: int) -> Replayed:
    score = records(series.values)
    least = float(np.nextafter(0.0, 1.0))
    return Replayed(score=score, threshold=least, alarms=alarms_of(score, least, series))


def _mean_square(series: Series, per_day: float, seed: int) -> Replayed:
    history = series.values[: series.begin]
    if len(history) < _LEAST_HISTORY:
        return Replayed(score=running_z2(series.values), threshold=np.inf, alarms=())
    fit = max(int(len(history) * _FIT_SHARE), 2)
    score = z2(series.values, history[:fit])
    past = score[fit : series.begin]
    past = past[~np.isnan(past)]
    threshold = float(np.quantile(past, 1.0 - _share(series, per_day))) if len(past) else np.inf
    threshold = float(np.nextafter(threshold, np.inf))
    return Replayed(score=score, threshold=threshold, alarms=alarms_of(score, threshold, series))


def _null(series: Series, per_day: float, seed: int) -> Replayed:
    return Replayed(score=np.zeros(len(series)), threshold=1.0, alarms=())


def records(values: Float64) -> Float64:
    """By how much each value leaves the range of all values before it, in units of that range; the most of any channel.

    Args:
        values: shape (n, c).

    Returns:
        Shape (n,), 0 within the range.
    """
    score = np.zeros(len(values))
    if len(values) < 2:
        return score
    high, low = np.fmax.accumulate(values, axis=0)[:-1], np.fmin.accumulate(values, axis=0)[:-1]
    excess = np.maximum(values[1:] - high, low - values[1:])
    span = high - low
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(excess > 0, np.where(span > 0, excess / span, 1.0), 0.0)
    score[1:] = relative.max(axis=1, initial=0.0)
    return score


def z2(values: Float64, history: Float64) -> Float64:
    """Mean over channels of the squared distance from the history's mean, in its deviations. Shape (n,)."""
    mean, deviation = _moments(history)
    return _mean_of_channels(((values - mean) / deviation) ** 2)


def running_z2(values: Float64) -> Float64:
    """As `z2`, against all values before each one; NaN for the first two. Shape (n,)."""
    some = ~np.isnan(values)
    filled = np.where(some, values - (values[:1] if len(values) else 0.0), 0.0)
    filled = np.nan_to_num(filled)
    count = np.cumsum(some, axis=0)[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.cumsum(filled, axis=0)[:-1] / count
        variance = np.cumsum(filled**2, axis=0)[:-1] / count - mean**2
        square = (filled[1:] - mean) ** 2 / np.maximum(variance, 1e-12)
    square[~some[1:] | (count < 2)] = np.nan
    return np.concatenate([np.full(min(1, len(values)), np.nan), _mean_of_channels(square)])


def _moments(history: Float64) -> tuple[Float64, Float64]:
    mean, deviation = np.zeros(history.shape[1]), np.ones(history.shape[1])
    for i, column in enumerate(history.T):
        some = column[~np.isnan(column)]
        if len(some):
            mean[i], deviation[i] = some.mean(), some.std()
    return mean, np.where(deviation > 1e-12, deviation, np.maximum(np.abs(mean) / 10, 1e-3))


def _mean_of_channels(square: Float64) -> Float64:
    some = ~np.isnan(square)
    count = some.sum(axis=1)
    total = np.where(some, square, 0.0).sum(axis=1)
    found: Float64 = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return found


def _share(series: Series, per_day: float) -> float:
    """Of all readings, those that the budget lets alarm."""
    return min(per_day * series.interval_ns / DAY_NS, 0.5)


BASELINES: Mapping[str, Callable[[Series, float, int], Replayed]] = {
    "random": _random,
    "always alarm": _always,
    "new high/low": _records,
    "mean z²": _mean_square,
    "null": _null,
}
