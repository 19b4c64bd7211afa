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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Batch, Int32, Int64
from edgectl_agent.core.bundle import FeatureSpec
from edgectl_agent.core.categories import codes_of
from edgectl_agent.core.groups.interface import StreamArrays
from edgectl_agent.core.runs import Runs

MAX_HELD = 100_000
"""Readings that wait, of all streams of a model together; beyond it the oldest eighth is released early."""
_MAX_PIECES = 512
_PIECES = 16
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
        out_of_range: values that a join left out.
    """

    batch: Batch
    serial: Int64
    late: int = 0
    future: int = 0
    early: int = 0
    out_of_range: int = 0


class _Held(NamedTuple):
    """Readings that wait, in any order."""

    batch: Batch
    turn: Int64
    serial: Int64

    def take(self, rows: Int64 | Bool) -> _Held:
        return _Held(self.batch.take(rows), self.turn[rows], self.serial[rows])

    def order(self, by_stream: bool) -> Int64:
        """How to sort them: by (stream,) event time, turn, and content where these are equal."""
        stream, time = self.batch.stream.astype(np.int64), self.batch.event_time
        keys = (self.turn, time, stream) if by_stream else (self.turn, stream, time)
        order = np.lexsort(keys)
        tied = np.ones(max(len(order) - 1, 0), bool)
        for key in keys:
            sorted_key = key[order]
            tied &= sorted_key[1:] == sorted_key[:-1]
        if not tied.any():
            return order
        codes = () if self.batch.codes is None else self.batch.codes.T
        content = [self.serial, *self.batch.values.view(np.int64).T, *codes]
        return np.lexsort((*content, *keys))


def _joined(parts: Sequence[_Held]) -> _Held:
    batches = [part.batch for part in parts]
    batch = Batch(
        np.concatenate([b.stream for b in batches]),
        np.concatenate([b.event_time for b in batches]),
        np.concatenate([b.values for b in batches]),
        np.concatenate([b.codes for b in batches if b.codes is not None]),
    )
    return _Held(batch, np.concatenate([p.turn for p in parts]), np.concatenate([p.serial for p in parts]))


class Reorder:
    """The held readings of all streams under one `FeatureSpec`.

    A reading can only be complete once the newest of all readings is more than the lateness past it. So readings wait
    in the pieces that they came in, by their earliest time, and only the pieces that are so far are looked at.
    """

    def __init__(self, spec: FeatureSpec, max_held: int = MAX_HELD) -> None:
        self._lateness, self._max_held = spec.lateness, max_held
        self._stream: StreamArrays = StreamArrays(
            newest=((), np.int64, _NEVER),
            floor=((), np.int64, _NEVER),  # what is earlier is late
            turn=((), np.int64, 0),  # how often the stream had been idle: separates equal times that were released
        )
        self._newest = _NEVER
        self._categories = len(spec.categories)
        none = np.empty(0, np.int64)
        values, codes = np.empty((0, len(spec.channels))), np.empty((0, self._categories), np.int32)
        self._none = _Held(Batch(none.astype(np.int32), none, values, codes), none, none)
        self._due = self._none
        """Readings of pieces that are far enough."""
        self._pieces: list[tuple[int, int, _Held]] = []
        """The others, a heap by (earliest time, number)."""
        self._pushes = 0
        self.held = 0
        """How many readings wait."""

    @property
    def newest_ns(self) -> Int64:
        """Event time of each stream's newest reading, far below any where it has none; not to be written to."""
        return self._stream["newest"]

    def waiting(self) -> Int32:
        """Streams of which readings are held."""
        self._gather()
        return np.unique(self._due.batch.stream)

    def push(
        self,
        batch: Batch,
        serial: Int64,
        horizon_ns: int | None = None,
        max_streams: int | None = None,
        until_ns: int | None = None,
    ) -> Released:
        """Take a batch in, in order of arrival, and give out what is complete.

        Args:
            batch: columns as the `FeatureSpec` has them.
            serial: shape (n,), numbers by which the caller knows the readings again.
            horizon_ns: readings with a later event time are refused; None for recorded data.
            max_streams: readings of streams from this index on are left out; they only move the time on.
            until_ns: not used; streams are independent of each other.
        """
        placed = np.ones(len(batch), bool) if max_streams is None else batch.stream < max_streams
        future = np.zeros(len(batch), bool) if horizon_ns is None else batch.event_time > horizon_ns
        if horizon_ns is not None:
            self._newest = min(self._newest, horizon_ns)
        rows = np.flatnonzero(~future)
        newest_before = np.maximum.accumulate(np.append(self._newest, batch.event_time[rows]))
        self._newest = int(newest_before[-1])
        mine = placed[rows]
        rows = rows[mine]
        late, turn = self._late(batch.stream[rows], batch.event_time[rows], newest_before[:-1][mine])
        kept = rows[~late]
        coded = replace(batch, codes=codes_of(batch, self._categories))
        self._hold(_Held(coded.take(kept), turn[~late], serial[kept]))
        newest, time = self._stream["newest"][self._due.batch.stream], self._due.batch.event_time
        ready = (newest < self._newest - self._lateness) | (time < newest - self._lateness)
        early = 0
        if self.held - np.count_nonzero(ready) > self._max_held:
            ready, early = self._overflow(ready)
        return self._release(ready, int(late.sum()), int((future & placed).sum()), early)

    def flush(self) -> Released:
        """Give out everything: the sources have ended, or another model takes over."""
        self._stream["floor"][:] = np.maximum(self._stream["floor"], self._stream["newest"])
        self._gather()
        return self._release(np.ones(self.held, bool))

    def forget(self, streams: NDArray[Any]) -> int:
        """From now on these stream indices have never been seen. Returns how many of their readings were held."""
        self._stream.forget(streams)
        self._gather()
        gone = np.isin(self._due.batch.stream, streams)
        self._keep(~gone)
        return int(gone.sum())

    def snapshot(self) -> dict[str, Any]:
        """All state, of plain values; `restore` continues to the same bits."""
        self._gather()
        batch = self._due.batch
        return {
            "streams": self._stream.snapshot(),
            "newest": self._newest,
            "stream": pack_array(batch.stream),
            "time": pack_array(batch.event_time),
            "values": pack_array(batch.values),
            "codes": pack_array(codes_of(batch, self._categories)),
            "turn": pack_array(self._due.turn),
            "serial": pack_array(self._due.serial),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `snapshot` was taken, under the same spec."""
        self._stream.restore(state["streams"])
        self._newest = state["newest"]
        stream, time, values, codes = (unpack_array(state[name]) for name in ("stream", "time", "values", "codes"))
        self._due, self._pieces, self.held = self._none, [], 0
        batch = Batch(stream, time, values, codes)
        self._hold(_Held(batch, unpack_array(state["turn"]), unpack_array(state["serial"])))

    def _late(self, stream: Int32, time: Int64, all_before: Int64) -> tuple[Bool, Int64]:
        """Which readings are too late, and how often their stream had been idle before each; moves the watermarks.
        `all_before` is the newest event time of all streams before each.

        Nothing here depends on what is held or was refused, so it is the same in one batch or in many.
        """
        self._stream.reserve(stream)
        newest, floor, turn = (self._stream[name] for name in ("newest", "floor", "turn"))
        order = np.argsort(stream, kind="stable")
        runs = Runs.of(stream[order])
        of_run, t = stream[order][runs.starts], time[order]
        after = runs.accumulate(np.maximum, t, newest[of_run])
        before = np.append(_NEVER, after[:-1])[: len(t)]
        before[runs.starts] = newest[of_run]
        idle = (before != _NEVER) & (before < all_before[order] - self._lateness)
        earliest = np.where(idle, before, np.maximum(before, _NEVER + self._lateness) - self._lateness)
        floors = runs.accumulate(np.maximum, earliest, floor[of_run])
        turns = runs.accumulate(np.add, idle.astype(np.int64), turn[of_run])
        newest[of_run], floor[of_run], turn[of_run] = after[runs.ends], floors[runs.ends], turns[runs.ends]
        late, of_row = np.empty(len(t), bool), np.empty(len(t), np.int64)
        late[order], of_row[order] = t < floors, turns
        return late, of_row

    def _hold(self, fresh: _Held) -> None:
        """Add readings, and look at the pieces that may now hold complete ones."""
        self.held += len(fresh.serial)
        far = self._newest - self._lateness
        due = [self._due]
        if len(fresh.serial):
            if int(fresh.batch.event_time.min()) < far:
                due.append(fresh)
            else:
                self._wait(fresh)
        if len(self._pieces) > _MAX_PIECES:
            self._regroup()
        while self._pieces and self._pieces[0][0] < far:
            due.append(heappop(self._pieces)[2])
        if len(due) > 1:
            self._due = _joined(due)

    def _wait(self, piece: _Held) -> None:
        heappush(self._pieces, (int(piece.batch.event_time.min()), self._pushes, piece))
        self._pushes += 1

    def _regroup(self) -> None:
        """Make few pieces of many: an array costs more than the reading in it."""
        every = _joined([piece for _, _, piece in self._pieces])
        self._pieces = []
        for rows in np.array_split(np.argsort(every.batch.event_time), _PIECES):
            self._wait(every.take(rows))

    def _gather(self) -> None:
        """Put all pieces together."""
        if self._pieces:
            self._due = _joined([self._due, *(piece for _, _, piece in self._pieces)])
            self._pieces = []

    def _overflow(self, ready: Bool) -> tuple[Bool, int]:
        """Adds the oldest readings to `ready`, of all that are held, until there is room again; returns how many.
        Their streams take nothing earlier from now on."""
        were_due = len(ready)
        self._gather()
        ready = np.append(ready, np.zeros(self.held - were_due, bool))
        rest = np.flatnonzero(~ready)
        excess = len(rest) - self._max_held * 7 // 8
        oldest = rest[self._due.take(rest).order(by_stream=False)[:excess]]
        ready[oldest] = True
        batch = self._due.batch
        np.maximum.at(self._stream["floor"], batch.stream[oldest], batch.event_time[oldest])
        return ready, excess

    def _release(self, ready: Bool, late: int = 0, future: int = 0, early: int = 0) -> Released:
        out = self._due.take(np.flatnonzero(ready))
        out = out.take(out.order(by_stream=True))
        if len(out.serial):
            self._keep(~ready)
        return Released(out.batch, out.serial, late, future, early)

    def _keep(self, rows: Bool) -> None:
        before = len(self._due.serial)
        self._due = self._due.take(rows)
        self.held -= before - len(self._due.serial)


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
