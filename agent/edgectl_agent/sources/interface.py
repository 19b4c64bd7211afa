"""Where readings come from.

The promise, in both directions:

* `poll` never blocks longer than ``timeout_s`` and returns what has arrived, perhaps nothing. It raises only
  `SourceError`; a malformed record is not an error but is counted in `rejected` by reason and skipped.
* Every chunk carries the position *after* its last reading. The runtime stores that position inside the snapshot that
  covers the readings, and hands it to `open` after a restart: a replayable source then continues with the very next
  reading. Positions are JSON values of the source's own making.
* `covered` is called, on the worker, with such a position once a snapshot that contains it is stored and every alert
  found before it is recorded: a source tells its other side there, and only there, that it needs the readings no more.
* A source with a thread of its own calls `on_arrival` from it when something has arrived or become urgent, so that the
  worker need not look for it.
* ``close`` may never be called (the process may be killed).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.errors import SourceError

__all__ = ["Chunk", "Position", "Sample", "Source", "SourceError"]

Position = dict[str, int | str]


class Sample(NamedTuple):
    """A record that is no reading, so that somebody can see what is wrong with it.

    Attributes:
        record: its first bytes.
        size: of the whole of it, bytes.
    """

    reason: str
    record: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one poll brought, still with stream names.

    Attributes:
        streams: n stream names.
        event_time: shape (n,), ns since 1970 UTC.
        values: shape (n, c) in the order of the source's configured channels, NaN = missing.
        position: resume *after* this chunk.
        accepted_ns: the node's clock when the chunk was taken.
        ended: the source has no more readings and never will.
        rejected: records skipped in this chunk, by reason (``unparsable``, ``bad-time``, ``not-a-number``, …).
        texts: n strings for each of the source's configured categories, in their order; ``""`` = missing. Empty if the
            source has none.
    """

    streams: tuple[str, ...]
    event_time: Int64
    values: Float64
    position: Position
    accepted_ns: int
    ended: bool = False
    rejected: dict[str, int] = field(default_factory=dict)
    texts: tuple[tuple[str, ...], ...] = ()
    samples: tuple[Sample, ...] = ()
    """Some of the rejected records, where the source has them: a few of each reason."""
    again: Int64 | None = None
    """Shape (n,): how much later the event time comes again because daylight saving repeats an hour, 0 if it does not.
    None if none does."""

    def __len__(self) -> int:
        return len(self.streams)


class Source(ABC):
    """One configured source."""

    replayable: bool = True
    """Whether `open` with an old position brings the same readings again."""
    live: bool = False
    """Whether event times are the present, so that readings from the future can be told."""

    waiting: bool = False
    """Whether what it reads is not there yet."""
    trouble: str = ""
    """Why nothing arrives although the source is open and tries again by itself; empty while all is well."""
    tells: bool = False
    """Whether everything that a `poll` could find is told by `on_arrival` or `descriptor`, so that nobody need look in
    between. It may change with every `poll`."""
    gathers: bool = False
    """Whether what it tells of has gathered already, as `core.pacing` says, and is to be read at once."""
    descriptor: int | None = None
    """Readable when something may have arrived, until the next `poll`; in place of `on_arrival`."""
    on_arrival: Callable[[], None] = staticmethod(lambda: None)
    """Set by the runtime; called from any thread."""

    @property
    def urgent(self) -> bool:
        """Whether its other side waits for `covered`: the next snapshot is then saved at once. Asked by any thread."""
        return False

    @property
    def pending(self) -> bool:
        """Whether readings wait in memory that nobody can ask for again."""
        return False

    @abstractmethod
    def open(self, position: Position | None) -> None:
        """Begin, or continue after `position`. Raises `SourceError`."""

    @abstractmethod
    def poll(self, limit: int, timeout_s: float) -> Chunk:
        """At most `limit` readings, waiting at most `timeout_s` for the first one."""

    def covered(self, position: Position) -> None:  # noqa: B027 - optional by contract
        """A stored snapshot contains `position`, and what was found before it is recorded. Must not block or raise."""

    def seal(self) -> None:  # noqa: B027 - optional by contract
        """The agent ends: take nothing more in. What waits can still be polled."""

    def close(self) -> None:  # noqa: B027 - optional by contract
        """Release what `open` took."""
