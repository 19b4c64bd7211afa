"""Reads standard input line by line, until it ends: ``journalctl -f -o json | edgectl-agent run --config agent.yaml``.

A full queue lets the pipe fill, and so holds the writing program up. What was read and is not scored yet is gone with a
kill.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from edgectl_agent.config import StdinConfig, log_of
from edgectl_agent.core.units import duration_ns
from edgectl_agent.logs import warn
from edgectl_agent.sources.decode import CsvDecoder, Decoder, JsonDecoder, no_records
from edgectl_agent.sources.intake import IntakeSource
from edgectl_agent.sources.interface import Chunk, Position, SourceError
from edgectl_agent.sources.lines import LineReader
from edgectl_agent.sources.log_events import Joiner
from edgectl_agent.sources.log_lines import LogDecoder, joiner


class _Pipe:
    """A descriptor that can only be read on, as much as is there; a terminal's line, a pipe's content."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size: int, /) -> bytes:
        return os.read(self._descriptor, size)

    def seek(self, offset: int, /) -> int:
        return offset


class StdinSource(IntakeSource[bytes]):
    """Lines of standard input, or of another `descriptor`."""

    def __init__(self, config: StdinConfig, clock: Callable[[], int] = time.time_ns, descriptor: int = 0) -> None:
        super().__init__(config.buffer, clock)
        self.live = config.live
        self._config, self._descriptor = config, descriptor
        self._decoder: Decoder | None = JsonDecoder(config) if config.format == "jsonl" else None
        self._events: Joiner | None = None
        if config.format == "log":
            said = log_of(config)
            self._decoder, self._events = LogDecoder(config, said, clock), joiner(said)
            self._wait_s = duration_ns(said.wait) / 1e9
        self._touched_s, self._sealed = time.monotonic(), False
        self._nothing = no_records(config)
        self._thread = threading.Thread(target=self._receive, name="stdin", daemon=True)
        self._failure = ""

    def open(self, position: Position | None) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def poll(self, limit: int, timeout_s: float) -> Chunk:
        if self._failure:
            raise SourceError(self._failure)
        taken = self._intake.take(limit, timeout_s)
        lines, rejected = taken.records, Counter(taken.rejected)
        if self._events is not None:
            lines = self._joined(self._events, lines, taken.ended)
            rejected["continuation"] += self._events.take_dropped()
        if lines and self._decoder is None:
            header, *lines = lines
            self._decoder = self._with_header(header)
        found = self._decoder.decode(lines) if self._decoder else self._nothing
        return found.chunk({}, self._clock(), rejected, taken.ended)

    @property
    def pending(self) -> bool:
        return super().pending or (self._events is not None and self._events.open)

    def seal(self) -> None:
        super().seal()
        self._sealed = True

    def _joined(self, events: Joiner, lines: list[bytes], ended: bool) -> list[bytes]:
        """Events that are complete: by the next one, by the end, or because nothing followed for long enough."""
        now_s = time.monotonic()
        found, _ = events.push(lines, np.zeros(len(lines), np.int64))
        if lines:
            self._touched_s = now_s
        if ended or (not lines and (self._sealed or now_s - self._touched_s >= self._wait_s)):
            found += events.flush()[0]
        return found

    def _with_header(self, header: bytes) -> Decoder:
        try:
            return CsvDecoder(self._config, header, "standard input")
        except SourceError as e:
            self._failure = str(e)  # it comes once
            raise

    def _receive(self) -> None:
        reader = LineReader(_Pipe(self._descriptor))
        try:
            while found := reader.next():
                if not self._intake.put(found.lines, {"too-long": found.too_long} if found.too_long else None):
                    return
            self._intake.put(reader.last().lines)
        except OSError as e:  # it was closed, or the terminal is gone
            self._intake.offer((), {"unreadable": 1})
            warn("stdin-failed", message=str(e))
        self._intake.end()
