"""Sliding event-time windows over many streams, made of panes.

A window of length ``L`` with ``k`` panes covers the pane of the newest reading and the ``k - 1`` panes before it: exact
at pane granularity, of fixed size, and without subtraction. A pane keeps one `cell` per channel: count, sums about a
reference value, minimum, maximum and time moments (`moments`). How the closed panes are merged: `closed`.

Results are equal to the last bit for any batch boundaries, because every sum is taken strictly in order of arrival,
going on from the stored cell (`runs`), and what is merged with what depends on the panes' numbers alone.

Readings come sorted by stream, each stream's in order of event time; `features.FeatureBuilder` sees to it.

State is kept one row per stream, so that a batch touches few places of memory. Arithmetic is done on planes, shape
(fields, channels, n): each numpy step then runs over long rows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core import single
from edgectl_agent.core.arrays import columns, pack_array, planes, unpack_array
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import Stat
from edgectl_agent.core.closed import NO_PANE, ClosedPanes
from edgectl_agent.core.moments import (
    ADDED,
    CELL,
    COUNT,
    MAX,
    MIN,
    MOMENTS,
    NOTHING,
    REFERENCE,
    SQUARE,
    SUM,
    T1,
    T2,
    TX,
    merge,
    moments_of,
    planes_of,
    rows_of,
)
from edgectl_agent.core.runs import InOrder, Runs, for_scans


class Moments(NamedTuple):
    """Mergeable statistics, each of shape (rows, channels); times in seconds relative to a common origin."""

    n: Float64
    mean: Float64
    m2: Float64
    low: Float64
    high: Float64
    t_mean: Float64
    tt: Float64
    """Sum of squared time deviations."""
    tx: Float64
    """Sum of products of time and value deviations."""

    def take(self, columns: list[int]) -> Moments:
        """The same windows, some channels."""
        if columns == list(range(self.n.shape[1])):
            return self
        return Moments(*(field[:, columns] for field in self))


class Windows:
    """State of one window length for all streams; `push` returns the window after each reading."""

    def __init__(self, window_ns: int, panes: int, channels: int) -> None:
        self.pane_ns = max(1, window_ns // panes)
        self.panes = panes
        self._channels = channels
        self._slots = panes - 1
        """How many closed panes a window has."""
        self._empty = np.repeat(CELL, channels)
        self._nothing = np.repeat(NOTHING, channels)
        self._pane: Int64 = np.empty(0, np.int64)
        """Of the stream's newest reading."""
        self._cell: Float64 = np.empty((0, len(self._empty)))
        """Of that pane."""
        self._closed = ClosedPanes(self._slots, self.pane_ns, channels) if self._slots else None
        # Derived, hence not in the snapshot: the closed panes merged, which changes with the stream's pane only.
        self._merged_of: Int64 = np.empty(0, np.int64)
        self._merged: Float64 = np.empty((0, len(self._nothing)))

    def push(self, stream: NDArray[np.int32], event_time: Int64, values: Float64) -> Moments:
        """Add readings, sorted by stream and in event-time order within a stream.

        Args:
            stream: shape (n,).
            event_time: shape (n,), ns.
            values: shape (n, c), NaN = missing.

        Returns:
            The window's moments just after each reading, shapes (n, c).
        """
        self._reserve(int(stream.max(initial=-1)) + 1)
        pane = event_time // self.pane_ns
        runs = Runs.of(stream, pane)
        of_run, run_pane = stream[runs.starts], pane[runs.starts]
        start = self._cell.take(of_run, axis=0)
        turned = np.flatnonzero(self._pane[of_run] != run_pane)  # a stream's further runs are among them
        if len(turned):
            self._close(turned, of_run, start)
            start[turned] = self._empty
        self._refer(runs, start, values)
        rows = for_scans(runs)
        cells = self._running(rows, start, _taken((event_time - pane * self.pane_ns) / 1e9, rows.order), values)
        moments = moments_of(cells)
        merged = self._merged_before(of_run, run_pane, moments, rows.ends)
        self._store(of_run, run_pane, cells, rows.ends)
        found = planes(*moments.shape)
        rows.spread(merged if rows.order_of_runs is None else columns(merged, rows.order_of_runs), found)
        merge(found, moments)
        if rows.back is not None:
            found = columns(found, rows.back)
        return Moments(*(found[field].T for field in MOMENTS))

    def push_one(self, stream: int, time_ns: int, values: list[float]) -> list[float]:
        """`push` of one reading: equal to the last bit. Returns a row of moments for `single.statistics`."""
        self._reserve(stream + 1)
        pane = time_ns // self.pane_ns
        cell: list[float] = self._cell[stream].tolist()
        current = self._pane.item(stream)
        if self._merged_of.item(stream) == pane:
            merged: list[float] = self._merged[stream].tolist()
        else:
            self._merged[stream] = merged = self._merged_before_one(stream, pane, current, cell)
        if current != pane:
            cell = self._empty.tolist()
        single.add(cell, self._channels, (time_ns - pane * self.pane_ns) / 1e9, values)
        self._pane[stream] = self._merged_of[stream] = pane
        self._cell[stream] = cell
        return single.merge(merged, single.moments(cell, self._channels), self._channels)

    def _merged_before_one(self, stream: int, pane: int, current: int, cell: list[float]) -> list[float]:
        if self._closed is None:
            return list(self._nothing.tolist())
        return self._closed.enter_one(stream, pane, current, single.moments(cell, self._channels))

    @property
    def bytes_per_stream(self) -> int:
        """What one stream costs in memory."""
        arrays = (self._pane, self._merged_of, self._cell, self._merged)
        own = sum(array.itemsize * math.prod(array.shape[1:]) for array in arrays)
        return own + (self._closed.bytes_per_stream if self._closed else 0)

    def snapshot(self) -> dict[str, Any]:
        return {
            "current": pack_array(self._pane),
            "cell": pack_array(self._cell),
            **(self._closed.snapshot() if self._closed else {}),
        }

    def forget(self, streams: NDArray[Any]) -> None:
        """Empty these streams' windows."""
        known = streams[streams < len(self._pane)]
        self._pane[known] = self._merged_of[known] = NO_PANE
        if self._closed:
            self._closed.forget(known)

    def restore(self, state: dict[str, Any]) -> None:
        if "cells" in state:
            self._restore_cells(unpack_array(state["pane"]), unpack_array(state["cells"]))
        else:
            self._pane, self._cell = unpack_array(state["current"]), unpack_array(state["cell"])
            if self._closed and "folded" in state:
                self._closed.restore(state)
            elif self._closed:  # as agents saved them before
                self._closed.restore_panes(unpack_array(state["pane"]), unpack_array(state["closed"]), self._pane)
        self._merged_of = np.full(len(self._pane), NO_PANE, np.int64)
        self._merged = np.empty((len(self._pane), len(self._nothing)))

    def _restore_cells(self, pane: Int64, cells: Float64) -> None:
        """What agents up to 1.4 saved: cells of all panes, shape (streams, panes, c, fields), the newest among them."""
        streams = len(pane)
        newest = pane.argmax(axis=1) if streams else np.empty(0, np.int64)
        at = np.arange(streams)
        self._pane = pane[at, newest]
        self._cell = cells[at, newest].swapaxes(1, 2).reshape(streams, -1)
        if self._closed is None:
            return
        closed_pane = np.full((streams, self._slots), NO_PANE, np.int64)
        closed = np.empty((streams, self._slots, len(self._nothing)))
        for slot in range(self.panes):
            known = np.flatnonzero(
                (pane[:, slot] >= self._pane - self._slots) & (slot != newest) & (self._pane != NO_PANE)
            )
            number = pane[known, slot]
            moments = moments_of(np.ascontiguousarray(cells[known, slot].transpose(2, 1, 0)))
            closed_pane[known, number % self._slots] = number
            closed[known, number % self._slots] = rows_of(moments)
        self._closed.restore_panes(closed_pane, closed, self._pane)

    def _reserve(self, streams: int) -> None:
        have = len(self._pane)
        if streams > have:
            more = max(streams - have, have // 4)
            no_pane = np.full(more, NO_PANE)
            self._pane, self._merged_of = np.append(self._pane, no_pane), np.append(self._merged_of, no_pane)
            self._cell, self._merged = _longer(self._cell, more), _longer(self._merged, more)
            if self._closed:
                self._closed.reserve(more)

    def _planes(self, rows: Float64) -> Float64:
        return planes_of(rows, self._channels)

    def _close(self, turned: Int64, of_run: NDArray[np.int32], cell: Float64) -> None:
        """Move the current panes of the streams whose first run begins another into the closed ones."""
        first = turned[(turned == 0) | (of_run[turned] != of_run[turned - 1])]
        first = first[self._pane[of_run[first]] != NO_PANE]
        if self._closed and len(first):
            stream = of_run[first]
            self._closed.close(stream, self._pane[stream], moments_of(self._planes(cell.take(first, axis=0))))

    def _refer(self, runs: Runs, start: Float64, values: Float64) -> None:
        """Give cells that hold nothing yet the first value of their run as their reference."""
        c = self._channels
        fresh, reference = start[:, :c] == 0, start[:, REFERENCE * c : (REFERENCE + 1) * c]
        if fresh.any():
            first = values.take(runs.starts, axis=0)
            if np.isnan(values).any():
                first = first_valid(runs, values, ~np.isnan(values))
            np.copyto(reference, first, where=fresh)

    def _running(self, rows: InOrder, start: Float64, offset_s: Float64, values: Float64) -> Float64:
        """The current pane's cell after each reading, shape (fields, c, n), in the order of `rows`."""
        x = _taken(values, rows.order).T
        before = self._planes(_taken(start, rows.order_of_runs))
        cells = planes(len(CELL), *x.shape)
        cells[MIN] = x
        valid = ~np.isnan(cells[MIN])
        rows.spread(before[REFERENCE], cells[REFERENCE])
        np.subtract(cells[MIN], cells[REFERENCE], out=cells[SUM])
        cells[COUNT], cells[T1], cells[MAX] = valid, offset_s, cells[MIN]
        if not valid.all():
            missing = ~valid
            cells[SUM][missing] = cells[T1][missing] = 0.0
            cells[MIN][missing], cells[MAX][missing] = np.inf, -np.inf
        np.multiply(cells[SUM], cells[SUM], out=cells[SQUARE])
        np.multiply(cells[T1], cells[T1], out=cells[T2])
        np.multiply(cells[T1], cells[SUM], out=cells[TX])
        rows.scan(np.add, cells[:ADDED], before[:ADDED])
        rows.scan(np.minimum, cells[MIN], before[MIN])
        rows.scan(np.maximum, cells[MAX], before[MAX])
        return cells

    def _merged_before(self, of_run: NDArray[np.int32], run_pane: Int64, moments: Float64, ends: Int64) -> Float64:
        """For each run, the moments of the panes before its own, relative to its begin; shape (fields, c, runs)."""
        if self._closed is None:
            return self._planes(np.tile(self._nothing, (len(of_run), 1)))
        streams = Runs.of(of_run)
        changed = np.logical_or.reduceat(self._merged_of[of_run] != run_pane, streams.starts)
        if not changed.any():
            return self._planes(self._merged.take(of_run, axis=0))
        runs = np.flatnonzero(changed[streams.of_row])
        stream = of_run[runs]
        entered = self._closed.enter(
            stream, run_pane[runs], self._pane[stream], lambda panes: columns(moments, ends[runs[panes]])
        )
        last = streams.ends[changed]
        if changed.all():
            merged = entered
        else:
            merged = self._planes(self._merged.take(of_run, axis=0))
            merged[..., runs] = entered
        self._merged[of_run[last]], self._merged_of[of_run[last]] = rows_of(columns(merged, last)), run_pane[last]
        return merged

    def _store(self, of_run: NDArray[np.int32], run_pane: Int64, cells: Float64, ends: Int64) -> None:
        last = np.flatnonzero(np.append(of_run[1:] != of_run[:-1], True))
        stream = of_run[last]
        self._pane[stream] = run_pane[last]
        self._cell[stream] = rows_of(columns(cells, ends[last]))


def statistic(m: Moments, stat: Stat) -> Float64:
    """One statistic of each window, shape (n, c); NaN where the window holds no value."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if stat == "count":
            return m.n
        if stat == "sum":
            return m.mean * m.n
        if stat == "mean":
            found = m.mean
        elif stat == "std":
            found = np.sqrt(m.m2 / np.maximum(m.n, 1.0))
        elif stat == "min":
            found = m.low
        elif stat == "max":
            found = m.high
        else:
            found = np.where(m.tt > 0, m.tx / m.tt, 0.0)
        return found if m.n.min(initial=1.0) > 0 else np.where(m.n > 0, found, np.nan)


def first_valid(runs: Runs, values: Float64, valid: NDArray[np.bool_]) -> Float64:
    """The first value of each run and channel, 0 where there is none; shape (runs, c)."""
    n = len(values)
    row = np.where(valid, np.arange(n)[:, None], n)
    first = np.minimum.reduceat(row, runs.starts, axis=0)
    inside = first <= runs.ends[:, None]
    picked = np.take_along_axis(values, np.minimum(first, n - 1), axis=0)
    return np.where(inside, picked, 0.0)


def _taken(array: Float64, order: Int64 | None) -> Float64:
    return array if order is None else array.take(order, axis=0)


def _longer(array: Float64, more: int) -> Float64:
    return np.concatenate([array, np.zeros((more, *array.shape[1:]))])
