"""One reading at a time in plain floats: what `windows` does with arrays, for a reading that arrives alone.

A numpy call costs about a microsecond however little it is given, and a batch takes some hundreds of them; a lone
reading is done here in a tenth of the time. The arithmetic is the same, operation by operation, so the results are
equal to the last bit; `tests/agent/test_single.py` holds both to it. Rows are those of `Windows`' state: field after
field, in each all channels.
"""

from __future__ import annotations

import math

from edgectl_agent.core.bundle import Stat

_MOMENT_FIELDS = 8


def add(cell: list[float], channels: int, offset_s: float, values: list[float]) -> None:
    """Add a reading to its pane's cell."""
    c = channels
    t2 = offset_s * offset_s
    for i, value in enumerate(values):
        if value != value:
            continue
        if cell[i] == 0:
            cell[6 * c + i] = value
        x = value - cell[6 * c + i]
        cell[i] += 1.0
        cell[c + i] += x
        cell[2 * c + i] += x * x
        cell[3 * c + i] += offset_s
        cell[4 * c + i] += t2
        cell[5 * c + i] += offset_s * x
        if value < cell[7 * c + i]:
            cell[7 * c + i] = value
        if value > cell[8 * c + i]:
            cell[8 * c + i] = value


def moments(cell: list[float], channels: int) -> list[float]:
    """Moments of a cell, with times from the pane's begin."""
    c = channels
    found = [0.0] * (_MOMENT_FIELDS * c)
    for i in range(c):
        n, s1, square, t1, t2, tx, reference, low, high = cell[i::c]
        some = max(n, 1.0)
        x_mean, t_mean = s1 / some, t1 / some
        found[i::c] = (
            n,
            reference + x_mean,
            t_mean,
            max(square - s1 * x_mean, 0.0),
            max(t2 - t1 * t_mean, 0.0),
            tx - t1 * x_mean,
            low,
            high,
        )
    return found


def merge(into: list[float], later: list[float], channels: int, shift_s: float = 0.0) -> list[float]:
    """Both together, where the times of `later` begin `shift_s` after those of `into`."""
    c = channels
    found = [0.0] * (_MOMENT_FIELDS * c)
    for i in range(c):
        n, mean, t_mean, m2, tt, tx, low, high = into[i::c]
        n_, mean_, t_mean_, m2_, tt_, tx_, low_, high_ = later[i::c]
        if n_ > 0:
            t_mean_ += shift_s
        total = n + n_
        share = n_ / max(total, 1.0)
        weight = n * share
        dx, dt = mean_ - mean, t_mean_ - t_mean
        found[i::c] = (
            total,
            mean + dx * share,
            t_mean + dt * share,
            m2 + m2_ + dx * dx * weight,
            tt + tt_ + dt * dt * weight,
            tx + tx_ + dt * dx * weight,
            min(low, low_),
            max(high, high_),
        )
    return found


def shifted(moments: list[float], channels: int, seconds: float) -> list[float]:
    """With times from so much earlier."""
    c = channels
    found = list(moments)
    for i in range(c):
        if found[i] > 0:
            found[2 * c + i] += seconds
    return found


def statistics(window: list[float], channel: int, channels: int, stats: tuple[Stat, ...]) -> list[float]:
    """Statistics of one channel; NaN where the window holds no value."""
    n, mean, _, m2, tt, tx, low, high = window[channel::channels]
    if n == 0:
        return [0.0 if stat in ("count", "sum") else math.nan for stat in stats]
    found = {"mean": mean, "min": low, "max": high, "count": n, "sum": mean * n}
    if "std" in stats:
        found["std"] = math.sqrt(m2 / n)
    if "slope" in stats:
        found["slope"] = tx / tt if tt > 0 else 0.0
    return [found[stat] for stat in stats]
