"""Complete lines of one open file, with the offset behind each, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgectl_agent.config import Mapping, log_of
from edgectl_agent.core.batch import Int64
from edgectl_agent.core.errors import SourceError
from edgectl_agent.sources.block import Block
from edgectl_agent.sources.decode import MAX_LINE_BYTES, CsvDecoder, Decoder, JsonDecoder

BLOCK_BYTES = 256 * 1024
READY_BYTES = 1 << 20
"""Of complete lines that wait: beyond it no further block is read, however few they are."""
MAX_HEADER_BYTES = 64 * 1024


class Content(Protocol):
    """An open binary file, or one that is read forwards only (`unpacked`)."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Lines:
    """Some lines.

    Attributes:
        lines: n lines without their line feed.
        ends: shape (n,), the file offset behind each.
        too_long: lines skipped among them because they exceed `MAX_LINE_BYTES`.
    """

    lines: Sequence[bytes]
    ends: Int64
    too_long: int = 0


NO_LINES = Lines([], np.empty(0, np.int64))


class LineReader:
    """Reads `file` from `offset` on; what follows the last line feed waits for its own.

    Args:
        file: seekable.
        offset: where a line begins.
        guard: how many of the bytes read last must still be there when more is read; for a file that another program
            may write anew. 0 for one that can only be read forwards.
        before: at most `guard` bytes before `offset`.
    """

    rewritten = False
    """Whether they were not: nothing more is read."""

    def __init__(self, file: Content, offset: int = 0, guard: int = 0, before: bytes = b"") -> None:
        self._file = file
        self._guard, self._before = guard, before
        self._seen = offset
        """Offset of the first byte not yet read from the file."""
        self._rest = b""
        self._skipping = self._at_end = False
        self._ready = Block()
        self._ends: Int64 = np.empty(0, np.int64)
        """Offset behind each line in `_ready`."""
        self._too_long = 0

    @property
    def seen(self) -> int:
        """The offset up to which the file was read."""
        return self._seen

    @property
    def ready(self) -> bool:
        """Whether lines, or the news of one that was too long, wait for the next `read`."""
        return bool(self._ready or self._too_long)

    def read(self, limit: int) -> Lines:
        """At most `limit` lines; none when no further line is complete yet. Raises OSError."""
        while len(self._ready) < limit and self._waiting_bytes < READY_BYTES and self._fill():
            if self._at_end:
                break
        taken = Lines(self._ready[:limit], self._ends[:limit], self._too_long)
        self._ready, self._ends, self._too_long = self._ready[limit:], self._ends[limit:], 0
        return taken

    def next(self) -> Lines | None:
        """All lines of the next block that has any, waiting for it as long as the file does; None at the end."""
        while not self.ready and self._fill():
            pass
        return self.read(len(self._ready)) if self.ready else None

    @property
    def _waiting_bytes(self) -> int:
        return int(self._ends[-1] - self._ends[0]) if self._ready else 0

    @property
    def unfinished(self) -> bool:
        """Whether the bytes read so far do not end with a line feed."""
        return bool(self._rest) or self._skipping

    def last(self) -> Lines:
        """At the end of a file that grows no more: what follows the last line feed, as a line."""
        line, self._rest = self._rest, b""
        return Lines([line], np.array([self._seen])) if line else NO_LINES

    def _fill(self) -> bool:
        """Read one block. False at the end of the file."""
        block = self._next_block()
        if not block:
            return False
        if self._skipping:
            newline = block.find(b"\n")
            if newline < 0:
                self._seen += len(block)
                return True
            self._skipping, self._seen, block = False, self._seen + newline + 1, block[newline + 1 :]
        start = self._seen - len(self._rest)
        self._seen += len(block)
        cut = block.rfind(b"\n") + 1
        lines = Block.of(self._rest + block[:cut] if cut else b"")
        self._rest = block[cut:] if cut else self._rest + block
        ends = start + lines.cuts
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest, self._skipping, self._too_long = b"", True, self._too_long + 1
        if len(lines.raw) > MAX_LINE_BYTES:  # else no line can be
            keep = np.flatnonzero(np.diff(lines.cuts, prepend=0) - 1 <= MAX_LINE_BYTES)
            self._too_long += len(lines) - len(keep)
            lines, ends = Block.join([lines[i] for i in keep.tolist()]), ends[keep]
        self._ready += lines
        self._ends = np.append(self._ends, ends)
        return True

    def _next_block(self) -> bytes:
        known = len(self._before)
        self._file.seek(self._seen - known)
        block = self._file.read(known + BLOCK_BYTES)
        if block[:known] != self._before:
            self.rewritten = True
            return b""
        if self._guard:
            self._before, self._at_end = block[-self._guard :], len(block) < known + BLOCK_BYTES
        return block[known:]


def open_decoder(mapping: Mapping, file: Content, path: Path) -> tuple[Decoder, int] | None:
    """The decoder for `file`, which is at its start, and the offset of its first record.

    Returns None while the CSV header is not complete. Raises `SourceError` if the header does not fit the mapping.
    """
    if mapping.format == "jsonl":
        return JsonDecoder(mapping), 0
    if mapping.format == "log":
        from edgectl_agent.sources.log_lines import LogDecoder  # it reads lines by this module

        return LogDecoder(mapping, log_of(mapping)), 0
    start = file.read(MAX_HEADER_BYTES)
    header, newline, _ = start.partition(b"\n")
    if newline:
        return CsvDecoder(mapping, header, str(path)), len(header) + 1
    if len(start) == MAX_HEADER_BYTES:
        raise SourceError(f"{path}: the first line is longer than {MAX_HEADER_BYTES} bytes, expected a CSV header")
    return None
