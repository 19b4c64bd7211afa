"""All scores of one method on one series: what worker processes send home, to be pooled by `pooling`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from edgectl_agent.core.batch import Float64

from edgectl.core.evaluation import Outcome
from edgectl.evaluation import events, nab
from edgectl.evaluation.ranges import NOTHING, Ranges, ranges
from edgectl.evaluation.series import Replayed, Series


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One method on one series.

    Attributes:
        outcome: windows found and missed, false alerts, delays.
        covered: windows during which an alarm was on, whenever it was raised.
        places: where in each found window the first alert lies: 0 its first reading, 1 its last.
        ranges: by aeon, NaN without it.
        alerts: NAB's points for each of `nab.PROFILES`, a detection being where an alert is raised.
        readings: likewise, a detection being every reading at or above the threshold.
        score: shape (m,), of the scored rows, to look for NAB's best threshold over the corpus.
        refused: why the series could not be run: its windows are missed, and its days without alerts are no merit.
    """

    outcome: Outcome
    covered: int
    places: tuple[float, ...]
    ranges: Ranges
    alerts: tuple[nab.Points, ...]
    readings: tuple[nab.Points, ...]
    score: Float64
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """How a budget was kept on one series, outside of labelled windows."""

    stream: str
    false: int
    days: float


def judged(series: Series, replayed: Replayed, by_ranges: bool) -> Judged:
    """Score what a method made of `series`.

    Args:
        series: the labels.
        replayed: what the method said.
        by_ranges: also the scores by aeon, which must be there.
    """
    rows = nab.rows_of(series)
    score = replayed.score[series.begin :]
    raised = events.detections(replayed.alarms, series)[series.begin :]
    with np.errstate(invalid="ignore"):
        above = score >= replayed.threshold
    outcome = events.outcome(replayed.alarms, series)
    return Judged(
        outcome=replace(outcome, stream_days=0.0) if replayed.refused else outcome,
        covered=events.covered(replayed.alarms, series),
        places=_places(series, replayed),
        ranges=ranges(series, replayed) if by_ranges else NOTHING,
        alerts=tuple(nab.at(raised, rows, profile) for profile in nab.PROFILES),
        readings=tuple(nab.at(above, rows, profile) for profile in nab.PROFILES),
        score=score,
        refused=replayed.refused,
    )


def kept(series: Series, replayed: Replayed) -> Kept:
    """False alerts and the time in which there should be none; no time if the series could not be run."""
    days = 0.0 if replayed.refused else events.normal_days(series)
    return Kept(series.name, events.outcome(replayed.alarms, series).false, days)


def _places(series: Series, replayed: Replayed) -> tuple[float, ...]:
    told = np.array(events.tellings(replayed.alarms, series), np.int64)
    found = []
    for window in series.windows:
        start, end = int(series.time[window.first]), int(series.time[window.last])
        inside = told[(told >= start) & (told <= end)]
        if len(inside):
            found.append((int(inside[0]) - start) / (end - start) if end > start else math.nan)
    return tuple(found)
