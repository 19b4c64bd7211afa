"""A bounded queue between a thread that receives records and the worker, and a source that has one.

What waits cannot be asked for again.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

from edgectl_agent.core.units import size_bytes
from edgectl_agent.sources.interface import Source

_OVERHEAD_BYTES = 100
"""What an entry of the queue costs beside its bytes."""


class Sized(Protocol):
    """A record that knows how many bytes it holds."""

    def __len__(self) -> int: ...


T = TypeVar("T", bound=Sized)


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """What `Intake.take` gives.

    Attributes:
        records: in the order of their arrival.
        rejected: what was refused since the last call, by reason.
        ended: nothing more will come.
    """

    records: list[T]
    rejected: dict[str, int]
    ended: bool


class Intake(Generic[T]):
    """At most `room` bytes of records, counting what an entry costs; one record always fits an empty queue.

    Args:
        room: in bytes.
        on_arrival: called from the receiving thread when something is there to take.
    """

    def __init__(self, room: int, on_arrival: Callable[[], None]) -> None:
        self._room, self._on_arrival = room, on_arrival
        self._changed = threading.Condition()
        self._queue: deque[T] = deque()
        self._bytes = 0
        self._rejected: Counter[str] = Counter()
        self._ended = self._sealed = False

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    @property
    def full(self) -> bool:
        """Whether it holds what it may, or takes nothing more."""
        return self._bytes >= self._room or self._sealed

    def offer(self, records: Sequence[T], rejected: Mapping[str, int] | None = None) -> int:
        """Take what fits, from the first on, and say how many that are. Never blocks."""
        with self._changed:
            free = 0 if self._sealed else self._room - self._bytes
            sizes = [len(record) + _OVERHEAD_BYTES for record in records]
            count = sum(total <= free for total in accumulate(sizes))
            if not count and records and not self._queue and not self._sealed:
                count = 1
            self._queue.extend(records[:count])
            self._bytes += sum(sizes[:count])
            self._rejected.update(rejected or {})
            self._changed.notify_all()
        if count or rejected:
            self._on_arrival()
        return count

    def offer_or_drop(self, records: Sequence[T], rejected: Counter[str]) -> None:
        """Take what fits; the rest is counted as ``queue-full``, beside `rejected`. Never blocks."""
        rejected["queue-full"] += len(records) - self.offer(records)
        if +rejected:
            self.offer((), +rejected)

    def put(self, records: Sequence[T], rejected: Mapping[str, int] | None = None) -> bool:
        """Take all of them, waiting for room; False if the agent ends before."""
        left = records[self.offer(records, rejected) :]
        while left:
            with self._changed:
                while not self._sealed and not self._fits(left[0]):
                    self._changed.wait()
                if self._sealed:
                    return False
            left = left[self.offer(left) :]
        return True

    def _fits(self, record: T) -> bool:
        return not self._queue or self._bytes + len(record) + _OVERHEAD_BYTES <= self._room

    def end(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._on_arrival()

    def seal(self) -> None:
        """Take nothing more; who waits for room is let go."""
        with self._changed:
            self._sealed = True
            self._changed.notify_all()

    def take(self, limit: int, timeout_s: float) -> Taken[T]:
        """At most `limit` records, waiting at most `timeout_s` for the first one."""
        with self._changed:
            if timeout_s > 0:
                self._changed.wait_for(lambda: self._queue or self._rejected or self._ended, timeout_s)
            records = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
            self._bytes -= sum(map(len, records)) + _OVERHEAD_BYTES * len(records)
            rejected, self._rejected = dict(+self._rejected), Counter()
            self._changed.notify_all()
            return Taken(records, rejected, self._ended and not self._queue)


class IntakeSource(Source, Generic[T]):
    """A source whose own thread fills an `Intake`. Position: none, because what was read is gone."""

    replayable = False
    tells = True

    def __init__(self, buffer: str, clock: Callable[[], int]) -> None:
        self._intake: Intake[T] = Intake(size_bytes(buffer), lambda: self.on_arrival())
        self._clock = clock

    @property
    def pending(self) -> bool:
        return self._intake.waiting

    def seal(self) -> None:
        self._intake.seal()
