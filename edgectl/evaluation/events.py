"""Alerts against labelled windows, as an operator counts them: by events and never by points.

An alert is told when it is raised, and again for every full hour that it stays on: an alarm that is never off is no
detector, and is charged 24 false alerts a day. Each telling belongs to the windows in which it lies
(`edgectl.core.evaluation.judge`); one that lies in no window is false. A window is found if any telling lies in it.

There is no point adjustment anywhere: it lets random scores look excellent (Kim et al., "Towards a Rigorous Evaluation
of Time-Series Anomaly Detection", AAAI 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.units import DAY_NS

from edgectl.core.evaluation import Outcome, Period, judge
from edgectl.evaluation.nab import Bool
from edgectl.evaluation.series import Alarm, Series

AGAIN_NS = DAY_NS // 24
"""An alarm that is still on is told again after so long."""


def tellings(alarms: Sequence[Alarm], series: Series) -> list[int]:
    """When the operator hears of `alarms`: event times within the scored part, ns."""
    if series.begin >= len(series):
        return []
    begin, end = int(series.time[series.begin]), int(series.time.max())
    told: list[int] = []
    for alarm in alarms:
        last = end if alarm.end_ns is None else min(alarm.end_ns, end)
        told += range(alarm.raised_ns, max(last, alarm.raised_ns + 1), AGAIN_NS)
    return sorted(at for at in told if begin <= at <= end)


def outcome(alarms: Sequence[Alarm], series: Series) -> Outcome:
    """Windows found and missed, false alerts, delays from each window's first reading. The time watched is the whole
    scored part, windows included."""
    windows = [
        Period(int(series.time[max(w.first, series.begin)]), int(series.time[w.last]))
        for w in series.windows
        if w.last >= series.begin
    ]
    return judge(windows, [("", at) for at in tellings(alarms, series)], series.scored_days)


def normal_days(series: Series) -> float:
    """Scored stream-days outside of labelled windows."""
    inside = sum(
        int(series.time[w.last]) - int(series.time[max(w.first, series.begin)])
        for w in series.windows
        if w.last >= series.begin
    )
    return max(series.scored_days - inside / DAY_NS, 0.0)


def detections(alarms: Sequence[Alarm], series: Series) -> Bool:
    """Shape (n,): the readings at which an alert was raised, once each."""
    found = np.zeros(len(series), bool)
    if len(series):
        order = np.argsort(series.time, kind="stable")
        times = series.time[order]
        places = np.searchsorted(times, [alarm.raised_ns for alarm in alarms])
        found[order[places[places < len(series)]]] = True
    return found


def alarms_of(score: Float64, threshold: float, series: Series, clear_after_ns: int = AGAIN_NS) -> tuple[Alarm, ...]:
    """An alarm wherever scored readings reach `threshold`, until they stay below it for `clear_after_ns`; NaN is below.

    Without that, a score that flaps about its threshold would be charged for every reading.
    """
    above = np.zeros(len(series) + 2, np.int8)
    with np.errstate(invalid="ignore"):
        above[1:-1] = score >= threshold
    above[: series.begin + 1] = 0
    edges, time = np.flatnonzero(np.diff(above)), series.time
    found: list[Alarm] = []
    for on, off in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        alarm = Alarm(int(time[on]), int(time[off]) if off < len(time) else None)
        last = found[-1].end_ns if found else None
        if last is not None and alarm.raised_ns - last < clear_after_ns:
            alarm = Alarm(found.pop().raised_ns, alarm.end_ns)
        found.append(alarm)
    return tuple(found)


def covered(alarms: Sequence[Alarm], series: Series) -> int:
    """Windows during which an alarm was on, whenever it was raised."""
    found = 0
    for window in series.windows:
        if window.last < series.begin:
            continue
        start, end = int(series.time[max(window.first, series.begin)]), int(series.time[window.last])
        found += any(a.raised_ns <= end and (a.end_ns is None or a.end_ns > start) for a in alarms)
    return found
