"""Readings that come out of order → the order of their event times, within a bounded lateness.

A reading is held until its stream cannot bring an earlier one: until the stream's newest event time is more than
``lateness`` past it. A stream whose newest reading is more than ``lateness`` behind that of all streams together is
*idle*: nothing of it is held. So a card that pays once a day is scored soon after, as other cards go on; and a stream
that lags behind, or brings a backlog, is scored on arrival instead of being refused, whatever the other streams' clocks
say. A reading that comes earlier than what was released of its stream, or might have been, is late and refused.

Laws:

* the readings that are released, and their order per stream, are the same for any batch boundaries and restarts, as
  long as the buffer is not full;
* they are the same for any order of arrival in which no reading is more than ``lateness`` behind the newest one that
  came before it. Readings of equal event time are ordered by content: the source's position is the order of arrival.

The node's clock plays no part: were it to release readings, a replay would find others to be late. What is held of a
source that falls silent waits for its next reading, or for its end (`Reorder.flush`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Batch, Int32, Int64
from edgectl_agent.core.bundle import FeatureSpec
from edgectl_agent.core.categories import MISSING
from edgectl_agent.core.groups.interface import StreamArrays
from edgectl_agent.core.windows import Runs

MAX_HELD = 100_000
"""Readings that wait, of all streams of a model together; beyond it the oldest are released early."""
_NEVER = int(np.iinfo(np.int64).min) // 2
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Released:
    """What may be scored now, sorted by stream and event time.

    Attributes:
        batch: m readings.
        serial: shape (m,), the numbers that `Reorder.push` got for them.
        late: readings of the batch just pushed that were refused because they came too late.
        future: those that were refused because they lie beyond the horizon.
        early: readings released before their time because the buffer is full.
    """

    batch: Batch
    serial: Int64
    late: int = 0
    future: int = 0
    early: int = 0


class Reorder:
    """The held readings of all streams under one `FeatureSpec`."""

    def __init__(self, spec: FeatureSpec, max_held: int = MAX_HELD) -> None:
        self._lateness, self._max_held = spec.lateness, max_held
        self._stream: StreamArrays = StreamArrays(
            newest=((), np.int64, _NEVER),
            floor=((), np.int64, _NEVER),  # what is earlier is late
            turn=((), np.int64, 0),  # how often the stream had been idle: separates equal times that were released
        )
        self._newest = _NEVER
        channels, categories = len(spec.channels), len(spec.categories)
        self._held = Batch(
            np.empty(0, np.int32), np.empty(0, np.int64), np.empty((0, channels)), np.empty((0, categories), np.int32)
        )
        self._turn: Int64 = np.empty(0, np.int64)
        self._serial: Int64 = np.empty(0, np.int64)

    @property
    def held(self) -> int:
        """How many readings wait."""
        return len(self._held)

    @property
    def newest_ns(self) -> Int64:
        """Event time of each stream's newest reading, far below any where it has none; not to be written to."""
        return self._stream["newest"]

    def push(self, batch: Batch, serial: Int64, horizon_ns: int | None = None) -> Released:
        """Take a batch in, in order of arrival, and give out what is complete.

        Args:
            batch: columns as the `FeatureSpec` has them.
            serial: shape (n,), numbers by which the caller knows the readings again.
            horizon_ns: readings with a later event time are refused; None for recorded data.
        """
        future = np.zeros(len(batch), bool) if horizon_ns is None else batch.event_time > horizon_ns
        if horizon_ns is not None:
            self._newest = min(self._newest, horizon_ns)
        rows = np.flatnonzero(~future)
        late, turn = self._late(batch.stream[rows], batch.event_time[rows])
        self._hold(batch.take(rows[~late]), turn[~late], serial[rows[~late]])
        newest = self._stream["newest"][self._held.stream]
        idle = newest < self._newest - self._lateness
        ready = idle | (self._held.event_time < newest - self._lateness)
        early = self._overflow(ready)
        return self._release(ready, int(late.sum()), int(future.sum()), early)

    def flush(self) -> Released:
        """Give out everything: the sources have ended, or another model takes over."""
        self._stream["floor"][:] = np.maximum(self._stream["floor"], self._stream["newest"])
        return self._release(np.ones(self.held, bool))

    def forget(self, streams: NDArray[Any]) -> int:
        """From now on these stream indices have never been seen. Returns how many of their readings were held."""
        self._stream.forget(streams)
        gone = np.isin(self._held.stream, streams)
        self._keep(~gone)
        return int(gone.sum())

    def snapshot(self) -> dict[str, Any]:
        """All state, of plain values; `restore` continues to the same bits."""
        held = self._held
        return {
            "streams": self._stream.snapshot(),
            "newest": self._newest,
            "stream": pack_array(held.stream),
            "time": pack_array(held.event_time),
            "values": pack_array(held.values),
            "codes": pack_array(_codes(held, 0)),
            "turn": pack_array(self._turn),
            "serial": pack_array(self._serial),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `snapshot` was taken, under the same spec."""
        self._stream.restore(state["streams"])
        self._newest = state["newest"]
        names = ("stream", "time", "values", "codes")
        self._held = Batch(*(unpack_array(state[name]) for name in names))
        self._turn, self._serial = unpack_array(state["turn"]), unpack_array(state["serial"])

    def _late(self, stream: Int32, time: Int64) -> tuple[Bool, Int64]:
        """Which readings are too late, and how often their stream had been idle before each; moves the watermarks.

        Nothing here depends on what is held or was refused, so it is the same in one batch or in many.
        """
        self._stream.reserve(stream)
        newest, floor, turn = (self._stream[name] for name in ("newest", "floor", "turn"))
        order = np.argsort(stream, kind="stable")
        runs = Runs.of(stream[order])
        of_run, t = stream[order][runs.starts], time[order]
        all_newest = np.maximum(np.maximum.accumulate(time), self._newest)
        all_before = np.append(self._newest, all_newest[:-1])[: len(time)][order]
        after = runs.accumulate(np.maximum, t, newest[of_run])
        before = np.append(_NEVER, after[:-1])[: len(t)]
        before[runs.starts] = newest[of_run]
        idle = (before != _NEVER) & (before < all_before - self._lateness)
        earliest = np.where(idle, before, np.maximum(before, _NEVER + self._lateness) - self._lateness)
        floors = runs.accumulate(np.maximum, earliest, floor[of_run])
        turns = runs.accumulate(np.add, idle.astype(np.int64), turn[of_run])
        newest[of_run], floor[of_run], turn[of_run] = after[runs.ends], floors[runs.ends], turns[runs.ends]
        self._newest = int(all_newest.max(initial=self._newest))
        late, of_row = np.empty(len(t), bool), np.empty(len(t), np.int64)
        late[order], of_row[order] = t < floors, turns
        return late, of_row

    def _hold(self, batch: Batch, turn: Int64, serial: Int64) -> None:
        held, width = self._held, _codes(self._held, 0).shape[1]
        self._held = Batch(
            np.concatenate([held.stream, batch.stream]),
            np.concatenate([held.event_time, batch.event_time]),
            np.concatenate([held.values, batch.values]),
            np.concatenate([_codes(held, width), _codes(batch, width)]),
        )
        self._turn, self._serial = np.concatenate([self._turn, turn]), np.concatenate([self._serial, serial])

    def _overflow(self, ready: Bool) -> int:
        """Adds the oldest readings to `ready` until the rest fits; their streams take nothing earlier from now on."""
        rest = np.flatnonzero(~ready)
        excess = len(rest) - self._max_held
        if excess <= 0:
            return 0
        oldest = rest[self._order(rest, by_stream=False)[:excess]]
        ready[oldest] = True
        np.maximum.at(self._stream["floor"], self._held.stream[oldest], self._held.event_time[oldest])
        return excess

    def _release(self, ready: Bool, late: int = 0, future: int = 0, early: int = 0) -> Released:
        rows = np.flatnonzero(ready)
        rows = rows[self._order(rows, by_stream=True)]
        released = Released(self._held.take(rows), self._serial[rows], late, future, early)
        if len(rows):
            self._keep(~ready)
        return released

    def _keep(self, rows: Bool) -> None:
        self._held = self._held.take(rows)
        self._turn, self._serial = self._turn[rows], self._serial[rows]

    def _order(self, rows: Int64, by_stream: bool) -> Int64:
        """How to sort these held readings: by (stream,) event time, turn, and content where these are equal."""
        stream, time, turn = self._held.stream[rows], self._held.event_time[rows], self._turn[rows]
        keys = (turn, time, stream) if by_stream else (turn, stream, time)
        order = np.lexsort(keys)
        tied = np.ones(max(len(rows) - 1, 0), bool)
        for key in keys:
            tied &= key[order][1:] == key[order][:-1]
        if not tied.any():
            return order
        content = [*self._held.values[rows].view(np.int64).T, *_codes(self._held, 0)[rows].T]
        return np.lexsort((*content, *keys))


def arranged(spec: FeatureSpec, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Int64]]:
    """Recorded batches as they reach the features on a node, each with the numbers of its readings from 0 on."""
    if not spec.lateness:
        begin = 0
        for batch in batches:
            yield batch, np.arange(begin, begin + len(batch))
            begin += len(batch)
        return
    buffer, begin = Reorder(spec), 0
    for batch in batches:
        released = buffer.push(batch, np.arange(begin, begin + len(batch)))
        begin += len(batch)
        yield released.batch, released.serial
    last = buffer.flush()
    yield last.batch, last.serial


def _codes(batch: Batch, width: int) -> Int32:
    return np.full((len(batch), width), MISSING, np.int32) if batch.codes is None else batch.codes
