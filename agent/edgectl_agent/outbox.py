"""Alerts on their way upstream: a log on disk that acknowledges only what survives a power cut.

The promise: a record whose sequence is at most the value that `Outbox.commit` returned is on stable storage. If storage
itself fails, the loss is found at the next `open` (or `read`) and told as exact ranges of sequences in `lost`. Reading
is at least once: a record stays readable until `release`.

Files in the folder: ``<first sequence>.seg`` (see `core.segment`), ``head``, ``id``, ``lost.json``, ``quarantine/``. A
commit is one fsync of the group in its segment; then the head is written in place, and synced too unless that was done
less than `_HEAD_LAG_NS` ago. So the head on disk never promises a record that is not there. It survives the death of
the process in any case. After a power cut in a burst it may be a moment old: the records after it are found all the
same, only damage to them in that very moment would pass for a torn group.

A failed write or fsync is never repeated on the same file, because the kernel may have marked the lost pages as clean:
the segment is cut back to what was acknowledged and left, and the next commit writes the group to a new one. The head
is replaced as a whole after a failure. Records stay in memory, with the sequences that `append` gave, until a commit
succeeds; a caller must not append them again.

Sequences begin at 1 again if the folder is lost, so they belong to the log's random `log_id`. It changes as soon as
sequences might be given twice: when the head is not intact. A consumer that knows another id reads from the beginning.

It is not a queue for several consumers, and one process owns it (the agent's lock sees to that). Methods may be called
from several threads.
"""

from __future__ import annotations

import bisect
import os
import re
import threading
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgectl_agent import checked
from edgectl_agent.core.errors import StorageError, UsageError
from edgectl_agent.core.messages import OutboxStatus
from edgectl_agent.core.recovery import Ranges, Recovered, clip, recover, size, without
from edgectl_agent.core.segment import (
    GONE,
    MAX_PAYLOAD,
    MAX_RECORD,
    SEGMENT_HEADER,
    Head,
    Record,
    decode_head,
    decode_record,
    encode_record,
    encode_segment_header,
    record_end,
    record_size,
)
from edgectl_agent.durable import sync_folder
from edgectl_agent.headfile import HeadFile
from edgectl_agent.losses import Losses

__all__ = ["MAX_PAYLOAD", "OpenReport", "Outbox", "Record"]

_SEGMENT_NAME = re.compile(r"(\d{20})\.seg")
_GROUP_BYTES = 16 * 1024 * 1024
"""Most that may wait for a commit in memory: a disk that fails for hours must not take the node's memory."""
_HEAD_LAG_NS = 100_000_000
"""A sync can take milliseconds: at high rates the head's is shared by the commits of this time, by the node's clock."""
_PAGE_BYTES = 4 * 1024 * 1024


HeadState = Literal["intact", "new", "damaged", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReport:
    """What `Outbox.open` found.

    Attributes:
        records: acknowledged, intact and not yet released.
        head_seq: highest acknowledged sequence.
        adopted: whole records of a group that a crash interrupted, now acknowledged.
        torn_bytes: of an incomplete group, cut.
        lost: ranges of acknowledged sequences found missing now for the first time.
        damaged: names of the files in ``quarantine/`` with the bytes that were no record.
        head: state of the head file.
        failures: what could not be written; the outbox reads and releases, and tries again with the next commit.
    """

    records: int
    head_seq: int
    adopted: int = 0
    torn_bytes: int = 0
    lost: Ranges = ()
    damaged: tuple[str, ...] = ()
    head: HeadState = "intact"
    failures: tuple[str, ...] = ()


@dataclass(slots=True)
class _Segment:
    """``offsets[i]`` is where the record ``first + i`` begins; ``end`` is after the last one; ``bytes`` on disk."""

    first: int
    path: Path
    offsets: array[int]
    end: int
    bytes: int


def _attempt(step: Callable[[], object]) -> str:
    """Do `step`. Returns why the disk refused, or nothing."""
    try:
        step()
    except (OSError, StorageError) as e:
        return str(e)
    return ""


class Outbox:
    """The log of one node; the module says what it promises.

    ::

        outbox = Outbox(data_dir / "outbox", boot=boot, limit_bytes=200_000_000)
        report = outbox.open()
        outbox.append(payload, now_ns)
        acknowledged = outbox.commit()
        records = outbox.read(after=0, limit=100)
        outbox.release(through=records[-1].seq)
    """

    def __init__(self, folder: Path, *, boot: str, limit_bytes: int, segment_bytes: int = 4 * 1024 * 1024) -> None:
        """Settings only.

        Args:
            folder: created by `open` if need be.
            boot: id of this process start, at most 255 bytes.
            limit_bytes: most that the segments may take on disk.
            segment_bytes: where a segment ends and the next begins; at most an eighth of `limit_bytes` is used.
        """
        self._folder = folder
        self._boot = boot.encode()
        self._limit_bytes = limit_bytes
        self._segment_bytes = min(segment_bytes, max(limit_bytes // 8, 2 * SEGMENT_HEADER))
        self._head_file = HeadFile(folder / "head")
        self._losses = Losses(folder)
        self._head = Head()
        self._segments: list[_Segment] = []
        self._tail: Recovered | None = None  # what `open` found beyond the head and could not yet acknowledge
        self._used = 0
        self._fd = -1  # of the last segment, if it may be written
        self._group: list[bytes] = []
        self._group_bytes = 0
        self._group_ns = 0
        self._synced_ns = 0
        self._chain = self._head.chain
        self._lock = threading.RLock()

    @property
    def lost(self) -> Ranges:
        """Every range of acknowledged sequences that storage ever damaged, released since or not."""
        return self._losses.ranges

    @property
    def log_id(self) -> str:
        """Which log the sequences belong to; empty before `open`."""
        return self._head_file.log_id

    # ── open ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self) -> OpenReport:
        """Recover, whatever is there. Damaged, torn and missing files are reported, never an error.

        Raises:
            StorageError: the folder can be neither read nor created.
        """
        with self._lock:
            self.close()
            try:
                checked.make_folder(self._folder)
                firsts = sorted(int(m[1]) for name in os.listdir(self._folder) if (m := _SEGMENT_NAME.fullmatch(name)))
                pages = checked.read_damaged(self._folder / "head")
                head, trusted = decode_head(pages)
                found = recover(firsts, lambda first: checked.read_damaged(self._path(first)), head, trusted)
            except OSError as e:
                raise checked.storage_error(f"outbox {self._folder} cannot be opened", e) from e
            self._head_file.identify(same_log=trusted)
            state: HeadState = "intact" if trusted else "damaged"
            if not pages:
                state = "missing" if firsts else "new"
            return self._adopt(found, state, keep_head=trusted and found.head == head)

    def _adopt(self, found: Recovered, state: HeadState, *, keep_head: bool) -> OpenReport:
        """Take over what was found, and repair the files as far as the disk allows."""
        self._head, self._chain = found.head, found.head.chain
        self._segments = [_Segment(k.first, self._path(k.first), k.offsets, k.end, k.end) for k in found.segments]
        self._count_bytes()
        if state != "new":  # else it is about a log that is gone
            self._losses.load()
        new = without(found.lost, self._losses.ranges)
        self._losses.add(new)
        self._tail = found if found.tail else None
        damaged: list[str] = []
        steps: tuple[Callable[[], object], ...] = (
            lambda: damaged.extend(self._isolate(found)),
            self._losses.save if new else lambda: None,
            lambda: self._open_head(keep_head),
            self._head_file.name,
            self._cut_torn,
            self._drop_released,
            self._writable,
        )
        failures = [text for step in steps if (text := _attempt(step))]
        return OpenReport(
            records=self._records(),
            head_seq=self._head.seq,
            adopted=self._head.seq - found.head.seq,
            torn_bytes=found.torn,
            lost=new,
            damaged=tuple(damaged),
            head=state,
            failures=tuple(failures),
        )

    def _isolate(self, found: Recovered) -> list[str]:
        regions = [(self._path(kept.first), *region) for kept in found.segments for region in kept.damaged]
        return [name for region in regions if (name := self._losses.isolate(*region))]

    def _open_head(self, keep: bool) -> None:
        if keep:
            self._head_file.reuse()
        else:
            self._head = self._head_file.create(self._head)

    def _grow(self) -> None:
        """Acknowledge the tail, if there is one: it may be in the kernel's memory only. Nothing is written before."""
        if self._tail is None or self._tail.tail is None or self._tail.grown is None:
            return
        last, tail = self._segments[-1], self._tail.tail
        fd = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        head = self._head_file.write(replace(self._tail.grown, generation=self._head.generation))
        self._head_file.sync()
        self._head, self._chain, self._tail = head, head.chain, None
        last.offsets.extend(tail.offsets)
        last.end = last.bytes = tail.end
        self._count_bytes()

    def _cut_torn(self) -> None:
        self._grow()
        for segment in self._segments:
            if segment.path.stat().st_size > segment.end:
                os.truncate(segment.path, segment.end)

    def _forget_group(self) -> None:
        self._group, self._group_bytes, self._chain = [], 0, self._head.chain

    # ── write ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def append(self, payload: bytes, now_ns: int) -> int:
        """Put `payload` into the group that the next `commit` makes durable. Returns its sequence.

        Raises:
            StorageError: the payload is larger than `MAX_PAYLOAD` (``oversized``), the disk space that the outbox may
                take is used up (``outbox-full``), or too much waits for a disk that fails (``group-full``).
        """
        with self._lock:
            if len(payload) > MAX_PAYLOAD:
                raise StorageError(
                    f"record has {len(payload)} bytes, expected at most {MAX_PAYLOAD}", reason="oversized"
                )
            if self._used + self._group_bytes + record_size(self._boot, payload) > self._limit_bytes:
                raise StorageError(
                    f"outbox is full: {self._used + self._group_bytes} of {self._limit_bytes} bytes hold records that "
                    "nobody has collected",
                    reason="outbox-full",
                    hint="run `edgectl collect`, or raise limits.outbox",
                )
            if self._group_bytes > _GROUP_BYTES:
                raise StorageError(
                    f"{len(self._group)} records of {self._group_bytes} bytes wait for a commit, no more are taken",
                    reason="group-full",
                )
            try:
                self._grow()
            except (OSError, StorageError) as e:
                raise checked.storage_error("outbox cannot finish what a crash interrupted", e) from e
            seq = self._head.seq + len(self._group) + 1
            raw, self._chain = encode_record(self._boot, seq, now_ns, payload, self._chain)
            self._group.append(raw)
            self._group_bytes += len(raw)
            self._group_ns = now_ns
            return seq

    def commit(self) -> int:
        """Make every appended record durable. Returns the highest acknowledged sequence; 0 if there is none.

        Raises:
            StorageError: the disk refused. Nothing of the group is acknowledged; it stays, and the next `commit` writes
                it anew.
        """
        with self._lock:
            if not self._group:
                return self._head.seq
            try:
                segment = self._writable()
                checked.write_all(self._fd, b"".join(self._group))
                os.fdatasync(self._fd)
                head = replace(self._head, seq=self._head.seq + len(self._group), chain=self._chain)
                self._head = self._write_head(head, self._group_ns)
            except (OSError, StorageError) as e:
                self._leave_segment()
                raise checked.storage_error(f"outbox cannot write {len(self._group)} records", e) from e
            for raw in self._group:
                segment.offsets.append(segment.end)
                segment.end += len(raw)
            segment.bytes = segment.end
            self._used += self._group_bytes
            self._group, self._group_bytes = [], 0
            return self._head.seq

    def _write_head(self, head: Head, now_ns: int) -> Head:
        head = self._head_file.write(head)
        if abs(now_ns - self._synced_ns) >= _HEAD_LAG_NS:  # the clock may be set back
            self._head_file.sync()
            self._synced_ns = now_ns
        return head

    def _writable(self) -> _Segment:
        """The segment to write to; a new one if the last is full, was left or does not exist."""
        if self._head_file.failed:
            self._head = self._head_file.create(self._head)
        self._grow()
        if self._fd >= 0 and self._segments[-1].end < self._segment_bytes:
            return self._segments[-1]
        self._head_file.sync()  # segments begin after a record that the head on disk knows
        self._close_segment()
        first = self._head.seq + 1
        path = self._path(first)
        path.unlink(missing_ok=True)  # only what was never acknowledged can be there
        self._segments = [s for s in self._segments if s.first != first]
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            checked.write_all(fd, encode_segment_header(first, self._head.chain))
            os.fdatasync(fd)
            sync_folder(self._folder)
        except OSError:
            os.close(fd)
            with suppress(OSError):
                path.unlink()
            raise
        self._fd = fd
        self._segments.append(_Segment(first, path, array("I"), SEGMENT_HEADER, SEGMENT_HEADER))
        self._count_bytes()
        return self._segments[-1]

    def _leave_segment(self) -> None:
        """Give up the segment after a failure.

        If it was the head that failed, the group is whole in the segment, and the head on disk may promise it: cutting
        would turn records that were never acknowledged into lost ones.
        """
        if self._fd >= 0 and self._head_file.failed:
            self._segments[-1].bytes += self._group_bytes
            self._count_bytes()
        elif self._fd >= 0:
            with suppress(OSError):
                os.ftruncate(self._fd, self._segments[-1].end)
        self._close_segment()

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    # ── read and release ────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, after: int, limit: int) -> list[Record]:
        """Acknowledged records above `after` that are not released, in order; at least one if there is any.

        Ends after `limit` records or about 4 MiB. A record that the disk no longer returns intact is left out, and is
        in `lost` from then on.
        """
        with self._lock:
            found: list[Record] = []
            seq, room = max(after, self._head.released) + 1, _PAGE_BYTES
            while seq <= self._head.seq and len(found) < limit and room > 0:
                i = bisect.bisect_right(self._segments, seq, key=lambda s: s.first) - 1
                if i >= 0 and seq - self._segments[i].first < len(self._segments[i].offsets):
                    page, seq = self._read_segment(self._segments[i], seq, limit - len(found), room)
                    found += page
                    room -= sum(len(r.payload) for r in page)
                elif i + 1 < len(self._segments):
                    seq = self._segments[i + 1].first
                else:
                    break
            return found

    def _read_segment(self, segment: _Segment, seq: int, limit: int, room: int) -> tuple[list[Record], int]:
        """Records of one segment from `seq` on, and the sequence to go on with."""
        skip = seq - segment.first
        wanted = [at for at in segment.offsets[skip : skip + limit] if at != GONE]
        next_seq = seq + min(limit, len(segment.offsets) - skip)
        if not wanted:
            return [], next_seq
        rest = segment.offsets[next_seq - segment.first :]
        start, stop = wanted[0], next((at for at in rest if at != GONE), segment.end)
        data = checked.read_damaged(segment.path, start, min(stop, start + room + MAX_RECORD))
        found: list[Record] = []
        for number in range(seq, next_seq):
            at = segment.offsets[number - segment.first]
            if at == GONE:
                continue
            if at - start > room:
                return found, number
            if record_end(data, at - start, number, number, None):
                found.append(decode_record(data, at - start))
            else:
                self._lose(segment, number)
        return found, next_seq

    def release(self, through: int, log_id: str = "") -> None:
        """The consumer has everything up to `through` durably; it is not read again, and whole segments are deleted.

        Idempotent. Lower values than before change nothing. With a `log_id`, only this log is meant.

        Raises:
            UsageError: `log_id` is another log's (``another-log``).
            UsageError: `through` was never acknowledged: the consumer knows another log than this one.
            StorageError: the disk refused; nothing is released.
        """
        with self._lock:
            if log_id not in ("", self.log_id):
                raise UsageError(
                    f"cannot release records of the log {log_id}: this outbox is the log {self.log_id}",
                    reason="another-log",
                )
            if through > self._head.seq:
                raise UsageError(
                    f"cannot release up to {through}: the outbox has acknowledged {self._head.seq}",
                    reason="beyond-head",
                )
            if through <= self._head.released:
                return
            try:
                head = self._head_file.write(replace(self._head, released=through))
                self._head_file.sync()
                self._head = head
            except (OSError, StorageError) as e:
                raise checked.storage_error(f"outbox cannot note the release of {through}", e) from e
            with suppress(OSError, StorageError):  # what remains goes with the next release
                self._drop_released()

    def _drop_released(self) -> None:
        """Delete segments without an unreleased record, the last one too once it is worth it."""
        self._grow()
        nexts = [s.first for s in self._segments[1:]] + [self._head.seq + 1]
        keep: list[_Segment] = []
        for segment, following in zip(self._segments, nexts, strict=False):
            last = segment is self._segments[-1]
            small = segment.end < self._segment_bytes // 4
            if following > self._head.released + 1 or (last and (small or segment.first == following)):
                keep.append(segment)
                continue
            if last:
                self._close_segment()
            segment.path.unlink(missing_ok=True)
        dropped_last = bool(self._segments) and keep[-1:] != self._segments[-1:]
        self._segments = keep
        self._count_bytes()
        if dropped_last:
            self._writable()  # its name says where sequences go on, should the head get lost

    def status(self) -> OutboxStatus:
        """Counts for the report and the metrics; ``lost`` counts records."""
        with self._lock:
            oldest = self.read(self._head.released, 1)
            return OutboxStatus(
                records=self._records(),
                bytes=self._used + self._group_bytes,
                limit_bytes=self._limit_bytes,
                head_seq=self._head.seq,
                oldest_ns=oldest[0].written_ns if oldest else 0,
                lost=size(self._losses.ranges),
                log_id=self.log_id,
            )

    def close(self) -> None:
        """Close the files. What was appended and not committed is forgotten."""
        with self._lock:
            with suppress(OSError):
                self._head_file.sync()
            self._close_segment()
            self._head_file.close()
            self._forget_group()

    def _lose(self, segment: _Segment, seq: int) -> None:
        """An acknowledged record turned out to be damaged while running."""
        i = seq - segment.first
        start = segment.offsets[i]
        stop = next((at for at in segment.offsets[i + 1 :] if at != GONE), segment.end)
        segment.offsets[i] = GONE
        self._losses.add([(seq, seq)])
        with suppress(OSError, StorageError):  # the same damage is found again at the next open
            self._losses.isolate(segment.path, start, stop)
            self._losses.save()

    def _count_bytes(self) -> None:
        self._used = sum(s.bytes for s in self._segments)

    def _records(self) -> int:
        low, high = self._head.released + 1, self._head.seq
        return high - low + 1 - size(clip(self._losses.ranges, low, high))

    def _path(self, first: int) -> Path:
        return self._folder / f"{first:020d}.seg"
