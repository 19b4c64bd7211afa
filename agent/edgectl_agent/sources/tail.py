"""Follows a file that grows, as another program writes it.

A rotated file (renamed, a new one in its place) is read to its end before the new one is begun, also when the rotation
happened while the agent was down, as long as the old file is still in the same folder. A truncated file is read from
its start; a file truncated and grown beyond the old offset between two looks cannot be told from one that only grew.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgectl_agent.config import TailConfig
from edgectl_agent.core.batch import Int64
from edgectl_agent.sources.decode import MAX_LINE_BYTES, NO_RECORDS, Decoder
from edgectl_agent.sources.interface import Chunk, Position, Source, SourceError
from edgectl_agent.sources.lines import NO_LINES, LineReader, Lines, open_decoder

_LOOK_S = 0.01
"""How often a waiting `poll` looks at the file."""
_NO_TIMES: Int64 = np.empty(0, np.int64)


class TailSource(Source):
    """Position: ``{"inode", "offset"}``, empty before there was a file."""

    def __init__(self, config: TailConfig, clock: Callable[[], int] = time.time_ns) -> None:
        self.live = config.live
        self._config, self._path, self._clock = config, Path(config.path), clock
        self._file: BinaryIO | None = None
        self._decoder: Decoder | None = None
        self._reader: LineReader | None = None
        self._inode = 0
        self._position: Position = {}
        self._from_end = False
        self._no_values = np.empty((0, len(config.channels)))
        self._no_texts: tuple[tuple[str, ...], ...] = ((),) * len(config.categories)

    def open(self, position: Position | None) -> None:
        self.close()
        self._position = dict(position or {})
        self._from_end = not self._position and self._config.start == "end"
        try:
            self._begin(self._find())
        except OSError as e:
            raise self._error(e) from e
        self._from_end = False  # a file that appears later is new from its first line on

    def poll(self, limit: int, timeout_s: float) -> Chunk:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                chunk = self._take(limit)
            except OSError as e:
                raise self._error(e) from e
            left = deadline - time.monotonic()
            if len(chunk) or chunk.rejected or left <= 0:
                return chunk
            time.sleep(min(left, _LOOK_S))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._reader = None

    def _take(self, limit: int) -> Chunk:
        if self._quiet():
            return Chunk((), _NO_TIMES, self._no_values, dict(self._position), self._clock(), texts=self._no_texts)
        rejected: Counter[str] = Counter()
        taken = NO_LINES
        self.waiting = self._reader is None and not self._begin(self._path)
        if not self.waiting:
            taken = self._read(limit, rejected)
        records = self._decoder.decode(taken.lines) if self._decoder else NO_RECORDS
        if taken.lines:
            self._position = {"inode": self._inode, "offset": int(taken.ends[-1])}
        rejected.update(records.rejected)
        values = records.values.reshape(len(records.streams), len(self._config.channels))
        return Chunk(
            records.streams, records.event_time, values, dict(self._position), self._clock(), rejected=dict(+rejected),
            texts=records.texts or ((),) * len(self._config.categories),
        )  # fmt: skip

    def _quiet(self) -> bool:
        """Whether there is nothing new, by one look at the file: a node does this fifty times a second all its life."""
        if self._reader is None or self._reader.ready:
            return False
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return found.st_ino == self._inode and found.st_size == self._reader.seen

    def _read(self, limit: int, rejected: Counter[str]) -> Lines:
        """The next lines of this file or, when it is finished, the beginning of the one in its place."""
        assert self._reader is not None
        taken = self._reader.read(limit)
        if not taken.lines and self._finished():
            taken = self._reader.read(limit)  # what was written between the last look and the rotation
            if not taken.lines:
                rejected["unterminated"] += self._reader.unfinished
                self.close()
                self._position = {}
                taken = self._reader.read(limit) if self._begin(self._path) else NO_LINES
        rejected["too-long"] += taken.too_long
        return taken

    def _begin(self, path: Path) -> bool:
        """Open `path` where the position says; False while it is not there or its CSV header is not complete."""
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        try:
            found = open_decoder(self._config, file, path)
            status = os.fstat(file.fileno())
            if found is None:
                file.close()
                return False
            self._decoder, start = found
            if self._position.get("inode") == status.st_ino and int(self._position["offset"]) <= status.st_size:
                start = max(start, int(self._position["offset"]))
            elif self._from_end:
                start = max(start, _last_line_end(file, status.st_size))
        except BaseException:
            file.close()
            raise
        self._file, self._inode, self._reader = file, status.st_ino, LineReader(file, start)
        self._position = {"inode": self._inode, "offset": start}
        return True

    def _find(self) -> Path:
        """The file that the position is in, under whatever name it has now; else the configured one."""
        folder = self._path.parent
        if "inode" in self._position and folder.is_dir():
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.inode() == self._position["inode"] and entry.is_file(follow_symlinks=False):
                        return Path(entry.path)
        return self._path

    def _finished(self) -> bool:
        """Whether another file has taken this one's place, or it was truncated."""
        assert self._file is not None
        assert self._reader is not None
        if os.fstat(self._file.fileno()).st_size < self._reader.seen:
            return True
        try:
            return os.stat(self._path).st_ino != self._inode
        except FileNotFoundError:
            return False

    def _error(self, error: OSError) -> SourceError:
        return SourceError(f"{self._path} cannot be read: {error.strerror or error}")


def _last_line_end(file: BinaryIO, size: int) -> int:
    start = max(0, size - MAX_LINE_BYTES)
    file.seek(start)
    return start + file.read(size - start).rfind(b"\n") + 1
