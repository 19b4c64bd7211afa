"""Scores above a threshold → alerts with one onset and a state, per stream.

The life of an alert is the table below; a stream is in one state at a time. Durations are event time, so a replay makes
the same alerts again.

======== ============================== ========= ==========================================
state    reading                        next      record
======== ============================== ========= ==========================================
quiet    above warning                  pending   (at once ``open`` when ``hold`` is 0)
pending  above, ``hold`` after onset    open      open
pending  below                          quiet
open     above critical, was warning    open      open, critical
open     below since ``clear_after``    quiet     cleared
======== ============================== ========= ==========================================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import AlertRule

Phase = Literal["pending", "open"]
Bool = NDArray[np.bool_]
_FEW = 8
"""So many readings of a stream are handled sooner one by one."""


@dataclass(frozen=True, slots=True)
class Track:
    """What a stream that is not quiet remembers."""

    phase: Phase
    onset_ns: int
    last_above_ns: int
    peak: float
    critical: bool
    accepted_ns: int
    """When the first reading above was handed over (the node's clock)."""
    threshold: float
    """The warning threshold in force at the onset."""


@dataclass(frozen=True, slots=True)
class Change:
    """A record to be made: `row` is the index, within the pushed rows, of the reading that caused it."""

    row: int
    cleared: bool
    track: Track


class AlertTracker:
    """State of all streams that are not quiet."""

    def __init__(self, rule: AlertRule) -> None:
        self._rule = rule
        self._tracks: dict[int, Track] = {}

    @property
    def open_alerts(self) -> int:
        return len(self.open_tracks())

    def tracks(self) -> dict[int, Track]:
        """Streams that are not quiet."""
        return dict(self._tracks)

    def open_tracks(self) -> dict[int, Track]:
        """Streams that have an open alert."""
        return {stream: track for stream, track in self._tracks.items() if track.phase == "open"}

    def follows(self, stream: int) -> bool:
        """Whether the stream is not quiet."""
        return stream in self._tracks

    def push(
        self, stream: int, t: Int64, score: Float64, warning: Float64, critical: Float64, accepted_ns: int
    ) -> list[Change]:
        """Advance one stream by its scored readings, in event-time order; shapes (n,)."""
        if len(t) <= _FEW:
            rows = zip(t.tolist(), score.tolist(), warning.tolist(), critical.tolist(), strict=True)
            found = (self._step(stream, row, *one, accepted_ns) for row, one in enumerate(rows))
            return [change for change in found if change is not None]
        above = score >= warning
        track = self._tracks.get(stream)
        if track is None and not above.any():
            return []
        changes: list[Change] = []
        row, n = 0, len(t)
        above_rows = np.flatnonzero(above)
        while row < n:
            if track is None:
                place = int(np.searchsorted(above_rows, row))
                if place == len(above_rows):
                    break
                row = int(above_rows[place])
                track = Track(
                    "pending", int(t[row]), int(t[row]), float(score[row]), False, accepted_ns, float(warning[row])
                )
            step = self._pending if track.phase == "pending" else self._open
            track, row = step(track, row, t, score, above, critical, changes)
        if track is None:
            self._tracks.pop(stream, None)
        else:
            self._tracks[stream] = track
        return changes

    def forget(self, streams: Iterable[int]) -> None:
        """These streams are quiet, without a record."""
        for stream in streams:
            self._tracks.pop(stream, None)

    def _step(
        self, stream: int, row: int, t: int, score: float, warning: float, critical: float, accepted_ns: int
    ) -> Change | None:
        """`push` of one reading, `row` of those that are pushed."""
        above, track = score >= warning, self._tracks.get(stream)
        if track is None:
            if not above:
                return None
            track = Track("pending", t, t, score, False, accepted_ns, warning)
        if track.phase == "pending":
            return self._step_pending(stream, row, track, t, score, above, critical)
        last = t if above else track.last_above_ns
        risen = not track.critical and above and score >= critical
        cleared = not above and t - last >= self._rule.clear_after_ns
        peak = max(track.peak, score)
        track = replace(track, last_above_ns=last, peak=peak, critical=track.critical or risen)
        self._tracks[stream] = track
        if cleared:
            del self._tracks[stream]
        return Change(row, cleared, track) if risen or cleared else None

    def _step_pending(
        self, stream: int, row: int, track: Track, t: int, score: float, above: bool, critical: float
    ) -> Change | None:
        if not above:
            self._tracks.pop(stream, None)
            return None
        held = t - track.onset_ns >= self._rule.hold_ns
        track = replace(track, last_above_ns=t, peak=max(track.peak, score))
        if held:
            track = replace(track, phase="open", critical=score >= critical)
        self._tracks[stream] = track
        return Change(row, False, track) if held else None

    def snapshot(self) -> dict[str, Any]:
        names = [f.name for f in fields(Track)]
        return {str(stream): [getattr(track, name) for name in names] for stream, track in self._tracks.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self._tracks = {int(stream): Track(*values) for stream, values in state.items()}

    def _pending(
        self, track: Track, row: int, t: Int64, score: Float64, above: Bool, critical: Float64, changes: list[Change]
    ) -> tuple[Track | None, int]:
        """From `row`: until held long enough, or below again, or out of readings."""
        below = row + int(np.argmin(above[row:])) if not above[row:].all() else len(t)
        held = np.flatnonzero(t[row:below] - track.onset_ns >= self._rule.hold_ns)
        end = row + int(held[0]) + 1 if len(held) else below
        if end > row:
            peak = max(track.peak, float(score[row:end].max()))
            track = replace(track, last_above_ns=int(t[end - 1]), peak=peak)
        if len(held):
            at = end - 1
            track = replace(track, phase="open", critical=bool(score[at] >= critical[at]))
            changes.append(Change(at, False, track))
            return track, end
        return (None, below + 1) if below < len(t) else (track, below)

    def _open(
        self, track: Track, row: int, t: Int64, score: Float64, above: Bool, critical: Float64, changes: list[Change]
    ) -> tuple[Track | None, int]:
        """From `row`: until the next change, or out of readings."""
        last_above = np.maximum.accumulate(np.where(above[row:], t[row:], track.last_above_ns))
        clears = np.flatnonzero(~above[row:] & (t[row:] - last_above >= self._rule.clear_after_ns))
        rises = np.flatnonzero(above[row:] & (score[row:] >= critical[row:])) if not track.critical else clears[:0]
        stop = min([*clears[:1], *rises[:1]], default=None)
        end = len(t) if stop is None else row + int(stop) + 1
        peak = max(track.peak, float(score[row:end].max()))
        risen = bool(len(rises) and rises[0] == stop)
        last = int(last_above[end - 1 - row])
        track = replace(track, last_above_ns=last, peak=peak, critical=track.critical or risen)
        if stop is not None:
            changes.append(Change(end - 1, not risen, track))
            if not risen:
                return None, end
        return track, end
