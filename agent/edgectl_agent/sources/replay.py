"""Reads a recorded file, as fast as its event times say, some factor faster, or as fast as possible.

The last line needs no line feed. With ``repeat`` the file starts again when it ends, its event times moved on by its
own span, so that time never runs backwards.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgectl_agent.config import ReplayConfig
from edgectl_agent.core.batch import Int64
from edgectl_agent.core.units import SECOND_NS
from edgectl_agent.sources.decode import Decoder, Records, no_records
from edgectl_agent.sources.interface import Chunk, Position, Sample, Source, SourceError
from edgectl_agent.sources.lines import LineReader, open_decoder

_BLOCK_LINES = 4096
_LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class _Block:
    """Decoded readings that wait for their time.

    Attributes:
        ends: shape (n,), the file offset behind each reading's line.
        due: shape (n,), the newest event time up to each reading: one that goes back in time is due at once.
        end: the offset behind the block, rejected lines included.
    """

    records: Records
    ends: Int64
    due: Int64
    end: int


class ReplaySource(Source):
    """Position: ``{"offset", "shift_ns", "first_ns", "newest_ns"}``; the last two span the round so far."""

    def __init__(
        self,
        config: ReplayConfig,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._path = config, Path(config.path)
        self._clock, self._monotonic = clock, monotonic
        self._speed = None if config.speed == "max" else float(config.speed)
        self._file: BinaryIO | None = None
        nothing = no_records(config)
        self._empty = _Block(nothing, nothing.line, nothing.event_time, 0)

    def open(self, position: Position | None) -> None:
        self.close()
        try:
            self._file = self._path.open("rb", buffering=0)
            found = open_decoder(self._config, self._file, self._path)
            size = os.fstat(self._file.fileno()).st_size
        except OSError as e:
            self.close()
            raise SourceError(f"{self._path} cannot be read: {e.strerror or e}") from e
        except SourceError:
            self.close()
            raise
        if found is None:
            self.close()
            raise SourceError(f"{self._path}: has no complete first line, expected a CSV header")
        self._decoder: Decoder = found[0]
        self._start: int = found[1]
        at = position or {}
        self._offset = max(self._start, int(at.get("offset", 0)))
        if self._offset > size:
            self.close()
            raise SourceError(f"{self._path} has {size} bytes, expected at least the {self._offset} already read")
        self._shift = int(at.get("shift_ns", 0))
        self._span = (int(at["first_ns"]), int(at["newest_ns"])) if "first_ns" in at else None
        self._reader = LineReader(self._file, self._offset)
        self._block, self._next = self._empty, 0
        self._rejected: dict[str, int] = {}
        self._samples: tuple[Sample, ...] = ()
        self._pace: tuple[int, float] | None = None
        self._ended = False

    def poll(self, limit: int, timeout_s: float) -> Chunk:
        deadline = self._monotonic() + timeout_s
        while True:
            if self._next == len(self._block.ends) and not self._ended:
                self._load()
            ready = min(limit, self._due() - self._next)
            left = deadline - self._monotonic()
            if ready or self._rejected or self._ended or left <= 0:
                return self._take(ready)
            time.sleep(min(left, _LOOK_S))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _due(self) -> int:
        """Index behind the last reading of the block whose time has come."""
        due = self._block.due
        if self._speed is None or not len(due):
            return len(due)
        if self._pace is None:
            self._pace = (int(due[self._next]) if self._next < len(due) else int(due[-1]), self._monotonic())
        start_ns, start_s = self._pace
        now_ns = start_ns + int((self._monotonic() - start_s) * self._speed * SECOND_NS)
        return max(self._next, int(np.searchsorted(due, now_ns, side="right")))

    def _take(self, count: int) -> Chunk:
        block, part = self._block, slice(self._next, self._next + count)
        self._next += count
        if self._next == len(block.ends):
            self._offset = max(self._offset, block.end)
        elif count:
            self._offset = int(block.ends[self._next - 1])
        rejected, self._rejected = self._rejected, {}
        samples, self._samples = self._samples, ()
        position: Position = {"offset": self._offset, "shift_ns": self._shift}
        if self._span is not None:
            position |= {"first_ns": self._span[0], "newest_ns": self._span[1]}
        ended = self._ended and self._next == len(block.ends)
        return block.records[part].chunk(position, self._clock(), rejected, ended, samples)

    def _load(self) -> None:
        """Decode the next block, or find that the file has ended."""
        try:
            taken = self._reader.read(_BLOCK_LINES)
        except OSError as e:
            raise SourceError(f"{self._path} cannot be read: {e.strerror or e}") from e
        lines = taken if taken.lines else self._reader.last()
        if taken.too_long:
            self._rejected["too-long"] = taken.too_long
        if not lines.lines:
            self._end_round()
            return
        records = self._decoder.decode(lines.lines)
        for reason, count in records.rejected.items():
            self._rejected[reason] = self._rejected.get(reason, 0) + count
        self._samples = records.samples
        times = records.event_time
        if len(times):
            first, newest = self._span or (int(times[0]), int(times[0]))
            self._span = (min(first, int(times.min())), max(newest, int(times.max())))
        if self._shift:
            records = replace(records, event_time=times + self._shift)
        due = np.maximum.accumulate(records.event_time)
        self._block, self._next = _Block(records, lines.ends[records.line], due, int(lines.ends[-1])), 0

    def _end_round(self) -> None:
        """Start over with shifted times, or end; a file without a single reading ends in any case."""
        self._block, self._next = self._empty, 0
        if not self._config.repeat or self._span is None:
            self._ended = True
            return
        self._shift += self._span[1] - self._span[0] + SECOND_NS
        self._span, self._offset = None, self._start
        assert self._file is not None
        self._reader = LineReader(self._file, self._start)
