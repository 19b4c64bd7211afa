"""Synthetic faults with known times, put into held-out readings: what the detector finds of them needs no labels.

They answer two questions: how much of a fault of a stated size is found, and how late; and whether a smaller variant
raises the same alerts as the full one (which needs alerts to compare). Sizes are in units of the channel's usual spread
within its stream, so that a fault means the same on every channel. Recall of real faults may differ: real faults are
not these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import Channel

from edgectl.core import evaluation
from edgectl.core.evaluation import Onset, Period
from edgectl.training.tables import Table

Kind = Literal["spike", "level", "drift", "variance", "stuck", "rhythm", "correlation", "surge"]
ALL: tuple[Kind, ...] = get_args(Kind)
KINDS: tuple[Kind, ...] = ALL[:5]
"""Those that reports show; the others, of no stated size, only help to choose among detectors."""
SIZES: dict[Kind, float] = {
    "spike": 8.0, "level": 4.0, "drift": 6.0, "variance": 4.0, "stuck": 0.0,
    "rhythm": 0.0, "correlation": 0.0, "surge": 1.0,
}  # fmt: skip
"""Spreads added (spike, level), reached at the end (drift), or by which deviations grow (variance)."""
_LENGTH = (20, 120)
"""Readings that a fault lasts, except a spike."""
_FEWEST_BEFORE = 50
_MOST = 20
"""Faults per kind at most."""
_SHARE_OF_CHANNELS = 0.2
"""A fault shows in this share of the channels, in one at least: the wider the recipe, the less one channel says."""


@dataclass(frozen=True)
class Fault:
    """One fault: rows of one stream, in order, and the channels that it changes."""

    kind: Kind
    stream: str
    channels: tuple[int, ...]
    start_ns: int
    end_ns: int
    sign: float
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """What was found of one kind. `delay_ns` is the median from the first faulty reading to the onset, NaN if none."""

    kind: Kind
    injected: int
    found: int
    delay_ns: float


def plan(table: Table, first_row: int, window_ns: int, seed: int, kinds: Sequence[Kind] = KINDS) -> tuple[Fault, ...]:
    """Where to put faults: apart from each other, all kinds in turn, streams in turn.

    Args:
        table: the readings.
        first_row: faults lie at or after this row.
        window_ns: the recipe's longest window; it must have passed between two faults of a stream.
        seed: decides places, channels and signs.
        kinds: of faults.
    """
    random = np.random.default_rng(seed)
    length, width = _length(table, window_ns), table.values.shape[1]
    if width == 0:  # nothing but categories
        return ()
    places: list[tuple[int, np.ndarray]] = []
    for stream in range(len(table.streams)):
        rows = first_row + np.flatnonzero(table.stream[first_row:] == stream)
        if len(rows) == 0:
            continue
        time = table.event_time[rows]
        at = int(np.searchsorted(time, time[0] + window_ns))
        while at + length < len(rows):
            start = at + int(random.integers(0, length // 2 + 1))
            if start + length > len(rows):
                break
            places.append((stream, rows[start : start + length]))
            at = int(np.searchsorted(time, time[start + length - 1] + window_ns)) + length
    places = [places[i] for i in random.permutation(len(places))[: _MOST * len(kinds)]]
    faults = []
    for number, (stream, rows) in enumerate(places):
        kind = kinds[number % len(kinds)]
        rows = rows[:1] if kind == "spike" else rows
        chosen = random.choice(width, max(1, round(_SHARE_OF_CHANNELS * width)), replace=False)
        channels, sign = tuple(sorted(map(int, chosen))), float(random.choice([-1.0, 1.0]))
        start_ns, end_ns = int(table.event_time[rows[0]]), int(table.event_time[rows[-1]])
        faults.append(Fault(kind, table.streams[stream], channels, start_ns, end_ns, sign, tuple(map(int, rows))))
    return tuple(faults)


def inject(table: Table, faults: Sequence[Fault], channels: Sequence[Channel], strength: float = 1.0) -> Table:
    """A copy of `table` with the faults in it, `strength` times as large; values stay within their channel's range."""
    values = table.values.copy()
    spreads: dict[tuple[str, int], float] = {}
    for fault in faults:
        rows = np.array(fault.rows)
        if fault.kind == "surge":
            values[rows] += _surge(table, rows, fault.start_ns)
            continue
        for column in fault.channels:
            if (fault.stream, column) not in spreads:
                mine = table.stream == table.streams.index(fault.stream)
                spreads[fault.stream, column] = _spread(table.values[mine, column])
            if fault.kind in ("rhythm", "correlation"):
                values[rows, column] = _replaced(fault, table, column, rows)
                continue
            low, high = channels[column].low, channels[column].high
            size = strength * SIZES[fault.kind]
            changed = _faulty(fault, values[rows, column], size, spreads[fault.stream, column])
            values[rows, column] = np.clip(changed, -np.inf if low is None else low, np.inf if high is None else high)
    return replace(table, values=values)


def judge(faults: Sequence[Fault], onsets: Sequence[Onset], window_ns: int) -> tuple[Found, ...]:
    """Which faults have an onset on their stream from their first reading until one window after their last."""
    labels = [Period(f.start_ns, f.end_ns, f.stream, f.kind) for f in faults]
    seen = evaluation.judge(labels, onsets, stream_days=0.0, slack_ns=window_ns)
    parts = [(kind, seen.of(kind)) for kind in KINDS]
    return tuple(Found(kind, part.faults, part.found, part.delay_ns) for kind, part in parts)


def _faulty(fault: Fault, x: Float64, size: float, spread: float) -> Float64:
    moved = fault.sign * size * spread
    if fault.kind in ("spike", "level"):
        return x + moved
    if fault.kind == "drift":
        return x + moved * np.linspace(0.0, 1.0, len(x))
    if fault.kind == "variance":
        middle = np.nanmean(x) if not np.isnan(x).all() else 0.0
        return middle + (x - middle) * size
    return np.where(np.isnan(x), x, x[0])


def _surge(table: Table, rows: Int64, number: int) -> Float64:
    """How far all channels were from their middle in one of the stream's busiest readings before: a load that comes on
    top moves them together, along what a model knows."""
    before = np.flatnonzero(table.stream[: rows[0]] == table.stream[rows[0]])
    if len(before) < _FEWEST_BEFORE:
        return np.zeros(table.values.shape[1])
    x = table.values[before]
    away = np.nan_to_num(x - np.nanmedian(x, axis=0))
    size = np.mean(np.clip(away / np.maximum(away.std(axis=0), 1e-9), -20, 20) ** 2, axis=1)
    busiest = np.argsort(size, kind="stable")[-max(1, len(before) // 100) :]
    return np.asarray(away[busiest[number // 1000 % len(busiest)]], np.float64)


def _replaced(fault: Fault, table: Table, column: int, rows: Int64) -> Float64:
    """Another stretch of the channel: its usual values from another time (its tie to other channels is broken), or its
    median with its short movements alone (what comes regularly does not come)."""
    mine = np.flatnonzero(table.stream == table.stream[rows[0]])
    x, at = table.values[mine, column], int(np.searchsorted(mine, rows[0]))
    if fault.kind == "correlation":
        return np.asarray(x[(at + len(x) // 2 + np.arange(len(rows))) % len(x)], np.float64)
    part = x[at : at + len(rows)]
    if np.isnan(part).any():
        return np.asarray(part, np.float64)
    width = min(5, len(part))
    padded = np.pad(part, (width // 2, width - 1 - width // 2), mode="edge")
    slow = np.convolve(padded, np.full(width, 1 / width), mode="valid")
    return np.asarray(np.nanmedian(x) + (part - slow), np.float64)


def _spread(values: Float64) -> float:
    """The usual spread: interquartile range as a normal distribution's deviation, else the standard deviation."""
    some = values[~np.isnan(values)]
    if len(some) == 0:
        return 1.0
    low, high = np.percentile(some, [25, 75])
    return float((high - low) / 1.349 or some.std() or 1.0)


def _length(table: Table, window_ns: int) -> int:
    interval = max(table.interval_ns, 1)
    return int(np.clip(window_ns // (2 * interval), *_LENGTH))
