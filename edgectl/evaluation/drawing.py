"""One series as an inline SVG: a panel for each channel, one for the score, labelled windows and alerts over all.

Long curves are drawn as the lowest and highest value of equal stretches, so that no peak is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.units import iso

from edgectl.evaluation.series import Replayed, Series

_WIDTH, _LEFT = 1000, 8
_VALUE_HEIGHT, _SMALL_HEIGHT, _SCORE_HEIGHT, _GAP = 130, 44, 90, 8
_STRETCHES = 700
_TOP = 4.0
"""The score's panel ends at so many times the middle threshold."""
_VALUE, _SCORE, _LEVEL, _WINDOW, _ALERT, _HISTORY = "#31688e", "#6a4c93", "#444", "#f6c7c3", "#d62728", "#eee"
LEGEND = (
    f'<span style="color:{_VALUE}">values</span> · <span style="color:{_SCORE}">score</span> (cut where it is far '
    f'above its threshold) · <span style="color:{_LEVEL}">– – threshold in force</span> · '
    f'<span style="background:{_WINDOW}">labelled window</span> · <span style="color:{_ALERT}">▼ alert</span> · '
    f'<span style="background:{_HISTORY}">history, not scored</span>'
)


def picture(series: Series, replayed: Replayed, channels: Sequence[int]) -> str:
    """The SVG of `series`, of its `channels`."""
    height = _VALUE_HEIGHT if len(channels) == 1 else _SMALL_HEIGHT
    score_y = len(channels) * (height + _GAP) + 12
    whole = score_y + _SCORE_HEIGHT + 2
    x = _Across(series)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {whole}" role="img">']
    if series.begin:
        parts.append(_box(x.left, x.of_row(min(series.begin, len(series) - 1)), whole, _HISTORY))
    parts += [_box(x.of_row(w.first), x.of_row(w.last), whole, _WINDOW) for w in series.windows]
    for i, channel in enumerate(channels):
        parts += _values(x, series.values[:, channel], 12 + i * (height + _GAP), height, series.channels[channel])
    parts += _scores(x, replayed, score_y)
    parts += [_alert(x.of_time(alarm.raised_ns), alarm.raised_ns) for alarm in replayed.alarms]
    return "".join([*parts, "</svg>"])


class _Across:
    """Times → places from left to right."""

    def __init__(self, series: Series) -> None:
        self.left = float(_LEFT)
        self._time, self._first = series.time, int(series.time.min())
        self._scale = (_WIDTH - 2 * _LEFT) / max(int(series.time.max()) - self._first, 1)

    def of_time(self, ns: int) -> float:
        return self.left + (ns - self._first) * self._scale

    def of_row(self, row: int) -> float:
        return self.of_time(int(self._time[row]))


def _values(x: _Across, values: Float64, top: float, height: float, name: str) -> list[str]:
    some = values[np.isfinite(values)]
    low, high = (float(some.min()), float(some.max())) if len(some) else (0.0, 1.0)
    return [
        _curve(x, values, low, high, top, height, _VALUE),
        f'<text x="{_WIDTH - _LEFT}" y="{top + 9}" font-size="10" fill="#666" text-anchor="end">'
        f"{escape(name)} {low:.4g} … {high:.4g}</text>",
    ]


def _scores(x: _Across, replayed: Replayed, top: float) -> list[str]:
    levels = replayed.level[np.isfinite(replayed.level)]
    scores = replayed.raw[np.isfinite(replayed.raw)]
    if not len(scores):
        return []
    high = max(float(np.median(levels)) * _TOP if len(levels) else 0.0, 1e-12)
    high = min(high, max(float(scores.max()), float(levels.max()) if len(levels) else 0.0) * 1.05)
    low = min(float(scores.min()), 0.0)
    return [
        _curve(x, replayed.raw, low, high, top, _SCORE_HEIGHT, _SCORE),
        _curve(x, replayed.level, low, high, top, _SCORE_HEIGHT, _LEVEL, 'stroke-dasharray="4 3"'),
    ]


def _curve(
    x: _Across, values: Float64, low: float, high: float, top: float, height: float, color: str, more: str = ""
) -> str:
    rows = _kept(values)
    if not len(rows):
        return ""
    span = high - low or 1.0
    points = (
        f"{x.of_row(row):.1f},{top + height * (1 - (min(max(float(values[row]), low), high) - low) / span):.1f}"
        for row in rows
    )
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}" stroke-width="1" {more}/>'


def _kept(values: Float64) -> list[int]:
    """Rows that are drawn: all, or the lowest and highest of each stretch."""
    rows = np.flatnonzero(np.isfinite(values))
    if len(rows) <= 2 * _STRETCHES:
        return [int(row) for row in rows]
    return sorted({row for part in np.array_split(rows, _STRETCHES) for row in _ends(values, part.tolist())})


def _ends(values: Float64, rows: list[int]) -> Iterable[int]:
    part = values[rows]
    return rows[int(part.argmin())], rows[int(part.argmax())]


def _box(left: float, right: float, height: float, color: str) -> str:
    return f'<rect x="{left:.1f}" y="10" width="{max(right - left, 1.5):.1f}" height="{height - 10}" fill="{color}"/>'


def _alert(at: float, ns: int) -> str:
    return f'<path d="M{at - 4:.1f} 1h8l-4 8z" fill="{_ALERT}"><title>{iso(ns)}</title></path>'
