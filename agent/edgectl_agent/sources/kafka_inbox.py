"""What a member of a consumer group fetched and the worker has not taken yet: bounded, and in order.

The member's thread puts messages in, the worker takes them out; a partition that is taken away is dropped from the
middle of it, so that nothing of it is scored after another node may read it.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np

from edgectl_agent.core.batch import Int32, Int64
from edgectl_agent.core.offsets import Partition

_OVERHEAD_BYTES = 200
"""Of one message's objects, beside its key and value."""


@dataclass(frozen=True, slots=True)
class Messages:
    """``n`` messages in the order in which they were fetched.

    Attributes:
        values: n payloads, None for a tombstone.
        keys: n keys, None where there is none.
        place: shape (n,), index of each message's partition in the inbox.
        offset: shape (n,).
        skipped: records that are not among them, by reason; then n is 0, and ``resume_at`` says where to go on.
    """

    values: Sequence[bytes | None] = ()
    keys: Sequence[bytes | None] = ()
    place: Int32 = field(default_factory=lambda: np.empty(0, np.int32))
    offset: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    skipped: tuple[str, int] = ("", 0)
    resume_at: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def bytes(self) -> int:
        payload = sum(map(len, filter(None, self.values))) + sum(map(len, filter(None, self.keys)))
        return payload + _OVERHEAD_BYTES * len(self)

    def part(self, part: slice) -> Messages:
        return Messages(self.values[part], self.keys[part], self.place[part], self.offset[part])

    def only(self, keep: Sequence[bool]) -> Messages:
        chosen = np.asarray(keep, bool)
        values, keys = list(compress(self.values, keep)), list(compress(self.keys, keep))
        return Messages(values, keys, self.place[chosen], self.offset[chosen])


@dataclass(frozen=True, slots=True)
class Taken:
    """What the worker gets: messages, and the offsets at which each partition goes on after them."""

    values: list[bytes | None]
    keys: list[bytes | None]
    skipped: dict[str, int]
    offsets: dict[Partition, int]


class Inbox:
    """Safe for one thread at each end.

    Args:
        room_bytes: beyond it `has_room` says no; what is put in is kept all the same.
        offsets: where each partition goes on, as known from an earlier life.
    """

    def __init__(self, room_bytes: int, offsets: dict[Partition, int]) -> None:
        self._room = room_bytes
        self._changed = threading.Condition()
        self._queue: deque[Messages] = deque()
        self.bytes = 0
        """What waits in it, roughly."""
        self._handed = dict(offsets)
        self._places: dict[Partition, int] = {}
        self._owned: list[bool] = []
        self._closed = False

    # ── the member's thread ─────────────────────────────────────────────────────────────────────────────────────────

    def own(self, starts: dict[Partition, int | None]) -> None:
        """Partitions that were assigned, and the offset of the first message to come of each where it is known."""
        with self._changed:
            for partition, offset in starts.items():
                self._owned[self._place(partition)] = True
                if offset is not None:
                    self._handed[partition] = offset

    def forget(self) -> None:
        """What is known of offsets is of another cluster."""
        with self._changed:
            self._handed.clear()

    def handed(self, partition: Partition) -> int | None:
        """Where the worker goes on in `partition`; None if it never had anything of it."""
        with self._changed:
            return self._handed.get(partition)

    def put(
        self, where: Iterable[tuple[str, int]], offsets: Sequence[int], keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
    ) -> int:  # fmt: skip
        """Add messages; those of partitions that are not owned any more are left out. Returns how many there were."""
        with self._changed:
            pairs = list(where)
            for pair in set(pairs) - self._places.keys():
                self._place(Partition(*pair))
            place = np.fromiter(map(self._places.__getitem__, pairs), np.int32, len(pairs))  # type: ignore[arg-type]
            found = Messages(values, keys, place, np.asarray(offsets, np.int64))
            owned = np.asarray(self._owned, bool)[place]
            return self._add(found if owned.all() else found.only(owned.tolist()))

    def skip(self, partition: Partition, resume_at: int, reason: str, count: int) -> None:
        """Of `partition` something cannot be read: the worker is to count it and go on at `resume_at`."""
        with self._changed:
            place = self._place(partition)
            if self._owned[place]:
                self._queue.append(Messages(skipped=(reason, count), resume_at=(place, resume_at)))

    def drop(self, partitions: Iterable[Partition]) -> None:
        """They are no longer owned: nothing more of them is handed out."""
        with self._changed:
            for partition in partitions:
                self._owned[self._place(partition)] = False
            before, self._queue, self.bytes = self._queue, deque(), 0
            owned = np.asarray(self._owned, bool)
            for piece in before:
                if len(piece):
                    self._add(piece.only(owned[piece.place].tolist()))
                elif owned[piece.resume_at[0]]:
                    self._queue.append(piece)
            self._changed.notify_all()

    def wait_for_room(self, timeout_s: float) -> bool:
        """Whether there is room, perhaps after a while; at once if the inbox is closed."""
        with self._changed:
            return self._changed.wait_for(lambda: self.bytes < self._room or self._closed, timeout_s)

    # ── the worker ──────────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, limit: int, timeout_s: float) -> Taken:
        """At most `limit` messages, waiting at most `timeout_s` for the first."""
        taken, skipped = [], Counter[str]()
        with self._changed:
            if timeout_s > 0:
                self._changed.wait_for(lambda: bool(self._queue) or self._closed, timeout_s)
            while self._queue and limit > 0:
                piece = self._queue.popleft()
                if len(piece) > limit:
                    self._queue.appendleft(piece.part(slice(limit, None)))
                    piece = piece.part(slice(limit))
                limit -= len(piece)
                taken.append(piece)
                self.bytes -= piece.bytes
                self._advance(piece, skipped)
            self._changed.notify_all()
            offsets = dict(self._handed)
        values = [value for piece in taken for value in piece.values]
        keys = [key for piece in taken for key in piece.keys]
        return Taken(values, keys, dict(skipped), offsets)

    def close(self) -> None:
        """Wake whoever waits; nothing waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _add(self, found: Messages) -> int:
        if len(found):
            self._queue.append(found)
            self.bytes += found.bytes
            self._changed.notify_all()
        return len(found)

    def _place(self, partition: Partition) -> int:
        """Index of `partition`, a new one if it is unknown; the caller holds the lock."""
        found = self._places.get(partition)
        if found is None:
            found = self._places[partition] = len(self._owned)
            self._owned.append(False)
        return found

    def _advance(self, piece: Messages, skipped: Counter[str]) -> None:
        """Note where each partition goes on after `piece`; the caller holds the lock."""
        if not len(piece):
            reason, count = piece.skipped
            skipped[reason] += count
        partitions = list(self._places)
        newest = np.full(len(partitions), -1, np.int64)
        np.maximum.at(newest, piece.place, piece.offset + 1)
        if not len(piece):
            newest[piece.resume_at[0]] = piece.resume_at[1]
        for place in np.flatnonzero(newest >= 0):
            self._handed[partitions[place]] = int(newest[place])
