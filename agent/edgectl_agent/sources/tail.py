"""Follows a file that grows, as another program writes it, through every kind of rotation.

A rotated file is read to its end before the next one is begun, whatever its name is by then, also when several
rotations happened between two looks or while the agent was down. A renamed file is left when the next one holds
something: until then its writer may still write to it. After a truncation the rest is read from the copy, if there is
one (copytruncate). A file that was truncated and grew beyond the old offset between two looks is told by the bytes
before that offset. How files are known again: `rotation`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

from edgectl_agent.config import TailConfig, log_of
from edgectl_agent.logs import warn
from edgectl_agent.sources.decode import MAX_LINE_BYTES, Decoder, no_records
from edgectl_agent.sources.interface import Chunk, Position, Source, SourceError
from edgectl_agent.sources.lines import NO_LINES, LineReader, Lines, open_decoder
from edgectl_agent.sources.log_events import EventReader
from edgectl_agent.sources.log_lines import LogDecoder, event_reader
from edgectl_agent.sources.notices import Notices
from edgectl_agent.sources.rotation import (
    HEAD_BYTES,
    LAST_BYTES,
    Generation,
    Mark,
    beginning,
    digest,
    find,
    following,
    generations,
)
from edgectl_agent.sources.unpacked import Unpacked

_LOOK_S = 0.01
"""How often a waiting `poll` looks at the file."""
_SKIP_BYTES = 8 << 20
"""Of a compressed file that one `poll` unpacks on its way to the position."""


class TailSource(Source):
    """Position: a `Mark`; empty before there was a file.

    Counts, beside the decoder's reasons, ``unterminated`` (a rotated file ends within a line), ``damaged-gzip`` (the
    rest of a compressed file is left out) and ``file-gone`` (the file that the position is in was deleted or truncated
    while the agent was down: what followed in it, if anything, is lost).
    """

    def __init__(self, config: TailConfig, clock: Callable[[], int] = time.time_ns) -> None:
        self.live = config.live
        self._config, self._path, self._clock = config, Path(config.path), clock
        self._raw: BinaryIO | None = None
        self._packed: Unpacked | None = None
        """What the open file holds, if that is compressed."""
        self._decoder: Decoder | None = None
        self._reader: LineReader | EventReader | None = None
        self._mark = Mark()
        self._start = 0
        """Offset at which the open file's reader begins."""
        self._gone = 0
        self._from_end = False
        self._looked_ns = 0
        self._fruitless: tuple[int, ...] = ()
        """How the folder looked when nothing followed the open file."""
        self._nothing = no_records(config)
        self._notices: Notices | None = None
        """Of the open file. They are enough while that is the one that has the name."""
        self.tells = False

    def open(self, position: Position | None) -> None:
        self.close()
        self._mark, self._gone = Mark.of(position or {}), 0
        self._from_end = self._mark == Mark() and self._config.start == "end"
        try:
            self._take_up()
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
        if self._raw is not None:
            self._raw.close()
        if self._notices is not None:
            self._notices.close()
        self._raw = self._packed = self._reader = self._notices = self.descriptor = None
        self.tells = False

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, limit: int) -> Chunk:
        if self._quiet():
            return self._nothing.chunk(self._mark.position, self._clock())
        rejected: Counter[str] = Counter()
        taken = NO_LINES
        self.waiting = self._reader is None and not self._take_up()
        rejected["file-gone"], self._gone = self._gone, 0
        if not self.waiting:
            taken = self._read(limit, rejected)
        if isinstance(self._decoder, LogDecoder):
            self._decoder.sequence = self._mark.events
        records = self._decoder.decode(taken.lines) if self._decoder else self._nothing
        if taken.lines:
            self._move(taken)
        return records.chunk(self._mark.position, self._clock(), rejected)

    def _quiet(self) -> bool:
        """Whether there is nothing new, by one look at the file: a node does this fifty times a second all its life."""
        self.tells = False
        if self._reader is None or self._reader.ready or self._gone:
            return False
        if self._notices is not None:
            self._notices.clear()
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        if found.st_ino != self._mark.inode or found.st_dev != self._mark.device:
            return False
        self.tells = self._notices is not None
        looked_ns, self._looked_ns = self._looked_ns, found.st_mtime_ns
        return found.st_size == self._reader.seen and found.st_mtime_ns == looked_ns

    def _read(self, limit: int, rejected: Counter[str]) -> Lines:
        """The next lines of this file or, when it is finished, the beginning of the one after it."""
        assert self._reader is not None
        taken = self._lines(limit, rejected)
        if not taken.lines and not taken.too_long and (after := self._after()) is not None:
            taken = self._lines(limit, rejected)  # what was written between the last look and the rotation
            if not taken.lines and isinstance(self._reader, EventReader):
                if not self._reader.exhausted:
                    return taken
                taken = self._reader.flush()
            unfinished = self._reader.unfinished and not after[1].offset
            if not taken.lines and not taken.too_long and self._begin(*after):
                rejected["unterminated"] += unfinished
                taken = self._lines(limit, rejected)
        rejected["too-long"] += taken.too_long
        return taken

    def _lines(self, limit: int, rejected: Counter[str]) -> Lines:
        assert self._reader is not None
        if not self._reached(rejected):
            return NO_LINES
        seen = self._reader.seen
        taken = self._reader.read(limit)
        if isinstance(self._reader, EventReader):
            rejected["continuation"] += self._reader.take_dropped()
        if self._reader.seen != seen:  # now, and not when the last of these lines is taken: it may be truncated by then
            self._mark = self._known(self._mark, self._reader.seen)
        return taken

    def _reached(self, rejected: Counter[str]) -> bool:
        """Whether the open file, if it is compressed, is unpacked up to the position; a step towards it if it is not.

        What is damaged is counted once, when everything before it was read.
        """
        assert self._reader is not None
        packed = self._packed
        if packed is None:
            return True
        if self._reader.seen == self._start != packed.tell():
            packed.seek(min(self._start, packed.tell() + _SKIP_BYTES))
        if packed.damage and not self._reader.ready:
            warn("tail-damaged-gzip", path=str(self._path), message=packed.damage)
            rejected["damaged-gzip"] += 1
            packed.damage = ""
        return packed.ended or packed.tell() >= self._start

    def _move(self, taken: Lines) -> None:
        """Put the mark behind the last of these lines."""
        last = taken.lines[-1][-LAST_BYTES:]
        self._mark = replace(
            self._mark,
            offset=int(taken.ends[-1]),
            last_bytes=len(last),
            last=digest(last),
            events=self._mark.events + len(taken.lines) if isinstance(self._decoder, LogDecoder) else 0,
        )

    def _known(self, mark: Mark, seen: int) -> Mark:
        """`mark` with all by which the open file, of which so much was read, can be known again."""
        assert self._raw is not None
        descriptor = self._raw.fileno()
        mark = replace(mark, written_ns=os.fstat(descriptor).st_mtime_ns)
        if mark.head_bytes == HEAD_BYTES or not seen:
            return mark
        head = beginning(descriptor, min(HEAD_BYTES, seen), self._packed is not None)
        return replace(mark, head_bytes=len(head), head=digest(head))

    # ── which file ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_up(self) -> bool:
        """Open the file that the mark lies in, or the first one that follows. False while there is none to begin."""
        found = generations(self._path)
        at = find(self._mark, found)
        if at is not None:
            return self._begin(found[at], self._mark)
        if self._mark.written_ns:
            if self._mark.offset:
                self._gone += 1
                warn("tail-file-gone", path=str(self._path), offset=self._mark.offset)
            found = following(self._mark, found)
            self._mark = Mark(written_ns=self._mark.written_ns, events=self._mark.events)
        elif not self._config.history:
            found = [one for one in found if one.current]
        return bool(found) and self._begin(found[0], self._fresh())

    def _fresh(self) -> Mark:
        """The beginning of another file."""
        return Mark(events=self._mark.events)

    def _after(self) -> tuple[Generation, Mark] | None:
        """The file to read next, and from where; None while this one is not finished."""
        assert self._reader is not None
        if self._packed is not None and not self._packed.ended:
            return None
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            now = None
        if now and (now.st_dev, now.st_ino) == (self._mark.device, self._mark.inode):
            return self._after_truncation() if now.st_size < self._reader.seen or self._reader.rewritten else None
        folder = os.stat(self._path.parent).st_mtime_ns
        looks = (now.st_ino, now.st_size > 0, folder) if now else (0, 0, folder)
        if looks == self._fruitless:
            return None
        first = next((one for one in following(self._mark, generations(self._path)) if one.size), None)
        self._fruitless = () if first else looks
        return (first, self._fresh()) if first else None

    def _after_truncation(self) -> tuple[Generation, Mark] | None:
        """The copy that has what this file lost, from the mark on; else what was written since."""
        found = generations(self._path)
        at = find(self._mark, found)
        if at is not None:
            return found[at], self._mark
        later = [one for one in found if one.current or one.written_ns > self._mark.written_ns]
        return (later[0], self._fresh()) if later else None

    def _begin(self, one: Generation, mark: Mark) -> bool:
        """Open a file behind `mark`; False while it is not there or its CSV header is not complete."""
        try:
            raw = cast(BinaryIO, one.path.open("rb", buffering=0))
        except FileNotFoundError:
            return False
        try:
            packed = Unpacked(raw) if one.packed else None
            found = open_decoder(self._config, packed or raw, one.path)
            if found is None:
                raw.close()
                return False
            status, start = os.fstat(raw.fileno()), max(found[1], mark.offset)
            if self._from_end:
                start = max(start, _last_line_end(raw, status.st_size))
        except BaseException:
            raw.close()
            raise
        self.close()
        self._raw, self._packed, self._decoder, self._start = raw, packed, found[0], start
        known = 0 if packed else min(LAST_BYTES, start)
        before = os.pread(raw.fileno(), known, start - known)
        lines = LineReader(packed or raw, start, 0 if packed else LAST_BYTES, before)
        self._reader = event_reader(lines, log_of(self._config)) if self._config.format == "log" else lines
        self._mark = self._known(replace(mark, device=status.st_dev, inode=status.st_ino, offset=start), start)
        self._looked_ns, self._fruitless = 0, ()
        if self._reader is lines and packed is None:
            with suppress(OSError):  # it is looked at
                self._notices = Notices(raw.fileno())
                self.descriptor = self._notices.descriptor
        return True

    def _error(self, error: OSError) -> SourceError:
        return SourceError(f"{self._path} cannot be read: {error.strerror or error}")


def _last_line_end(file: BinaryIO, size: int) -> int:
    start = max(0, size - MAX_LINE_BYTES)
    file.seek(start)
    return start + file.read(size - start).rfind(b"\n") + 1
