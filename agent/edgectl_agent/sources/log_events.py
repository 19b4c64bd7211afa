"""Lines of a log → events: a line that continues the one before it belongs to its event.

A stack trace is one event. Which lines begin one is a pattern's to say; by default all that do not begin with a blank
and are not one of the lines that traces have at the margin. An event is complete when the next one begins, when its
file is left, or when nothing was added to it for `wait_s`; until then a source's position stays before it, so nothing
of it must be kept: after a restart its lines are read again. Lines that continue an event which is complete already,
or is longer than allowed, are dropped and counted ``continuation``: so the result does not depend on when it was
complete but for its length.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

import numpy as np

from edgectl_agent.core.batch import Int64
from edgectl_agent.sources.lines import NO_LINES, LineReader, Lines

BEGINS = rb"(?=[^\s}])(?!Caused by:|Traceback \(|\.\.\. \d+ more|[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt)\b)"
"""What begins an event if nothing is said: Java's and Python's traces belong to the line before them."""


_LOOK_BYTES = 400
"""Of a line, to see whether it begins an event."""
_ROUNDS = 8
"""Blocks that one `read` looks at for the end of an event."""


class Joiner:
    """Puts lines together, one block after the other."""

    def __init__(self, begins: str, max_lines: int, max_bytes: int) -> None:
        self._begins = re.compile(begins.encode() if begins else BEGINS).match
        self._max_lines, self._max_bytes = max_lines, max_bytes
        self._lines: list[bytes] = []
        self._bytes = 0
        self._end = 0
        """Offset behind the last line of the open event."""
        self.dropped = 0

    @property
    def open(self) -> bool:
        """Whether an event waits for lines that may belong to it."""
        return bool(self._lines)

    def push(self, lines: Sequence[bytes], ends: Int64) -> tuple[list[bytes], list[int]]:
        """Add lines; returns the events that are complete now, and the offset behind each."""
        events: list[bytes] = []
        offsets: list[int] = []
        begins, offset = self._begins, ends.tolist()
        for i, line in enumerate(lines):
            if begins(line, 0, _LOOK_BYTES):
                if self._lines:
                    events.append(b"\n".join(self._lines) if len(self._lines) > 1 else self._lines[0])
                    offsets.append(self._end)
                self._lines, self._bytes, self._end = [line], len(line), offset[i]
            elif not line.strip() and not self._lines:
                continue
            elif self._lines and len(self._lines) < self._max_lines and self._bytes + len(line) < self._max_bytes:
                self._lines.append(line)
                self._bytes += len(line) + 1
                self._end = offset[i]
            else:
                if self._lines:
                    events += (event := self.flush())[0]
                    offsets += event[1]
                self.dropped += 1
        return events, offsets

    def take_dropped(self) -> int:
        """How many lines continued nothing, since this was last asked."""
        dropped, self.dropped = self.dropped, 0
        return dropped

    def flush(self) -> tuple[list[bytes], list[int]]:
        """Complete the open event."""
        if not self._lines:
            return [], []
        event, self._lines = b"\n".join(self._lines), []
        return [event], [self._end]


class EventReader:
    """A `LineReader` whose lines are events."""

    def __init__(
        self, lines: LineReader, joiner: Joiner, wait_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner, self._joiner = lines, joiner
        self._wait_s, self._monotonic = wait_s, monotonic
        self._touched_s = monotonic()
        self.exhausted = False
        """Whether there was no complete line when it was last read."""

    @property
    def seen(self) -> int:
        return self._inner.seen

    @property
    def rewritten(self) -> bool:
        return self._inner.rewritten

    @property
    def unfinished(self) -> bool:
        return self._inner.unfinished

    def take_dropped(self) -> int:
        """As `Joiner.take_dropped`."""
        return self._joiner.take_dropped()

    @property
    def ready(self) -> bool:
        """Whether `read` would find something, or must look whether an event is complete."""
        return self._inner.ready or (self._joiner.open and self._overdue())

    def read(self, limit: int) -> Lines:
        """Events that are complete; from at most `limit` lines. Raises OSError."""
        events: list[bytes] = []
        ends: list[int] = []
        too_long = 0
        for _ in range(_ROUNDS):
            taken = self._inner.read(limit)
            too_long += taken.too_long
            self.exhausted = not taken.lines
            if taken.lines:
                self._touched_s = self._monotonic()
            events, ends = self._joiner.push(taken.lines, taken.ends)
            if events or self.exhausted:
                break
        if not events and self._joiner.open and self._overdue():
            events, ends = self._joiner.flush()
        return Lines(events, np.array(ends, np.int64), too_long)

    def flush(self) -> Lines:
        """The event that waits, complete as it is: its file is left."""
        events, ends = self._joiner.flush()
        return Lines(events, np.array(ends, np.int64)) if events else NO_LINES

    def _overdue(self) -> bool:
        return self._monotonic() - self._touched_s >= self._wait_s
