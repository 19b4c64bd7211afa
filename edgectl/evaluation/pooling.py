"""What was judged series by series → the figures of a corpus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import ArrayLike

from edgectl.core.evaluation import NOTHING
from edgectl.evaluation import intervals, nab, results
from edgectl.evaluation.judging import Judged, Kept
from edgectl.evaluation.series import Series


def method(name: str, threshold: str, parts: Sequence[Judged], series: Sequence[Series], seed: int) -> results.Method:
    """The figures of one method.

    Args:
        name: of the method.
        threshold: who chose it, in words.
        parts: what was judged, one for each series.
        series: likewise.
        seed: of the bootstrap.
    """
    outcome = sum((part.outcome for part in parts), NOTHING)
    places = [place for part in parts for place in part.places if not math.isnan(place)]
    best, profiles = _best(parts, series), range(len(nab.PROFILES))
    vus = np.array([part.ranges.vus_pr for part in parts])
    return results.Method(
        method=name,
        threshold=threshold,
        false_alerts=outcome.false,
        false_per_stream_day=_figure(
            [part.outcome.false for part in parts], [part.outcome.stream_days for part in parts], seed
        ),
        windows=outcome.faults,
        found=outcome.found,
        recall=_figure([part.outcome.found for part in parts], [part.outcome.faults for part in parts], seed),
        covered=sum(part.covered for part in parts),
        delay_ns=int(outcome.delay_ns) if outcome.found else None,
        place=_rounded(median(places)) if places else None,
        vus_pr=_figure(np.nan_to_num(vus), ~np.isnan(vus), seed),
        range_precision=_rounded(_mean([one.ranges.precision for one in parts])),
        range_recall=_rounded(_mean([one.ranges.recall for one in parts])),
        nab=_nab([_points([one.alerts[i] for one in parts], i) for i in profiles]),
        nab_interval=_figure(*_shares([one.alerts[0] for one in parts]), seed),
        nab_readings=_nab([_points([one.readings[i] for one in parts], i) for i in profiles]),
        nab_best=_nab([score for score, _ in best]),
        nab_best_at=_rounded(best[0][1], 4) if math.isfinite(best[0][1]) else None,
    )


def budget(asked: float, parts: Sequence[Kept]) -> results.Budget:
    """How a budget of `asked` false alerts per stream and day was kept."""
    watched = [part for part in parts if part.days > 0]
    false, days = sum(part.false for part in watched), sum(part.days for part in watched)
    low, high = intervals.poisson(false)
    spans = [(*_ratio(part, asked), part) for part in watched]
    worst = max(spans, key=lambda span: (span[0], span[2]), default=None)
    due = asked * days
    return results.Budget(
        asked=asked,
        false_alerts=false,
        stream_days=round(days, 2),
        realised=_rounded(false / days, 4) if days else None,
        ratio=_rounded(false / due) if days else None,
        low=_rounded(low / due) if days else None,
        high=_rounded(high / due) if days else None,
        streams=len(watched),
        within_2=sum(low <= 2 and high >= 0.5 for low, high, *_ in spans),
        above_5=sum(low > 5 for low, *_ in spans),
        worst=worst[3].stream if worst else "",
        worst_ratio=_rounded(worst[2]) if worst else None,
        worst_low=_rounded(worst[0]) if worst else None,
    )


def by_series(series: Series, part: Judged, alerts: int) -> results.SeriesResult:
    """The detector on one series."""
    outcome = part.outcome
    return results.SeriesResult(
        name=series.name,
        readings=len(series),
        scored_days=round(series.scored_days, 3),
        windows=outcome.faults,
        found=outcome.found,
        false_alerts=outcome.false,
        alerts=alerts,
        delay_ns=int(outcome.delay_ns) if outcome.found else None,
        vus_pr=_rounded(part.ranges.vus_pr),
        refused=part.refused,
    )


def _ratio(part: Kept, asked: float) -> tuple[float, float, float]:
    """Interval of the ratio of false alerts had and asked for, and the ratio."""
    due = asked * part.days
    low, high = intervals.poisson(part.false)
    return low / due, high / due, part.false / due


def _best(parts: Sequence[Judged], series: Sequence[Series]) -> list[tuple[float, float]]:
    rows = [nab.rows_of(one) for one in series]
    return [nab.best([one.score for one in parts], rows, profile) for profile in nab.PROFILES]


def _points(points: Sequence[nab.Points], profile: int) -> float:
    return nab.normalised(sum(points, nab.Points(0.0, 0)), nab.PROFILES[profile])


def _nab(scores: Sequence[float]) -> results.Nab:
    standard, low_fp, low_fn = (_rounded(score, 2) for score in scores)
    return results.Nab(standard=standard, low_fp=low_fp, low_fn=low_fn)


def _shares(points: Sequence[nab.Points]) -> tuple[list[float], list[float]]:
    """What each file adds to both sides of NAB's standard score, which is a ratio of sums."""
    missed = nab.STANDARD.missed
    return [100 * (one.raw + missed * one.windows) for one in points], [(1 + missed) * one.windows for one in points]


def _figure(above: ArrayLike, below: ArrayLike, seed: int) -> results.Figure:
    """The ratio of two sums over files, with its interval."""
    numerator, denominator = np.asarray(above, np.float64), np.asarray(below, np.float64)
    total = float(denominator.sum())
    if not total:
        return results.Figure(value=None)
    value = _rounded(float(numerator.sum()) / total, 4)
    if len(numerator) < 2:
        return results.Figure(value=value)
    low, high = intervals.bootstrap(numerator, denominator, seed=seed)
    return results.Figure(value=value, low=_rounded(low, 4), high=_rounded(high, 4))


def _mean(values: Sequence[float]) -> float:
    some = [value for value in values if not math.isnan(value)]
    return float(np.mean(some)) if some else math.nan


def _rounded(value: float, digits: int = 3) -> float | None:
    return None if not math.isfinite(value) else round(value, digits)
