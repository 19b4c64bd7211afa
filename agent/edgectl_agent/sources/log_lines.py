"""Events of a log → columns: never raises on what a log holds, binary content included.

Columns are `LOG_COLUMNS` and the named groups of a pattern. An event becomes a reading unless it has no time
(``bad-time``) or no stream (``bad-stream``). What is no UTF-8, and control characters, read as U+FFFD.

Lines are written by the second or millisecond, several in one tick: the events of a source are numbered, and the number
is added to the time below the tick, in ns. So equal lines of one tick are not taken for one that came twice, and their
order is kept.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgectl_agent.config import Fields, LogLines
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.templates import masked
from edgectl_agent.core.units import duration_ns, size_bytes
from edgectl_agent.sources.cells import MAX_TEXT_CHARS, Reasons, numbers
from edgectl_agent.sources.decode import Columns, Decoder, Rejected
from edgectl_agent.sources.lines import LineReader
from edgectl_agent.sources.log_events import EventReader, Joiner
from edgectl_agent.sources.log_times import LogTime, LogTimes

_LEVEL = re.compile(
    r"\b(TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERR(?:OR)?|CRIT(?:ICAL)?|ALERT|EMERG|FATAL|SEVERE|PANIC)\b", re.IGNORECASE
)
_LEVELS = {"WARNING": "WARN", "ERR": "ERROR", "CRIT": "CRITICAL", "FATAL": "CRITICAL", "SEVERE": "ERROR",
           "EMERG": "CRITICAL", "PANIC": "CRITICAL", "ALERT": "CRITICAL"}  # fmt: skip
_LEVEL_WITHIN = 120
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_SEPARATORS = " \t\r:|-]"
_NO_TIME = LogTime(0, 1, 0)
MAX_HEAD_CHARS = 4000
"""Of an event's first line that are looked at."""


def joiner(said: LogLines) -> Joiner:
    """Puts a log's lines together."""
    return Joiner(said.begins, said.max_lines, size_bytes(said.max_event))


def event_reader(lines: LineReader, said: LogLines) -> EventReader:
    """Reads events of a log."""
    return EventReader(lines, joiner(said), duration_ns(said.wait) / 1e9)


class LogDecoder(Decoder):
    """Reads events.

    Attributes:
        sequence: how many events came before the next one; a source that resumes sets it.
    """

    def __init__(self, mapping: Fields, said: LogLines, clock: Callable[[], int] = time.time_ns) -> None:
        super().__init__(mapping)
        self.sequence = 0
        self._clock = clock
        self._pattern = re.compile(said.pattern) if said.pattern else None
        self._groups = set(self._pattern.groupindex) if self._pattern else set()
        self._times = LogTimes(self._zone)
        self._time_column = mapping.time
        self._stream_column = mapping.stream
        self._wanted = (*mapping.channels.values(), *mapping.categories.values())
        self._needed = {*self._wanted, mapping.stream}

    def _parse(self, lines: Sequence[bytes], rejected: Rejected) -> Columns:
        cells = self._cells(lines)
        return Columns(
            range(len(lines)),
            cells[self._time_column],
            None if self._constant is not None else cells[self._stream_column],
            [cells[column] for column in self._wanted[: self._width]]
            + [list(map(_shortened, cells[column])) for column in self._wanted[self._width :]],
        )

    def _cells(self, events: Sequence[bytes]) -> dict[str, list[Any]]:
        """All columns that are asked for; times as `LogTime`, None where there is none."""
        now_ns = self._clock()
        heads, tails, counts = _heads(events)
        found: dict[str, list[Any]] = {name: [] for name in ("time", *self._groups)}
        messages = []
        for head in heads:
            match = self._pattern.search(head) if self._pattern else None
            parts = match.groupdict("") if match else dict.fromkeys(self._groups, "")
            stamp = parts.get("time") or head
            at = self._times.find(stamp, now_ns)
            for name in self._groups - {"time"}:
                found[name].append(parts[name])
            found["time"].append(at)
            if "message" in self._groups and match:
                messages.append(parts["message"])
            else:
                end = match.end() if match and match.start() == 0 else (at.end if at and stamp is head else 0)
                messages.append(head[end:].lstrip(_SEPARATORS))
        if "message" in self._needed:
            found["message"] = masked([f"{m} | {t}" if t else m for m, t in zip(messages, tails, strict=True)])
        if "level" in self._needed:
            said = found.get("level") or [_level(head) for head in heads]
            found["level"] = [_LEVELS.get(level.upper(), level.upper()) for level in said]
        found["length"] = [len(event) for event in events]
        found["lines"] = counts
        found["replaced"] = [head.count("�") for head in heads] if "replaced" in self._needed else []
        found["arrival"] = [LogTime(now_ns, 1, 0)] * len(heads)
        return found

    def _event_times(self, cells: Sequence[LogTime | None], why: Reasons) -> Int64:
        for i, at in enumerate(cells):
            if at is None:
                why[i] = "bad-time"
        given = [at or _NO_TIME for at in cells]
        ns, tick = np.array([at.ns for at in given], np.int64), np.array([at.tick for at in given], np.int64)
        arrival = self._time_column == "arrival"
        number = np.arange(len(cells)) + (0 if arrival else self.sequence)
        self.sequence += len(cells)
        return ns + (number if arrival else number % tick)

    def _numbers(self, cells: Sequence[Any], why: Reasons) -> Float64:
        return numbers(cells, why)

    def _is_local(self, cell: LogTime | None) -> bool:
        return cell is not None and cell.local


def _shortened(cell: str | int) -> str | int:
    return cell if isinstance(cell, int) else cell.strip()[:MAX_TEXT_CHARS]


def _heads(events: Sequence[bytes]) -> tuple[list[str], list[str], list[int]]:
    """Of each event: its first line, its last line at the margin if it has several (what a trace ends with), how many
    lines."""
    raw, tails, counts = [], [], []
    for event in events:
        count = event.count(b"\n")
        counts.append(count + 1)
        if not count:
            raw.append(event[:MAX_HEAD_CHARS])
            tails.append("")
            continue
        first, *rest = event.split(b"\n")
        raw.append(first[:MAX_HEAD_CHARS])
        last = next((line for line in reversed(rest) if line[:1].strip()), b"")
        tails.append(_clean(last[:MAX_HEAD_CHARS].decode("utf-8", "replace")))
    text = _clean(b"\n".join(raw).decode("utf-8", "replace"))
    return text.split("\n"), tails, counts


def _clean(text: str) -> str:
    return _CONTROL.sub("�", text) if _CONTROL.search(text) else text


def _level(head: str) -> str:
    found = _LEVEL.search(head, 0, _LEVEL_WITHIN)
    return found[1] if found else ""
