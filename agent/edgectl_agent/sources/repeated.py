"""Local times of an hour that daylight saving repeats → the pass that they belong to.

Text without an offset says the same for both passes. A stream is in the first until its local time goes back by more
than five minutes, which no ordinary disorder does; so does training. Decoders say which times come twice
(`RepeatedHours`); which pass a stream is in (`Passes`) belongs to the source's place in the snapshot, so that a restart
within the hour goes on in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import numpy as np

from edgectl_agent.core.batch import Int64
from edgectl_agent.core.units import DAY_NS, SECOND_NS

_QUARTER_NS = 900 * SECOND_NS
"""No zone changes its clocks but at a quarter of an hour."""
_BACK_NS = 300 * SECOND_NS
_MAX_KEPT = 50_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RepeatedHours:
    """The hours of a zone that come twice; a table of what was looked up."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._shift: dict[int, int] = {}
        """By quarter of an hour: how much later the second pass is, ns; 0 for all usual ones."""

    def again(self, cells: Sequence[Any], first: Int64, is_local: Callable[[Any], bool]) -> Int64 | None:
        """How much later each of these event times may come again, 0 for most; None if none does; shape (n,).

        Args:
            cells: the times as they were told.
            first: the same in ns, each in the first pass.
            is_local: whether a cell says no offset.
        """
        quarters, place = np.unique(first // _QUARTER_NS, return_inverse=True)
        shift = np.array([self._shift_of(int(quarter)) for quarter in quarters], np.int64)[place]
        if not shift.any():
            return None
        return shift * np.array([is_local(cell) for cell in cells], np.int64)

    def _shift_of(self, quarter: int) -> int:
        known = self._shift.get(quarter)
        if known is None:
            if len(self._shift) >= _MAX_KEPT:
                self._shift.clear()
            known = self._shift[quarter] = _shift(quarter, self._zone)
        return known


class Passes:
    """The passes that a source's streams are in."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, bool]] = {}

    def settle(self, streams: Sequence[str], first: Int64, again: Int64 | None) -> Int64:
        """Event times: those of the `first` pass, moved by `again` where a stream is in the second; shape (n,)."""
        if again is None:
            if self._seen and len(first) and first.min() > max(newest for newest, _ in self._seen.values()) + DAY_NS:
                self._seen.clear()
            return first
        found = first.copy()
        for row in np.flatnonzero(again).tolist():
            if self._second(streams[row], int(first[row])):
                found[row] += again[row]
        return found

    def snapshot(self) -> dict[str, tuple[int, bool]]:
        """Plain values, none but in the day after such an hour."""
        return dict(self._seen)

    def restore(self, state: Mapping[str, Sequence[int]]) -> None:
        """Go on where `snapshot` was taken."""
        self._seen = {stream: (int(newest), bool(second)) for stream, (newest, second) in state.items()}

    def _second(self, stream: str, first_ns: int) -> bool:
        newest, second = self._seen.get(stream, (first_ns, False))
        if first_ns - newest > DAY_NS:
            second = False  # another year's
        if first_ns < newest - _BACK_NS and not second:
            newest, second = first_ns, True
        if len(self._seen) >= _MAX_KEPT and stream not in self._seen:
            self._seen.clear()
        self._seen[stream] = (max(newest, first_ns), second)
        return second


def _shift(quarter: int, zone: tzinfo) -> int:
    """How much later the local time of this quarter, in UTC, comes again; 0 if it does not."""
    try:
        local = (_EPOCH + timedelta(minutes=15 * quarter)).astimezone(zone)
        early, late = (local.replace(fold=fold).utcoffset() for fold in (0, 1))
    except OverflowError:
        return 0
    if local.fold or early is None or late is None or early <= late:
        return 0
    return (early - late) // timedelta(microseconds=1) * 1000


def without_offset(cell: object) -> bool:
    """Whether a cell is a time as text, and says no offset."""
    if not isinstance(cell, str):
        return False
    try:
        return datetime.fromisoformat(cell.strip()).tzinfo is None
    except ValueError:
        return False
