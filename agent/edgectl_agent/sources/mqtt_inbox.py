"""Messages between the connection's thread and the worker: bounded, in order, and acknowledged when they are covered.

A message that is no reading takes its place in the order all the same: it is counted by reason, and acknowledged with
its neighbours.
"""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from edgectl_agent.core.deliveries import FEWEST_STALLED, KEY_BYTES, Deliveries, Window
from edgectl_agent.core.topics import part
from edgectl_agent.sources.cells import stream_name
from edgectl_agent.sources.decode import MAX_LINE_BYTES
from edgectl_agent.sources.interface import Position
from edgectl_agent.sources.payloads import PayloadFormat, records

_RECORD_BYTES = 64
"""What a record costs in memory beyond its own bytes, about."""
_MOST_NAMES = 10_000


@dataclass(frozen=True, slots=True)
class Taken:
    """What the worker gets: n records, and their streams where the topic names them."""

    lines: list[bytes]
    streams: list[str]
    rejected: Counter[str]
    position: Position


@dataclass(slots=True)
class _Message:
    number: int
    key: bytes
    stream: str
    lines: Sequence[bytes]
    weight: int


class Inbox:
    """Every method may be called from any thread.

    Args:
        limit: messages that may be unacknowledged or waiting.
        room: bytes that may wait.
        form: of the payloads.
        level: which part of the topic names the stream (see `core.topics.level_of`); None if none does.
        longest_s: how often snapshots are saved anyway.
        position: where an earlier life ended.
        on_arrival: called when something waits.
    """

    def __init__(
        self, limit: int, room: int, form: PayloadFormat, level: int | None, longest_s: float,
        position: Position, on_arrival: Callable[[], None], monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._limit, self._room, self._form, self._level = limit, room, form, level
        self._on_arrival, self._monotonic = on_arrival, monotonic
        held = base64.b64decode(str(position.get("held", "")))
        self._taken = int(position.get("taken", 0))
        self._deliveries = Deliveries(limit, self._taken, held)
        self._window = Window(limit, longest_s)
        self._at, self._part_of = int(position.get("part", 0)), str(position.get("part_of", ""))
        """How many records of the first message are taken, or were by an earlier life, and its key."""
        self._queue: deque[_Message] = deque()
        self._untold = False
        self._weight = 0
        self._rejected: Counter[str] = Counter()
        self._names: dict[str, str] = {}
        self._changed = threading.Condition()
        self._position: Position = dict(position)
        self.topics = str(position.get("topics", ""))
        """The filters that the session has, a line each."""
        self.sealed = False

    # ── the connection's thread ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def full(self) -> bool:
        """Whether nothing more is to be read from the network."""
        waiting = max(len(self._queue), self._deliveries.unacknowledged - 1)
        return self.sealed or self._weight > self._room or waiting >= self._limit

    @property
    def restless(self) -> bool:
        """Whether the broker's silence may mean that it waits for an acknowledgement."""
        return self._deliveries.unacknowledged >= FEWEST_STALLED

    def offer(self, topic: str, payload: bytes, identifier: int) -> None:
        """Take a message in; `identifier` is 0 if it wants no acknowledgement."""
        key = blake2b(topic.encode(errors="replace") + b"\0" + payload, digest_size=KEY_BYTES).digest()
        lines, stream, why = self._read(topic, payload)
        with self._changed:
            self._window.arrived(self._deliveries.unacknowledged + 1, self._monotonic())
            number = self._deliveries.arrived(identifier, key)
            if not number:
                return
            if why:
                self._rejected[why] += max(1, len(lines))
                lines = ()
            message = _Message(number, key, stream, lines, sum(map(len, lines)) + _RECORD_BYTES * (1 + len(lines)))
            if not self._queue and self._at and self._part_of != key.hex():
                self._at = 0  # what an earlier life had begun does not come again
            self._queue.append(message)
            self._weight += message.weight
            self._untold |= len(self._queue) == 1  # else the worker takes this one with those before
            self._changed.notify()

    def tell(self) -> None:
        """Wake the worker for what was offered since."""
        if self._untold:
            self._untold = False
            self._on_arrival()

    def due(self) -> list[int]:
        """Identifiers to acknowledge now, in order."""
        with self._changed:
            before = self._deliveries.unacknowledged
            due = self._deliveries.due()
            if due:
                self._window.acknowledged(before, self._monotonic())
            return due

    def connected(self, resumed: bool) -> None:
        """A connection begins; `resumed`: the broker knows the session."""
        with self._changed:
            self._window.reset()
            if not resumed:
                self._deliveries.renewed()
                self.topics = ""

    def subscribed(self, topics: str) -> None:
        """The session has these filters, a line each."""
        self.topics = topics

    def lost(self) -> None:
        """The connection is gone. What waits stays."""
        with self._changed:
            self._deliveries.lost()

    def nudge(self) -> None:
        """Wake the worker if an acknowledgement has become urgent."""
        if self.urgent:
            self._on_arrival()

    # ── the worker's thread ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def urgent(self) -> bool:
        return self._window.urgent(self._deliveries.unacknowledged, self._monotonic())

    def take(self, limit: int, timeout_s: float) -> Taken:
        """At most `limit` records, of whole messages unless one alone has more."""
        lines: list[bytes] = []
        streams: list[str] = []
        with self._changed:
            if timeout_s > 0:
                self._changed.wait_for(lambda: self._queue or self._rejected, timeout_s)
            if not self._queue and not self._rejected and self.topics == self._position.get("topics", ""):
                return Taken([], [], Counter(), self._position)
            began = (self._taken, self._at)
            while self._queue and len(lines) < limit:
                message = self._queue[0]
                if lines and len(message.lines) > limit - len(lines):
                    break
                found = message.lines[self._at : self._at + limit]
                lines += found
                streams += [message.stream] * len(found)
                self._at += len(found)
                self._part_of = message.key.hex()
                if self._at >= len(message.lines):
                    self._taken, self._at = message.number, 0
                    self._queue.popleft()
                    self._weight -= message.weight
            rejected, self._rejected = self._rejected, Counter()
            if (self._taken, self._at) != began or self.topics != self._position.get("topics"):
                self._position = self._where()
        return Taken(lines, streams, rejected, self._position)

    def covered(self, position: Position) -> None:
        """A stored snapshot holds `position`."""
        with self._changed:
            self._deliveries.covered(int(position.get("taken", 0)))

    def _where(self) -> Position:
        held = base64.b64encode(self._deliveries.held(self._taken)).decode()
        position: Position = {"taken": self._taken, "held": held, "topics": self.topics}
        return position | ({"part": self._at, "part_of": self._part_of} if self._at else {})

    def _read(self, topic: str, payload: bytes) -> tuple[Sequence[bytes], str, str]:
        """(records, stream, why none of them is a reading)."""
        if len(payload) > MAX_LINE_BYTES:
            return (), "", "too-long"
        lines = records(payload, self._form)
        stream = self._stream(topic) if self._level is not None else ""
        return lines, stream, "empty" if not lines else "" if stream or self._level is None else "bad-stream"

    def _stream(self, topic: str) -> str:
        found = self._names.get(topic)
        if found is None:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            assert self._level is not None
            found = self._names[topic] = stream_name(part(topic, self._level))
        return found
