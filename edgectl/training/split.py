"""Which readings a model learns from, which are held out: by time, never at random.

The held-out part is later than the fit part, as the node's readings will be. It calibrates the threshold, and every
number in the report comes from it. Windows run through both parts in order, as they do on a node.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from edgectl_agent.core.batch import Int64
from edgectl_agent.core.features import Bool
from edgectl_agent.core.units import event_time_ns

from edgectl.core.errors import ConfigError
from edgectl.training.tables import Table


@dataclass(frozen=True)
class Split:
    """Where the parts meet.

    Attributes:
        cut: index of the first held-out reading; no reading before it is later than one after it.
        known: shape (n,), readings in periods that are known to be bad: in no part, though they enter the windows.
    """

    cut: int
    known: Bool

    def fit(self, usable: Bool) -> Int64:
        """Rows of the fit part, of those that are `usable`."""
        return np.flatnonzero((usable & ~self.known)[: self.cut])

    def held(self, usable: Bool) -> Int64:
        """Rows of the held-out part, of those that are `usable`."""
        return self.cut + np.flatnonzero((usable & ~self.known)[self.cut :])


@dataclass(frozen=True)
class Period:
    """A known incident, inclusive; of all streams if `stream` is empty."""

    start_ns: int
    end_ns: int
    stream: str = ""


def split(table: Table, share: float, exclude: tuple[Period, ...] = ()) -> Split:
    """Cut after the first `share` of the readings; readings of the same time stay together."""
    wanted = min(int(len(table) * share), len(table) - 1)
    cut = int(np.searchsorted(table.event_time, table.event_time[wanted], side="left"))
    known = np.zeros(len(table), bool)
    for period in exclude:
        inside = (table.event_time >= period.start_ns) & (table.event_time <= period.end_ns)
        if period.stream:
            inside &= table.stream == (table.streams.index(period.stream) if period.stream in table.streams else -1)
        known |= inside
    return Split(cut, known)


def read_periods(path: Path) -> tuple[Period, ...]:
    """Known bad periods from a CSV file with the columns ``start,end`` and perhaps ``stream``.

    Raises:
        ConfigError: no such file, a missing column, a cell that is no time, an end before its start.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            for column in ("start", "end"):
                if column not in (rows.fieldnames or ()):
                    raise ConfigError(f"{path}: column {column!r} is missing, expected start,end and perhaps stream")
            return tuple(_period(path, number, row) for number, row in enumerate(rows, 2))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file (train.exclude of the recipe names it)") from None
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise ConfigError(f"{path}: cannot be read: {e}") from e


def _period(path: Path, number: int, row: dict[str, str]) -> Period:
    try:
        start, end = event_time_ns(row["start"]), event_time_ns(row["end"])
    except (ValueError, OverflowError, AttributeError):
        found = f"{row['start']!r} and {row['end']!r}"
        raise ConfigError(f"{path} row {number}: expected two times, found {found}") from None
    if end < start:
        raise ConfigError(f"{path} row {number}: the end {row['end']} is before the start {row['start']}")
    return Period(start, end, row.get("stream") or "")
