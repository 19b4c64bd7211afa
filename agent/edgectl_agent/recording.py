"""Recordings of what sources deliver, beside the models: bounded in size and time, read and released by the operator.

The worker takes chunks and writes them as blocks, one file each. Blocks are handed out when a stored snapshot covers
them. After a kill a replayable source begins at the snapshot, and so does its recording: what was written after it is
deleted and comes again. So a reader gets each reading once. A block that nobody fetched in time makes room for a newer
one, and its readings are missing from the count; recording never waits, and a disk that refuses ends the recording and
nothing else. Files are not synced: what a power cut takes shows as such a gap.

``recordings/SOURCE/recording.json`` is the order, ``recordings/SOURCE/000000000001.block`` a block.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec

from edgectl_agent.core.errors import StorageError, UsageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.recordings import PAGE_BYTES, RawPage, RecordingOrder, RecordingStatus, open_block, seal, unseal
from edgectl_agent.core.units import DAY_NS, SECOND_NS
from edgectl_agent.durable import write_file
from edgectl_agent.feeds import Feed
from edgectl_agent.logs import note, warn
from edgectl_agent.sources.interface import Chunk

_BLOCK_BYTES = 1 << 18
_MAX_BLOCKS = 20_000
_MAX_RECORDINGS = 4
_KEPT_NS = DAY_NS
"""How long a recording that has ended waits to be read."""
_ORDER = "recording.json"
_BLOCK = re.compile(r"[0-9]{12}\.block")


class _Kept(msgspec.Struct, frozen=True):
    """What stays the same of a recording."""

    order: RecordingOrder
    status: RecordingStatus


msgspec.json.Decoder(_Kept)  # its table must not be built in two threads at once (see core.messages)


class Recording:
    """One source's; `take`, `flush` and `cover` are for the worker, the rest for any thread."""

    def __init__(self, folder: Path, kept: _Kept, boot: str) -> None:
        self.order, self._status = kept.order, msgspec.structs.replace(kept.status, boot=boot)
        self._folder, self._boot = folder, boot
        self._lock = Lock()
        self._sizes: dict[int, int] = {}
        """Block → bytes on the disk, rising."""
        self.seq = self.total = 0
        """Blocks and readings written."""
        self._ready = (0, 0)
        """Those that a stored snapshot covers."""
        self._flushed = (0, 0)
        self._pending: list[msgspec.Raw] = []
        self._pending_bytes = self._pending_count = self._begin_ns = self._end_ns = 0
        self._over, self._failure = False, ""

    def resume(self, seq: int, total: int, failure: str = "") -> None:
        """Go on where a snapshot left it, having written `seq` blocks with `total` readings, or failed."""
        self.seq, self.total, self._failure = seq, total, failure
        for path in sorted(self._folder.glob("*.block")):
            if not _BLOCK.fullmatch(path.name) or not path.is_file():
                warn("recording-foreign-file", path=str(path), message="no block of a recording, left as it is")
                continue
            number = int(path.stem)
            if number > seq and not self._adopt(path, number):
                path.unlink(missing_ok=True)
            else:
                self._sizes[number] = path.stat().st_size
        self._ready = self._flushed = (self.seq, self.total)

    def _adopt(self, path: Path, number: int) -> bool:
        """Whether a block that no snapshot knows is one: of a source that does not bring its readings again."""
        if self._status.replayable or number != self.seq + 1:
            return False
        try:
            block = open_block(path.read_bytes())
        except (OSError, StorageError):
            return False
        self.seq, self.total = number, block.first + block.count
        return True

    # ── the worker ──────────────────────────────────────────────────────────────────────────────────────────────────

    def running(self, now_ns: int) -> bool:
        """Whether it still takes what comes."""
        return not self._over and not self._failure and now_ns < self._status.until_ns

    def take(self, chunk: Chunk) -> None:
        """Keep what the source brought."""
        self._over = self._over or chunk.ended
        if not len(chunk):
            return
        times, values = chunk.event_time.astype("<i8", copy=False), chunk.values.astype("<f8", copy=False)
        raw = msgspec.msgpack.encode((chunk.streams, times.tobytes(), values.tobytes(), chunk.texts))
        self._begin_ns = self._begin_ns or chunk.accepted_ns
        self._end_ns = chunk.accepted_ns
        self._pending.append(msgspec.Raw(raw))
        self._pending_bytes += len(raw)
        self._pending_count += len(chunk)
        if self._pending_bytes >= _BLOCK_BYTES:
            self.flush()

    def flush(self) -> tuple[int, int]:
        """Write what is pending; returns the blocks and readings written so far."""
        if self._pending and not self._failure:
            head = (self.seq + 1, self.total, self._pending_count, self._boot, self._begin_ns, self._end_ns)
            raw = seal(msgspec.msgpack.encode((*head, self._pending)))
            try:
                self._path(self.seq + 1).write_bytes(raw)
            except OSError as e:
                self._failure = f"a block cannot be written: {e.strerror or e}"
                warn("recording-failed", source=self.order.source, message=self._failure)
                return (self.seq, self.total)
            self.seq, self.total = self.seq + 1, self.total + self._pending_count
            with self._lock:
                self._sizes[self.seq] = len(raw)
                self._make_room()
        self._pending = []
        self._pending_bytes = self._pending_count = self._begin_ns = 0
        self._flushed = (self.seq, self.total)
        return self._flushed

    @property
    def failure(self) -> str:
        """Why it takes nothing any more: what came since is missing in it, after a restart as well."""
        return self._failure

    def cover(self) -> None:
        """A snapshot is stored that knows what `flush` said last."""
        self._ready = self._flushed

    def _make_room(self) -> None:
        while len(self._sizes) > 1 and (
            sum(self._sizes.values()) > self.order.spool_bytes or len(self._sizes) > _MAX_BLOCKS
        ):
            self._drop(next(iter(self._sizes)))

    def _drop(self, seq: int) -> None:
        del self._sizes[seq]
        with suppress(OSError):
            self._path(seq).unlink(missing_ok=True)

    def _path(self, seq: int) -> Path:
        return self._folder / f"{seq:012}.block"

    # ── other threads ───────────────────────────────────────────────────────────────────────────────────────────────

    def status(self, now_ns: int) -> RecordingStatus:
        """How far it is."""
        head, readings = self._ready
        all_ready = not self._pending and head == self.seq
        state = "failed" if self._failure else "running" if self.running(now_ns) or not all_ready else "ended"
        return msgspec.structs.replace(self._status, head=head, readings=readings, state=state, detail=self._failure)

    def page(self, after: int, now_ns: int) -> RawPage:
        """Blocks above `after`, about `PAGE_BYTES` of them. One that is gone or damaged is left out."""
        status = self.status(now_ns)
        with self._lock:
            wanted = [seq for seq in self._sizes if after < seq <= status.head]
        blocks: list[msgspec.Raw] = []
        size = 0
        for seq in wanted:
            if size >= PAGE_BYTES:
                break
            with suppress(OSError, StorageError):
                block = unseal(self._path(seq).read_bytes())
                blocks.append(msgspec.Raw(block))
                size += len(block)
        return RawPage(status=status, blocks=tuple(blocks))

    def release(self, through: int) -> None:
        """The caller has the blocks up to `through` on stable storage."""
        with self._lock:
            for seq in [seq for seq in self._sizes if seq <= through]:
                self._drop(seq)


class Recorder:
    """All recordings of this node, one per source at most."""

    def __init__(self, folder: Path, node: str, boot: str, clock: Callable[[], int]) -> None:
        self._folder, self._node, self._boot, self._clock = folder, node, boot, clock
        self._found: dict[str, Recording] = {}

    def open(self, known: Mapping[str, list[Any]], sources: Mapping[str, Feed]) -> None:
        """Take up what an agent before had begun; `known` is what its snapshot said."""
        for path in sorted(self._folder.glob(f"*/{_ORDER}")) if self._folder.is_dir() else ():
            try:
                kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
            except (OSError, *UNREADABLE) as e:
                warn("recording-unusable", folder=path.parent.name, message=str(e))
                shutil.rmtree(path.parent, ignore_errors=True)
                continue
            feed = sources.get(kept.order.source)
            same = feed and (feed.channels, feed.categories) == (kept.status.channels, kept.status.categories)
            if not same or self._clock() > kept.status.until_ns + _KEPT_NS:
                shutil.rmtree(path.parent, ignore_errors=True)
                continue
            recording = Recording(path.parent, kept, self._boot)
            id_, *reached = known.get(kept.order.source, [""])
            recording.resume(*(reached if id_ == kept.order.id else (0, 0)))
            self._found[kept.order.source] = recording

    # ── the worker ──────────────────────────────────────────────────────────────────────────────────────────────────

    def wants(self, source: str) -> bool:
        """Whether a recording takes what the source brings."""
        found = self._found.get(source)
        return found is not None and found.running(self._clock())

    def take(self, source: str, chunk: Chunk) -> None:
        """What the source brought."""
        if self._found and self.wants(source):
            self._found[source].take(chunk)

    def snapshot(self) -> dict[str, list[Any]]:
        """For `open`; what was taken is written first."""
        return {source: [one.order.id, *one.flush(), one.failure] for source, one in self._found.items()}

    def covered(self) -> None:
        """What `snapshot` gave last is stored."""
        for recording in self._found.values():
            recording.cover()

    def start(self, order: RecordingOrder, feed: Feed) -> RecordingStatus:
        """Begin, or say how the recording of this id is.

        Raises:
            UsageError: the source is being recorded for somebody else, or there are too many recordings.
            StorageError: the disk refuses.
        """
        now_ns = self._clock()
        there = self._found.get(order.source)
        if there is not None:
            status = there.status(now_ns)
            if status.id == order.id:
                return status
            if status.state == "running":
                raise UsageError(f"source {order.source} is being recorded as {status.id} already", reason="recorded")
            self.remove(status.id)
        self.forget_old()
        if len(self._found) >= _MAX_RECORDINGS:
            raise UsageError(f"{len(self._found)} sources are being recorded, expected fewer", reason="recorded")
        status = RecordingStatus(
            id=order.id, node=self._node, source=order.source, started_ns=now_ns,
            until_ns=now_ns + int(order.for_s * SECOND_NS), channels=feed.channels, units=dict(feed.units),
            categories=feed.categories, replayable=feed.replayable,
        )  # fmt: skip
        folder = self._folder / order.source
        shutil.rmtree(folder, ignore_errors=True)
        kept = _Kept(order, status)
        write_file(folder / _ORDER, msgspec.json.encode(kept), 0o600)
        self._found[order.source] = Recording(folder, kept, self._boot)
        note("recording-started", source=order.source, id=order.id)
        return self._found[order.source].status(now_ns)

    def remove(self, id_: str) -> None:
        """End a recording and delete what of it is on the disk. Raises `UsageError` if there is none."""
        recording = self.get(id_)
        del self._found[recording.order.source]
        shutil.rmtree(self._folder / recording.order.source, ignore_errors=True)
        note("recording-removed", source=recording.order.source, id=id_)

    def forget_old(self) -> None:
        """Delete recordings that ended so long ago that nobody will read them any more."""
        now_ns = self._clock() if self._found else 0
        for recording in list(self._found.values()):
            if now_ns > recording.status(now_ns).until_ns + _KEPT_NS:
                self.remove(recording.order.id)

    # ── other threads ───────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, id_: str) -> Recording:
        """Raises `UsageError` if there is none of that id."""
        found = next((one for one in tuple(self._found.values()) if one.order.id == id_), None)
        if found is None:
            raise UsageError(f"{self._node} has no recording {id_}", reason="no-such-recording")
        return found

    def page(self, id_: str, after: int) -> RawPage:
        """As `Recording.page`. Raises `UsageError`."""
        return self.get(id_).page(after, self._clock())

    def release(self, id_: str, through: int) -> None:
        """As `Recording.release`. Raises `UsageError`."""
        self.get(id_).release(through)
