"""Takes what other programs post: a bounded queue between the ingest listener and the worker.

`offer` decodes a request's records and takes all of its readings or none; it is called by the listener's thread. What
was taken is in memory until the worker has scored it, and cannot be asked for again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgectl_agent.config import HttpConfig
from edgectl_agent.core.errors import EdgeError
from edgectl_agent.sources.decode import MAX_LINE_BYTES, MAX_SAMPLE_BYTES, JsonDecoder, Records, no_records
from edgectl_agent.sources.interface import Chunk, Position, Sample, Source

_MOST_SAMPLES = 64
"""Of refused records that wait for the worker."""


class QueueFull(EdgeError):
    """The queue has no room for all readings of a request: again in a moment."""

    exit_code, reason = 75, "queue-full"


class NotTaken(EdgeError):
    """No record of a request is a reading, or more are than the queue ever holds."""

    exit_code, reason = 3, "not-taken"


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a request's records."""

    accepted: int
    rejected: dict[str, int]


class HttpSource(Source):
    """Position: none, because what was read is gone."""

    replayable = False
    live = True
    tells = True

    def __init__(self, config: HttpConfig, clock: Callable[[], int] = time.time_ns) -> None:
        self._decoder = JsonDecoder(config)
        self.room, self._clock = config.queue, clock
        self._changed = threading.Condition()
        self._queue: deque[Records] = deque()
        self._waiting = self._at = 0
        """Readings in the queue, and how many of its first entry are gone."""
        self._rejected: Counter[str] = Counter()
        self._samples: deque[Sample] = deque(maxlen=_MOST_SAMPLES)
        self._sealed = False
        self._nothing = no_records(config)

    # ── the listener's thread ───────────────────────────────────────────────────────────────────────────────────────

    def offer(self, records: Sequence[bytes]) -> Taken:
        """Take the readings of a request: all of them, or none with an error.

        Args:
            records: JSON texts of one object each, in order; blank ones do not count.

        Raises:
            QueueFull: there is no room for them now, or the agent ends; nothing was taken, nor counted.
            NotTaken: none is a reading (the message says where the first one fails and why; they are counted), or they
                are more than the queue holds when it is empty.
        """
        too_long = [record for record in records if len(record) > MAX_LINE_BYTES]
        fitting = [record if len(record) <= MAX_LINE_BYTES else b"" for record in records] if too_long else records
        found = self._decoder.decode(fitting)
        rejected = found.rejected
        if too_long:
            rejected = rejected | {"too-long": rejected.get("too-long", 0) + len(too_long)}
        accepted = len(found.streams)
        if accepted > self.room:
            raise NotTaken(
                f"{accepted} readings in one request, this source's queue holds {self.room}", reason="oversized"
            )
        with self._changed:
            if self._sealed:
                raise QueueFull("the agent is stopping", reason="stopping")
            if self._waiting + accepted > self.room:
                raise QueueFull(f"{self._waiting} readings wait to be scored, {accepted} more do not fit")
            if rejected:
                self._rejected.update(rejected)
                self._samples += found.samples
                self._samples += (Sample("too-long", one[:MAX_SAMPLE_BYTES], len(one)) for one in too_long[:1])
            if accepted:
                self._queue.append(found[:] if rejected else found)  # without those, which are counted already
                self._waiting += accepted
                self._changed.notify()
        if not accepted:
            at, why = self._first_reject(records)
            raise NotTaken(f"record {at}: {why}" if at else "there is no record in the body", reason=why)
        self.on_arrival()
        return Taken(accepted, rejected)

    def _first_reject(self, records: Sequence[bytes]) -> tuple[int, str]:
        """(number from 1, reason) of the first record that is not blank, given that none is a reading."""
        for number, record in enumerate(records, 1):
            if record.strip():
                return number, next(iter(self._decoder.decode([record]).rejected), "too-long")
        return 0, "empty"

    # ── the worker's thread ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def pending(self) -> bool:
        return self._waiting > 0

    def open(self, position: Position | None) -> None:
        pass

    def poll(self, limit: int, timeout_s: float) -> Chunk:
        with self._changed:
            if timeout_s > 0:
                self._changed.wait_for(lambda: self._waiting or self._rejected, timeout_s)
            parts = self._take(limit)
            rejected, samples = self._rejected, tuple(self._samples)
            if rejected:
                self._rejected = Counter()
                self._samples.clear()
        found = Records.join(parts) if parts else self._nothing
        return found.chunk({}, self._clock(), rejected, samples=samples)

    def seal(self) -> None:
        with self._changed:
            self._sealed = True

    def _take(self, limit: int) -> list[Records]:
        """Up to `limit` readings off the queue's front; the caller holds the lock."""
        parts = []
        while self._queue and limit > 0:
            first = self._queue[0]
            part = first if not self._at and len(first) <= limit else first[self._at : self._at + limit]
            parts.append(part)
            limit -= len(part)
            self._waiting -= len(part)
            self._at += len(part)
            if self._at == len(first):
                self._queue.popleft()
                self._at = 0
        return parts
