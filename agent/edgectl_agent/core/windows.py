"""Sliding event-time windows over many streams, made of panes.

A window of length ``L`` with ``k`` panes covers the pane of the newest reading and the ``k - 1`` panes before it: exact
at pane granularity, of fixed size, and without subtraction. A pane keeps one `cell` per channel: count, sums about a
reference value, minimum, maximum and time moments. Cells of closed panes merge by the pairwise update of Chan, Golub &
LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979, formula 2.1, oldest first.

Results are equal to the last bit for any batch boundaries, because every sum is taken strictly in order of arrival
(`Runs.accumulate` continues from the stored cell) and merging an empty pane changes nothing.

Readings come sorted by stream, each stream's in order of event time; `features.FeatureBuilder` sees to it.

State is kept one row per stream, so that a batch touches few places of memory. Arithmetic is done on planes, shape
(fields, channels, n): each numpy step then runs over one contiguous array.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core import single
from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import Stat

_COUNT, _SUM, _SQUARE, _T1, _T2, _TX, _REFERENCE, _MIN, _MAX = range(9)
_ADDED = 6
"""The first so many fields of a cell are sums."""
_CELL = np.array([0, 0, 0, 0, 0, 0, 0, np.inf, -np.inf])
"""The cell of no value."""
_N, _MEAN, _T_MEAN, _M2, _TT, _TT_X, _LOW, _HIGH = range(8)
_NOTHING = np.array([0, 0, 0, 0, 0, 0, np.inf, -np.inf])
"""`Moments` of no value, in the order of state: means together and sums of squares together merge in fewer steps."""
_MOMENTS = [_N, _MEAN, _M2, _LOW, _HIGH, _T_MEAN, _TT, _TT_X]
"""Where state has each field of `Moments`."""
_NO_PANE = np.iinfo(np.int64).min
_SHORT = 16
"""Runs up to this length are scanned rank by rank."""


class Runs:
    """Consecutive runs of rows, such as a stream's readings, in which a ufunc accumulates strictly in order.

    Runs are laid out as rows of padded matrices, one matrix per power of two of the length, so that the work is a few
    numpy calls whether there are many short runs or one long one.
    """

    def __init__(self, starts: Int64, n: int) -> None:
        self.starts = starts
        self.lengths = np.append(starts[1:], n) - starts
        self.ends = starts + self.lengths - 1
        self.of_row = np.repeat(np.arange(len(starts)), self.lengths)
        self._n = n
        self._plan: list[tuple[Int64, Int64, NDArray[np.bool_]]] | None = None

    @classmethod
    def of(cls, *keys: NDArray[Any]) -> Runs:
        """Runs of equal neighbours in all of `keys`."""
        n = len(keys[0])
        changed = np.ones(n, bool)
        if n:
            changed[1:] = False
            for key in keys:
                changed[1:] |= key[1:] != key[:-1]
        return cls(np.flatnonzero(changed), n)

    @property
    def rank(self) -> Int64:
        """How many rows of its run are before each row, shape (n,)."""
        found: Int64 = np.arange(self._n) - self.starts[self.of_row]
        return found

    def accumulate(self, ufunc: np.ufunc, rows: NDArray[Any], first: NDArray[Any]) -> NDArray[Any]:
        """``out[i] = ufunc(out[i - 1], rows[i])`` in each run, where ``out`` before the run is ``first[run]``."""
        out = np.empty_like(rows)
        if len(self.starts) == self._n:
            ufunc(first, rows, out=out)
            return out
        for runs, index, inside in self._layout():
            padded = rows[index]
            padded[:, 0] = ufunc(first[runs], padded[:, 0])
            out[index[inside]] = ufunc.accumulate(padded, axis=1)[inside]
        return out

    def scan(self, ufunc: np.ufunc, rows: Float64, first: Float64) -> Float64:
        """As `accumulate`, along the last axis: `rows` has the shape (…, n), `first` (…, runs)."""
        if len(self.starts) == self._n:
            found: Float64 = ufunc(first, rows)
            return found
        longest = int(self.lengths.max())
        if longest > _SHORT:
            return self._scan_long(ufunc, rows, first)
        # Right for the first reading of each run, and overwritten for the others.
        out: Float64 = ufunc(first.take(self.of_row, axis=-1), rows)
        for rank in range(1, longest):
            at = self.starts[self.lengths > rank] + rank
            out[..., at] = ufunc(out.take(at - 1, axis=-1), rows.take(at, axis=-1))
        return out

    def _scan_long(self, ufunc: np.ufunc, rows: Float64, first: Float64) -> Float64:
        out = np.empty_like(rows)
        for runs, index, inside in self._layout():
            padded = rows[..., index]
            padded[..., 0] = ufunc(first[..., runs], padded[..., 0])
            out[..., index[inside]] = ufunc.accumulate(padded, axis=-1)[..., inside]
        return out

    def _layout(self) -> list[tuple[Int64, Int64, NDArray[np.bool_]]]:
        if self._plan is None:
            bucket = np.ceil(np.log2(self.lengths)).astype(np.int64)
            self._plan = []
            for size in np.unique(bucket):
                runs = np.flatnonzero(bucket == size)
                offset = np.arange(self.lengths[runs].max())
                inside = offset < self.lengths[runs, None]
                # Padding repeats the run's last row: harmless, since only `inside` is read back.
                index = self.starts[runs, None] + np.minimum(offset, self.lengths[runs, None] - 1)
                self._plan.append((runs, index, inside))
        return self._plan


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
        self._empty = np.repeat(_CELL, channels)
        self._nothing = np.repeat(_NOTHING, channels)
        self._pane: Int64 = np.empty(0, np.int64)
        """Of the stream's newest reading."""
        self._cell: Float64 = np.empty((0, len(self._empty)))
        """Of that pane."""
        self._closed_pane: Int64 = np.empty((0, self._slots), np.int64)
        self._closed: Float64 = np.empty((0, self._slots, len(self._nothing)))
        """`Moments` of the panes before, with times from the pane's begin."""
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
        cells = self._running(runs, self._planes(start), (event_time - pane * self.pane_ns) / 1e9, values)
        moments = _moments(cells)
        final = _rows(moments.take(runs.ends, axis=-1))
        merged = self._merged_before(of_run, run_pane, final)
        self._store(runs, of_run, run_pane, cells, final, merged)
        found = self._planes(merged if len(runs.starts) == len(stream) else merged.take(runs.of_row, axis=0))
        _merge(found, moments)
        return Moments(*(found[field].T for field in _MOMENTS))

    def push_one(self, stream: int, time_ns: int, values: list[float]) -> list[float]:
        """`push` of one reading: equal to the last bit. Returns a row of moments for `single.statistics`."""
        self._reserve(stream + 1)
        pane = time_ns // self.pane_ns
        cell: list[float] = self._cell[stream].tolist()
        if self._pane.item(stream) != pane:
            self._close_one(stream, cell)
            cell = self._empty.tolist()
        single.add(cell, self._channels, (time_ns - pane * self.pane_ns) / 1e9, values)
        if self._merged_of.item(stream) == pane:
            merged: list[float] = self._merged[stream].tolist()
        else:
            self._merged[stream] = merged = self._merge_closed_one(stream, pane)
        self._pane[stream] = self._merged_of[stream] = pane
        self._cell[stream] = cell
        return single.merge(merged, single.moments(cell, self._channels), self._channels)

    def _close_one(self, stream: int, cell: list[float]) -> None:
        old = self._pane.item(stream)
        if self._slots and old != _NO_PANE:
            self._closed_pane[stream, old % self._slots] = old
            self._closed[stream, old % self._slots] = single.moments(cell, self._channels)

    def _merge_closed_one(self, stream: int, pane: int) -> list[float]:
        merged: list[float] = self._nothing.tolist()
        held, closed = self._closed_pane[stream].tolist(), self._closed[stream].tolist()
        for back in range(self._slots, 0, -1):
            slot = (pane - back) % self._slots
            if held[slot] == pane - back:
                merged = single.merge(merged, closed[slot], self._channels, -back * self.pane_ns / 1e9)
        return merged

    @property
    def bytes_per_stream(self) -> int:
        """What one stream costs in memory."""
        numbers = (self._pane, self._closed_pane, self._merged_of)
        moments = (self._cell, self._closed, self._merged)
        return sum(array.itemsize * math.prod(array.shape[1:]) for array in (*numbers, *moments))

    def snapshot(self) -> dict[str, Any]:
        return {
            "current": pack_array(self._pane),
            "cell": pack_array(self._cell),
            "pane": pack_array(self._closed_pane),
            "closed": pack_array(self._closed),
        }

    def forget(self, streams: NDArray[Any]) -> None:
        """Empty these streams' windows."""
        known = streams[streams < len(self._pane)]
        self._pane[known] = self._closed_pane[known] = self._merged_of[known] = _NO_PANE

    def restore(self, state: dict[str, Any]) -> None:
        if "cells" in state:
            self._restore_cells(unpack_array(state["pane"]), unpack_array(state["cells"]))
        else:
            self._pane, self._cell = unpack_array(state["current"]), unpack_array(state["cell"])
            self._closed_pane, self._closed = unpack_array(state["pane"]), unpack_array(state["closed"])
        self._merged_of = np.full(len(self._pane), _NO_PANE, np.int64)
        self._merged = np.empty((len(self._pane), len(self._nothing)))

    def _restore_cells(self, pane: Int64, cells: Float64) -> None:
        """What agents up to 1.4 saved: cells of all panes, shape (streams, panes, c, fields), the newest among them."""
        streams = len(pane)
        newest = pane.argmax(axis=1) if streams else np.empty(0, np.int64)
        at = np.arange(streams)
        self._pane = pane[at, newest]
        self._cell = cells[at, newest].swapaxes(1, 2).reshape(streams, -1)
        self._closed_pane = np.full((streams, self._slots), _NO_PANE, np.int64)
        self._closed = np.empty((streams, self._slots, len(self._nothing)))
        for slot in range(self.panes):
            known = np.flatnonzero(
                (pane[:, slot] >= self._pane - self._slots) & (slot != newest) & (self._pane != _NO_PANE)
            )
            number = pane[known, slot]
            moments = _moments(np.ascontiguousarray(cells[known, slot].transpose(2, 1, 0)))
            self._closed_pane[known, number % self._slots] = number
            self._closed[known, number % self._slots] = _rows(moments)

    def _reserve(self, streams: int) -> None:
        have = len(self._pane)
        if streams > have:
            more = max(streams - have, have // 4)
            no_pane = np.full(more, _NO_PANE)
            self._pane, self._merged_of = np.append(self._pane, no_pane), np.append(self._merged_of, no_pane)
            no_panes = np.full((more, self._slots), _NO_PANE)
            self._closed_pane = np.concatenate([self._closed_pane, no_panes])
            self._cell = _longer(self._cell, more)
            self._closed, self._merged = _longer(self._closed, more), _longer(self._merged, more)

    def _planes(self, rows: Float64) -> Float64:
        """Rows of state, shape (m, fields * c) → (fields, c, m), contiguous."""
        return np.ascontiguousarray(rows.T).reshape(rows.shape[1] // self._channels, self._channels, len(rows))

    def _close(self, turned: Int64, of_run: NDArray[np.int32], cell: Float64) -> None:
        """Move the current panes of the streams whose first run begins another into the closed ones."""
        first = turned[(turned == 0) | (of_run[turned] != of_run[turned - 1])]
        stream = of_run[first]
        old = self._pane[stream]
        known = old != _NO_PANE
        if self._slots and known.any():
            stream, old, first = stream[known], old[known], first[known]
            slot = old % self._slots
            self._closed_pane[stream, slot] = old
            self._closed[stream, slot] = _rows(_moments(self._planes(cell[first])))

    def _running(self, runs: Runs, start: Float64, offset_s: Float64, values: Float64) -> Float64:
        """The current pane's cell after each reading, shape (fields, c, n)."""
        x = np.ascontiguousarray(values.T)
        valid = ~np.isnan(x)
        complete = bool(valid.all())
        reference = start[_REFERENCE]
        fresh = start[_COUNT] == 0
        if fresh.any():
            first = x.take(runs.starts, axis=-1) if complete else first_valid(runs, values, valid.T).T
            reference = np.where(fresh, first, reference)
        low = high = x
        by_row = reference.take(runs.of_row, axis=-1)
        added = np.empty((_ADDED, *x.shape))
        np.subtract(x, by_row, out=added[_SUM])
        added[_COUNT], added[_T1] = valid, offset_s
        if not complete:
            added[_SUM][~valid] = added[_T1][~valid] = 0.0
            low, high = np.where(valid, x, np.inf), np.where(valid, x, -np.inf)
        np.multiply(added[_SUM], added[_SUM], out=added[_SQUARE])
        np.multiply(added[_T1], added[_T1], out=added[_T2])
        np.multiply(added[_T1], added[_SUM], out=added[_TX])
        cells = np.empty((len(_CELL), *x.shape))
        cells[:_ADDED] = runs.scan(np.add, added, start[:_ADDED])
        cells[_REFERENCE] = by_row
        cells[_MIN], cells[_MAX] = runs.scan(np.minimum, low, start[_MIN]), runs.scan(np.maximum, high, start[_MAX])
        return cells

    def _merged_before(self, of_run: NDArray[np.int32], run_pane: Int64, final: Float64) -> Float64:
        """For each run, the moments of the panes before its own, relative to its begin; shape (runs, fields * c)."""
        merged = self._merged.take(of_run, axis=0)
        changed = np.flatnonzero(self._merged_of[of_run] != run_pane)
        if len(changed):
            merged[changed] = _rows(self._merge_closed(changed, of_run, run_pane, final))
        return merged

    def _merge_closed(self, wanted: Int64, of_run: NDArray[np.int32], run_pane: Int64, final: Float64) -> Float64:
        """Panes before the runs `wanted`, merged oldest first; shape (fields, c, wanted)."""
        stream, pane = of_run[wanted], run_pane[wanted]
        merged = self._planes(np.repeat(self._nothing[None], len(wanted), axis=0))
        run = self._runs_before(wanted, of_run, run_pane)
        closed, base = self._closed.reshape(-1, len(self._nothing)), stream.astype(np.int64) * self._slots
        for back in range(self._slots, 0, -1):  # one pane at a time: all at once would be the node's largest array
            slot = (pane - back) % self._slots
            stored, here = self._closed_pane[stream, slot] == pane - back, run[back] >= 0
            if not (stored | here).any():
                continue
            rows = closed.take(base + slot, axis=0)
            if not stored.all():
                rows[~stored] = self._nothing
            if here.any():  # of this batch, which is newer than what is stored
                rows[here] = final[run[back][here]]
            later = self._planes(rows)
            np.add(later[_T_MEAN], -back * self.pane_ns / 1e9, out=later[_T_MEAN], where=later[_N] > 0)
            _merge(merged, later)
        return merged

    def _runs_before(self, wanted: Int64, of_run: NDArray[np.int32], run_pane: Int64) -> Int64:
        """Which run of this batch holds the pane so many before `wanted`'s; -1 if none. Shape (panes, wanted)."""
        run = np.full((self.panes, len(wanted)), -1)
        for back in range(1, min(self.panes, len(of_run))):
            earlier = np.maximum(wanted - back, 0)
            distance = run_pane[wanted] - run_pane[earlier]
            near = (wanted >= back) & (of_run[earlier] == of_run[wanted]) & (distance < self.panes)
            at = np.flatnonzero(near)
            if len(at) == 0:
                break
            run[distance[at], at] = earlier[at]
        return run

    def _store(
        self, runs: Runs, of_run: NDArray[np.int32], run_pane: Int64, cells: Float64, final: Float64, merged: Float64
    ) -> None:
        is_last = np.append(of_run[1:] != of_run[:-1], True)
        last = np.flatnonzero(is_last)
        if self._slots and len(last) < len(of_run):
            newest = np.repeat(run_pane[last], np.diff(last, prepend=-1))
            kept = np.flatnonzero(~is_last & (run_pane >= newest - self._slots))
            slot = run_pane[kept] % self._slots
            self._closed_pane[of_run[kept], slot] = run_pane[kept]
            self._closed[of_run[kept], slot] = final[kept]
        stream = of_run[last]
        self._pane[stream] = self._merged_of[stream] = run_pane[last]
        self._cell[stream] = _rows(cells.take(runs.ends[last], axis=-1))
        self._merged[stream] = merged[last]


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
        return found if m.n.all() else np.where(m.n > 0, found, np.nan)


def first_valid(runs: Runs, values: Float64, valid: NDArray[np.bool_]) -> Float64:
    """The first value of each run and channel, 0 where there is none; shape (runs, c)."""
    n = len(values)
    row = np.where(valid, np.arange(n)[:, None], n)
    first = np.minimum.reduceat(row, runs.starts, axis=0)
    inside = first <= runs.ends[:, None]
    picked = np.take_along_axis(values, np.minimum(first, n - 1), axis=0)
    return np.where(inside, picked, 0.0)


def _longer(array: Float64, more: int) -> Float64:
    return np.concatenate([array, np.zeros((more, *array.shape[1:]))])


def _rows(planes: Float64) -> Float64:
    """Planes of shape (fields, c, m) → rows of state, (m, fields * c)."""
    fields, channels, m = planes.shape
    return planes.reshape(fields * channels, m).T


def _moments(cells: Float64) -> Float64:
    """Moments of cells, shape (fields, c, n), with times from the pane's begin."""
    s1, t1 = cells[_SUM], cells[_T1]
    found = np.empty((len(_NOTHING), *cells.shape[1:]))
    some = np.maximum(cells[_COUNT], 1.0)
    x_mean, t_mean = s1 / some, np.divide(t1, some, out=found[_T_MEAN])
    found[_N], found[_LOW], found[_HIGH] = cells[_COUNT], cells[_MIN], cells[_MAX]
    np.add(cells[_REFERENCE], x_mean, out=found[_MEAN])  # of an empty cell both are 0
    np.subtract(cells[_SQUARE], s1 * x_mean, out=found[_M2])
    np.subtract(cells[_T2], t1 * t_mean, out=found[_TT])
    np.subtract(cells[_TX], t1 * x_mean, out=found[_TT_X])
    for field in (_M2, _TT):
        np.maximum(found[field], 0.0, out=found[field])
    return found


def _merge(into: Float64, later: Float64) -> None:
    """Add `later`; both have the shape (fields, c, n). Merging with an empty one gives the other to the last bit."""
    n = into[_N] + later[_N]
    share = later[_N] / np.maximum(n, 1.0)
    weight = into[_N] * share
    means, squares = slice(_MEAN, _T_MEAN + 1), slice(_M2, _TT_X + 1)
    distance = later[means] - into[means]
    products = np.empty((3, *n.shape))
    np.multiply(distance, distance, out=products[:2])
    np.multiply(distance[1], distance[0], out=products[2])
    products *= weight
    distance *= share
    into[_N] = n
    into[means] += distance
    into[squares] += later[squares]
    into[squares] += products
    np.minimum(into[_LOW], later[_LOW], out=into[_LOW])
    np.maximum(into[_HIGH], later[_HIGH], out=into[_HIGH])
