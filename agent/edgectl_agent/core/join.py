"""Readings of several streams → rows of one joined stream, in event time; the same code in training and on the node.

A *member* is what brings some of the channels: streams by a name, or by a pattern whose ``*`` is the key. All streams
of one key are one joined stream; a member without ``*`` belongs to every key. The first member leads.

* There is a row at each event time of the leader, or at each multiple of ``every_ns`` that a value of the key's own is
  still valid at.
* In a row each channel has its latest value at or before the row's time, and at most ``within_ns`` old; else none. Of
  several values of one time the largest counts.
* A row is given out when its time is below the key's *frontier*: the least of its members' newest event times, none of
  them further than ``idle_ns`` behind the newest of these, minus the lateness. A reading below it is late and refused.

Laws: batch boundaries and restarts change nothing. Nor does the order of arrival, as long as no stream is out of order
by more than the lateness, and no reading comes more than ``idle_ns`` + lateness behind the newest one of its key's
members. The node's clock plays no part. Where sources catch up with a backlog, each at its own pace, the caller says
until which time all have been read (``until_ns``): no frontier passes it.

State per joined stream: a time per member, a value with its time per channel, and the readings that wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Batch, Float64, Int32, Int64
from edgectl_agent.core.bundle import FeatureSpec, Join
from edgectl_agent.core.groups.interface import StreamArrays
from edgectl_agent.core.reorder import MAX_HELD, Released, Reorder
from edgectl_agent.core.runs import Runs

_NEVER, _FOREVER = int(np.iinfo(np.int64).min) // 2, int(np.iinfo(np.int64).max) // 2
_MAX_KEPT_NAMES = 100_000
Bool = NDArray[np.bool_]


def unjoined(spec: FeatureSpec) -> FeatureSpec:
    """The features of rows that are joined already."""
    return (
        msgspec.structs.replace(spec, join=msgspec.UNSET, lateness_ns=msgspec.UNSET)
        if not isinstance(spec.join, msgspec.UnsetType)
        else spec
    )


def buffer(spec: FeatureSpec) -> Reorder | Joiner | None:
    """Where readings wait before their features are built; None if they need not."""
    if not isinstance(spec.join, msgspec.UnsetType):
        return Joiner(spec)
    return Reorder(spec) if spec.lateness else None


class Membership:
    """Names of streams → the joined stream and the member that each belongs to, in a bounded memory."""

    def __init__(self, join: Join) -> None:
        self._join = join
        self._patterns = [member.streams.partition("*") for member in join.members]
        self._known: dict[str, tuple[str, int]] = {}

    def place(self, names: Sequence[str]) -> tuple[list[str], Int32]:
        """Joined streams, and shape (n,) the members, -1 for a stream of none."""
        known = self._known
        if len(known) > _MAX_KEPT_NAMES:
            known.clear()
        for name in set(names).difference(known):
            known[name] = self._find(name)
        found = [known[name] for name in names]
        return [stream for stream, _ in found], np.fromiter((member for _, member in found), np.int32, len(found))

    def _find(self, name: str) -> tuple[str, int]:
        for member, (prefix, star, suffix) in enumerate(self._patterns):
            if not star:
                if name == prefix:
                    return self._join.stream, member
            elif len(name) > len(prefix) + len(suffix) and name.startswith(prefix) and name.endswith(suffix):
                key = name[len(prefix) : len(name) - len(suffix)]
                return self._join.stream.replace("*", key), member
        return "", -1


@dataclass(frozen=True, slots=True)
class _Held:
    """Readings that wait, in any order."""

    stream: Int32
    time: Int64
    member: Int32
    values: Float64

    def __len__(self) -> int:
        return len(self.stream)

    def take(self, rows: Int64 | Bool) -> _Held:
        return _Held(self.stream[rows], self.time[rows], self.member[rows], self.values[rows])

    def and_(self, other: _Held) -> _Held:
        if not len(other):
            return self
        return _Held(
            np.concatenate([self.stream, other.stream]),
            np.concatenate([self.time, other.time]),
            np.concatenate([self.member, other.member]),
            np.concatenate([self.values, other.values]),
        )


class Joiner:
    """The held readings of all joined streams under one `FeatureSpec` with a join; used as `reorder.Reorder` is."""

    def __init__(self, spec: FeatureSpec, max_held: int = MAX_HELD) -> None:
        assert not isinstance(spec.join, msgspec.UnsetType)
        self._join, self._lateness, self._max_held = spec.join, spec.lateness, max_held
        place = {channel.name: i for i, channel in enumerate(spec.channels)}
        self._brings = np.zeros((len(self._join.members), len(place)), bool)
        for row, member in zip(self._brings, self._join.members, strict=True):
            row[[place[name] for name in member.channels]] = True
        keyed = [("*" in member.streams) for member in self._join.members]
        self._shared = np.array([any(keyed) and not one for one in keyed])
        """Members that belong to every key."""
        self._shared_channels = self._brings[self._shared].any(axis=0)
        self._low = np.array([-np.inf if c.low is None else c.low for c in spec.channels])
        self._high = np.array([np.inf if c.high is None else c.high for c in spec.channels])
        self._stream = StreamArrays(
            newest=((len(keyed),), np.int64, _NEVER),
            given=((), np.int64, _NEVER),  # the frontier up to which rows were given out
            value=((len(place),), np.float64, np.nan),  # the last one below it, and its time
            time=((len(place),), np.int64, _NEVER),
        )
        self._of_all = -1
        """The stream index under which the shared members are kept; it never has rows."""
        self._until = _FOREVER
        none = np.empty(0, np.int32)
        self._held = _Held(none, none.astype(np.int64), none, np.empty((0, len(place))))

    @property
    def held(self) -> int:
        """How many readings wait."""
        return len(self._held)

    @property
    def newest_ns(self) -> Int64:
        """Event time of each joined stream's newest reading, far below any where it has none."""
        newest: Int64 = self._stream["newest"].max(axis=1)
        return newest

    def waiting(self) -> Int32:
        """Streams that must not give way: those of which readings are held, and what holds the shared members."""
        found = np.unique(self._held.stream)
        return found if self._of_all < 0 else np.union1d(found, np.int32(self._of_all))

    def push(
        self,
        batch: Batch,
        serial: Int64,
        horizon_ns: int | None = None,
        max_streams: int | None = None,
        until_ns: int | None = None,
    ) -> Released:
        """Take a batch in, in order of arrival, and give out the rows that are complete.

        Args:
            batch: readings with `Batch.member`; ``stream`` is the joined one, columns as the `FeatureSpec` has them.
            serial: not used; rows are no readings.
            horizon_ns: readings with a later event time are refused; None for recorded data.
            max_streams: readings of streams from this index on are left out.
            until_ns: a source that has more to bring is no further than this; None if none is behind.
        """
        self._until = _FOREVER if until_ns is None else until_ns - self._lateness
        assert batch.member is not None
        wanted = np.ones(len(batch), bool) if max_streams is None else batch.stream < max_streams
        future = np.zeros(len(batch), bool) if horizon_ns is None else wanted & (batch.event_time > horizon_ns)
        kept = wanted & ~future
        part, member = batch.take(kept), batch.member[kept]
        values, out_of_range = self._values(part.values, member)
        fresh = _Held(part.stream, part.event_time, member, values)
        late = self._late(fresh)
        self._held = self._held.and_(fresh.take(~late))
        released = self._release()
        excess = len(self._held) - self._max_held
        early = 0
        if excess > 0:
            early = excess + self._max_held // 8
            more = self._release(int(np.partition(self._held.time, early - 1)[early - 1]) + 1)
            released = _together(released, more)
        return replace(released, late=int(late.sum()), future=int(future.sum()), early=early, out_of_range=out_of_range)

    def flush(self) -> Released:
        """Give out every row: the sources have ended, or another model takes over."""
        return self._release(_FOREVER, whole=True)

    def forget(self, streams: NDArray[Any]) -> int:
        """From now on these stream indices have never been seen. Returns how many of their readings were held."""
        self._stream.forget(streams)
        if self._of_all in streams:  # they told a wrong time, which is no key's frontier any more
            self._stream["given"][:] = _NEVER
        gone = np.isin(self._held.stream, streams)
        self._held = self._held.take(~gone)
        return int(gone.sum())

    def snapshot(self) -> dict[str, Any]:
        """All state, of plain values; `restore` continues to the same bits."""
        held = self._held
        return {
            "streams": self._stream.snapshot(),
            "of_all": self._of_all,
            "stream": pack_array(held.stream),
            "time": pack_array(held.time),
            "member": pack_array(held.member),
            "values": pack_array(held.values),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `snapshot` was taken, under the same spec."""
        self._stream.restore(state["streams"])
        self._of_all = state["of_all"]
        self._held = _Held(*(unpack_array(state[name]) for name in ("stream", "time", "member", "values")))

    def _values(self, values: Float64, member: Int32) -> tuple[Float64, int]:
        """The values that the members bring, without those out of range, and how many these were."""
        values = np.where(self._brings[member], values, np.nan)
        outside = (values < self._low) | (values > self._high)
        values[outside] = np.nan
        return values, int(np.count_nonzero(outside))

    # ── frontiers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _frontier(self, newest: Int64) -> Int64:
        """Of members' newest event times, shape (n, members): below which nothing is waited for, shape (n,)."""
        top = newest.max(axis=1, initial=_NEVER)
        found: Int64 = np.maximum(newest, top[:, None] - self._join.idle_ns).min(axis=1) - self._lateness
        return np.where(top == _NEVER, _NEVER, np.minimum(found, self._until))

    def _late(self, fresh: _Held) -> Bool:
        """Which readings are too late; moves the members' newest times.

        Nothing here depends on what is held or was refused, so it is the same in one batch or in many.
        """
        self._stream.reserve(fresh.stream)
        n, newest = len(fresh), self._stream["newest"]
        if n == 0:
            return np.zeros(0, bool)
        shared = self._shared[fresh.member]
        if shared.any():
            self._of_all = int(fresh.stream[shared][0])
        order = np.argsort(fresh.stream, kind="stable")
        runs = Runs.of(fresh.stream[order])
        of_run = fresh.stream[order][runs.starts]
        before = np.empty((n, newest.shape[1]), np.int64)
        for member in range(newest.shape[1]):
            told = np.where(fresh.member == member, fresh.time, _NEVER)
            if self._shared[member]:  # in the order of arrival, for all
                first = newest[self._of_all, member] if self._of_all >= 0 else _NEVER
                after = np.maximum.accumulate(np.append(first, told))
                before[:, member] = after[:-1]
                if self._of_all >= 0:
                    newest[self._of_all, member] = after[-1]
                continue
            after = runs.accumulate(np.maximum, told[order], newest[of_run, member])
            shifted = np.append(_NEVER, after[:-1])
            shifted[runs.starts] = newest[of_run, member]
            before[order, member] = shifted
            newest[of_run, member] = after[runs.ends]
        frontier = np.maximum(self._frontier(before), self._stream["given"][fresh.stream])
        late: Bool = fresh.time < frontier
        return late

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _release(self, least: int = _NEVER, whole: bool = False) -> Released:
        """The rows below the frontiers, at least below `least`; `whole`: of everything that is held."""
        state, held = self._stream, self._held
        newest = state["newest"]
        if self._of_all >= 0:
            newest = np.where(self._shared, newest[self._of_all], newest)
        frontier = np.maximum(self._frontier(newest), state["given"])
        if least > _NEVER:
            has = np.zeros(len(frontier), bool)
            has[held.stream] = True
            top = self._ends() if whole else np.full(len(frontier), least)
            frontier = np.where(has | whole, np.maximum(frontier, top), frontier)
        ready = held.time < frontier[held.stream]
        part = held.take(ready)
        stream, time = self._row_places(part, frontier)
        values = self._as_of(stream, time)
        self._keep(part, frontier)
        self._held = held.take(~ready)
        return Released(Batch(stream, time, values), np.full(len(stream), -1, np.int64))

    def _ends(self) -> Int64:
        """Of each stream, behind the last row that what is held can give."""
        newest = self._stream["newest"].max(axis=1)
        reach = self._join.within_ns if self._join.every_ns else 0
        found: Int64 = np.where(newest == _NEVER, _NEVER, newest + reach + 1)
        return found

    def _row_places(self, ready: _Held, frontier: Int64) -> tuple[Int32, Int64]:
        """(stream, event time) of the rows that readings below the frontier call for, sorted."""
        if not self._join.every_ns:
            leads = ready.member == 0
            stream, time = ready.stream[leads], ready.time[leads]
            order = np.lexsort((time, stream))
            stream, time = stream[order], time[order]
            first = Runs.of(stream, time).starts
            return stream[first], time[first]
        every, given = self._join.every_ns, self._stream["given"]
        own = ~np.isnan(ready.values).all(axis=1) & ~self._shared[ready.member]
        last = np.where(self._shared_channels, _NEVER, self._stream["time"]).max(axis=1, initial=_NEVER)
        moved = np.flatnonzero((last > _NEVER) & (frontier > given)).astype(np.int32)
        stream, time = np.append(moved, ready.stream[own]), np.append(last[moved], ready.time[own])
        order = np.lexsort((time, stream))
        stream, time = stream[order], time[order]
        low = np.maximum(-(-time // every), -(-given[stream] // every))
        high = np.minimum((time + self._join.within_ns) // every, (frontier[stream] - 1) // every)
        follows = np.flatnonzero(stream[1:] == stream[:-1])
        high[follows] = np.minimum(high[follows], -(-time[follows + 1] // every) - 1)
        count = np.maximum(high - low + 1, 0)
        begin = np.cumsum(count) - count
        step = np.repeat(low - begin, count) + np.arange(int(count.sum()))
        return np.repeat(stream, count), step * every

    def _as_of(self, stream: Int32, time: Int64) -> Float64:
        """Each channel's value that holds at these places, shape (m, c)."""
        found = np.full((len(stream), self._brings.shape[1]), np.nan)
        if not len(stream):
            return found
        for channel in range(found.shape[1]):
            key, when, values = self._candidates(channel, stream)
            at = np.zeros_like(stream) if self._shared_channels[channel] else stream
            n = len(when)
            is_row = np.append(np.zeros(n, bool), np.ones(len(stream), bool))
            keys, times = np.append(key, at), np.append(when, time)
            order = np.lexsort((np.append(values, np.zeros(len(stream))), is_row, times, keys))
            rows = is_row[order]
            latest = np.maximum.accumulate(np.where(rows, -1, np.arange(len(order))))[rows]
            place, row = order[np.maximum(latest, 0)], order[rows]
            valid = (latest >= 0) & (keys[place] == keys[row]) & (times[row] - times[place] <= self._join.within_ns)
            found[row[valid] - n, channel] = values[place[valid]]
        return found

    def _candidates(self, channel: int, stream: Int32) -> tuple[Int32, Int64, Float64]:
        """Values of a channel that rows of these streams may have, with their streams (0 if it is shared) and times."""
        held, shared = self._held, bool(self._shared_channels[channel])
        streams = np.unique(stream)
        if shared:
            streams = np.array([self._of_all] if self._of_all >= 0 else [], np.int32)
        valid = np.flatnonzero(~np.isnan(held.values[:, channel]))
        last = streams[self._stream["time"][streams, channel] > _NEVER]
        key = np.append(held.stream[valid], last)
        when = np.append(held.time[valid], self._stream["time"][last, channel])
        values = np.append(held.values[valid, channel], self._stream["value"][last, channel])
        return (np.zeros_like(key) if shared else key), when, values

    def _keep(self, ready: _Held, frontier: Int64) -> None:
        """Remember of each channel the last value below the frontier, which moves there."""
        self._stream["given"][:] = np.maximum(self._stream["given"], frontier)
        if not len(ready):
            return
        for channel in range(ready.values.shape[1]):
            rows = np.flatnonzero(~np.isnan(ready.values[:, channel]))
            rows = rows[np.lexsort((ready.values[rows, channel], ready.time[rows], ready.stream[rows]))]
            rows = rows[Runs.of(ready.stream[rows]).ends]
            self._stream["value"][ready.stream[rows], channel] = ready.values[rows, channel]
            self._stream["time"][ready.stream[rows], channel] = ready.time[rows]


def _together(one: Released, other: Released) -> Released:
    a, b = one.batch, other.batch
    batch = Batch(
        np.append(a.stream, b.stream), np.append(a.event_time, b.event_time), np.concatenate([a.values, b.values])
    )
    order = np.lexsort((batch.event_time, batch.stream))
    return Released(batch.take(order), np.append(one.serial, other.serial))
