"""Periods of event time from a CSV file: known incidents, labelled faults, and when which stream was watched."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from edgectl_agent.core.units import event_time_ns, iso

from edgectl.core.errors import ConfigError
from edgectl.core.evaluation import Period

COLUMNS = ("start", "end", "stream", "kind")


def read_periods(path: Path, named_by: str = "") -> tuple[Period, ...]:
    """The rows of a CSV file with the columns ``start,end`` and perhaps ``stream`` and ``kind``.

    Args:
        path: the file.
        named_by: what says that it should be there, for the message if it is not.

    Raises:
        ConfigError: no such file, a missing column, a cell that is no time, an end before its start.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            for column in COLUMNS[:2]:
                if column not in (rows.fieldnames or ()):
                    raise ConfigError(f"{path}: column {column!r} is missing, expected start,end and perhaps stream")
            return tuple(_period(path, number, row) for number, row in enumerate(rows, 2))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{f' ({named_by} names it)' if named_by else ''}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise ConfigError(f"{path}: cannot be read: {e}") from e


def write_periods(path: Path, periods: Iterable[Period]) -> None:
    """As `read_periods` reads them, by their start. Raises OSError."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for one in sorted(periods, key=lambda p: (p.start_ns, p.stream, p.kind)):
            rows.writerow((iso(one.start_ns), iso(one.end_ns), one.stream, one.kind))


def _period(path: Path, number: int, row: dict[str, str]) -> Period:
    try:
        start, end = event_time_ns(row["start"]), event_time_ns(row["end"])
    except (ValueError, OverflowError, AttributeError):
        found = f"{row['start']!r} and {row['end']!r}"
        raise ConfigError(f"{path} row {number}: expected two times, found {found}") from None
    if end < start:
        raise ConfigError(f"{path} row {number}: the end {row['end']} is before the start {row['start']}")
    return Period(start, end, row.get("stream") or "", row.get("kind") or "")
