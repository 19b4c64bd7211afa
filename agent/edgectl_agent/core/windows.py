"""Sliding event-time windows over many streams, made of panes.

A window of length ``L`` with ``k`` panes covers the pane of the newest reading and the ``k - 1`` panes before it: exact
at pane granularity, of fixed size, and without subtraction. A pane keeps one `cell` per channel: count, sums about a
reference value, minimum, maximum and time moments. Cells of closed panes merge by the pairwise update of Chan, Golub &
LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979, formula 2.1, oldest first.

Results are equal to the last bit for any batch boundaries, because every sum is taken strictly in order of arrival
(`Runs.accumulate` continues from the stored cell) and merging an empty pane changes nothing.

Readings come sorted by stream, each stream's in order of event time; `features.FeatureBuilder` sees to it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import Stat

_COUNT, _SUM, _SQUARE, _T1, _T2, _TX = range(6)
_ADDED = 6
_REFERENCE, _MIN, _MAX = 6, 7, 8
_FIELDS = 9
_NO_PANE = np.iinfo(np.int64).min


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

    def merge(self, later: Moments) -> Moments:
        """Of both together; merging with an empty one gives the other to the last bit."""
        n = self.n + later.n
        share = later.n / np.maximum(n, 1.0)
        weight = self.n * share
        dx = later.mean - self.mean
        dt = later.t_mean - self.t_mean
        return Moments(
            n,
            self.mean + dx * share,
            self.m2 + later.m2 + dx * dx * weight,
            np.minimum(self.low, later.low),
            np.maximum(self.high, later.high),
            self.t_mean + dt * share,
            self.tt + later.tt + dt * dt * weight,
            self.tx + later.tx + dt * dx * weight,
        )

    def take(self, columns: list[int]) -> Moments:
        """The same windows, some channels."""
        return Moments(*(field[:, columns] for field in self))


class Windows:
    """State of one window length for all streams; `push` returns the window after each reading."""

    def __init__(self, window_ns: int, panes: int, channels: int) -> None:
        self.pane_ns = max(1, window_ns // panes)
        self.panes = panes
        self._channels = channels
        self._pane: Int64 = np.full((0, panes), _NO_PANE, np.int64)
        self._cells: Float64 = _empty_cells((0, panes, channels))
        # Derived, hence not in the snapshot: the merged panes before a stream's current one, which change with it only.
        self._closed_of: Int64 = np.full(0, _NO_PANE, np.int64)
        self._closed = np.empty((0, len(Moments._fields), channels))

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
        run_stream, run_pane = stream[runs.starts], pane[runs.starts]
        running = self._running_cells(runs, run_stream, run_pane, event_time - pane * self.pane_ns, values)
        final = running[runs.ends]
        closed = self._closed_panes(run_stream, run_pane, final)
        self._store(run_stream, run_pane, final, closed)
        return Moments(*closed[runs.of_row].swapaxes(0, 1)).merge(_moments(running, 0.0))

    @property
    def bytes_per_stream(self) -> int:
        """What one stream costs in memory."""
        arrays: tuple[NDArray[Any], ...] = (self._pane, self._cells, self._closed_of, self._closed)
        return sum(array.itemsize * math.prod(array.shape[1:]) for array in arrays)

    def snapshot(self) -> dict[str, Any]:
        return {"pane": pack_array(self._pane), "cells": pack_array(self._cells)}

    def forget(self, streams: NDArray[Any]) -> None:
        """Empty these streams' windows."""
        known = streams[streams < len(self._pane)]
        self._pane[known], self._cells[known] = _NO_PANE, _empty_cells((1,))
        self._closed_of[known] = _NO_PANE

    def restore(self, state: dict[str, Any]) -> None:
        self._pane, self._cells = unpack_array(state["pane"]), unpack_array(state["cells"])
        self._closed_of = np.full(len(self._pane), _NO_PANE, np.int64)
        self._closed = np.empty((len(self._pane), *self._closed.shape[1:]))

    def _reserve(self, streams: int) -> None:
        have = len(self._pane)
        if streams > have:
            more = max(streams, 2 * have) - have
            self._pane = np.concatenate([self._pane, np.full((more, self.panes), _NO_PANE, np.int64)])
            self._cells = np.concatenate([self._cells, _empty_cells((more, self.panes, self._channels))])
            self._closed_of = np.append(self._closed_of, np.full(more, _NO_PANE))
            self._closed = np.concatenate([self._closed, np.empty((more, *self._closed.shape[1:]))])

    def _running_cells(
        self, runs: Runs, run_stream: NDArray[np.int32], run_pane: Int64, offset_ns: Int64, values: Float64
    ) -> Float64:
        """The current pane's cell after each reading, shape (n, c, fields)."""
        slot = run_pane % self.panes
        goes_on = self._pane[run_stream, slot] == run_pane
        start = np.where(goes_on[:, None, None], self._cells[run_stream, slot], _empty_cells((1, self._channels)))
        valid = ~np.isnan(values)
        reference = start[..., _REFERENCE]
        fresh = start[..., _COUNT] == 0
        if fresh.any():
            reference = np.where(fresh, first_valid(runs, values, valid), reference)
        x = np.where(valid, values - reference[runs.of_row], 0.0)
        t = np.where(valid, (offset_ns / 1e9)[:, None], 0.0)
        cells = np.empty((*values.shape, _FIELDS))
        added = np.stack([valid.astype(np.float64), x, x * x, t, t * t, t * x], axis=-1)
        cells[..., :_ADDED] = runs.accumulate(np.add, added, start[..., :_ADDED])
        cells[..., _REFERENCE] = reference[runs.of_row]
        cells[..., _MIN] = runs.accumulate(np.minimum, np.where(valid, values, np.inf), start[..., _MIN])
        cells[..., _MAX] = runs.accumulate(np.maximum, np.where(valid, values, -np.inf), start[..., _MAX])
        return cells

    def _closed_panes(self, run_stream: NDArray[np.int32], run_pane: Int64, final: Float64) -> Float64:
        """For each run, the moments of the panes before its own; shape (runs, fields, c)."""
        closed = self._closed[run_stream]
        changed = np.flatnonzero(self._closed_of[run_stream] != run_pane)
        if len(changed):
            merged = self._merge_before(changed, run_stream, run_pane, final)
            closed[changed] = np.stack(merged, axis=1)
        return closed

    def _merge_before(self, wanted: Int64, run_stream: NDArray[np.int32], run_pane: Int64, final: Float64) -> Moments:
        """Panes before the runs `wanted`, merged oldest first; times are relative to the run's own pane."""
        m, before = len(wanted), self.panes - 1
        stream, pane = run_stream[wanted], run_pane[wanted]
        run = np.full((m, before), -1)  # which run of this batch holds the pane, -1 if none does
        for back in range(1, min(self.panes, len(run_stream))):
            earlier = np.maximum(wanted - back, 0)
            distance = pane - run_pane[earlier]
            rows = np.flatnonzero((wanted >= back) & (run_stream[earlier] == stream) & (distance < self.panes))
            if len(rows) == 0:
                break
            run[rows, before - distance[rows]] = earlier[rows]
        merged = _moments(_empty_cells((m, self._channels)), 0.0)
        for place in range(before):  # one pane at a time: all of them at once would be the node's largest array
            back = before - place
            slot = (pane - back) % self.panes
            here, stored = run[:, place] >= 0, self._pane[stream, slot] == pane - back
            if not (here | stored).any():
                continue
            cells = _empty_cells((m, self._channels))
            cells[stored] = self._cells[stream[stored], slot[stored]]  # of an earlier batch
            cells[here] = final[run[here, place]]  # of this batch, which is newer
            merged = merged.merge(_moments(cells, -back * self.pane_ns / 1e9))
        return merged

    def _store(self, run_stream: NDArray[np.int32], run_pane: Int64, final: Float64, closed: Float64) -> None:
        last = np.flatnonzero(np.append(run_stream[1:] != run_stream[:-1], True))
        newest = np.repeat(run_pane[last], np.diff(last, prepend=-1))
        kept = np.flatnonzero(run_pane > newest - self.panes)
        slot = run_pane[kept] % self.panes
        self._pane[run_stream[kept], slot] = run_pane[kept]
        self._cells[run_stream[kept], slot] = final[kept]
        self._closed_of[run_stream[last]], self._closed[run_stream[last]] = run_pane[last], closed[last]


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
        return np.where(m.n > 0, found, np.nan)


def _empty_cells(shape: tuple[int, ...]) -> Float64:
    cells = np.zeros((*shape, _FIELDS))
    cells[..., _MIN] = np.inf
    cells[..., _MAX] = -np.inf
    return cells


def first_valid(runs: Runs, values: Float64, valid: NDArray[np.bool_]) -> Float64:
    """The first value of each run and channel, 0 where there is none; shape (runs, c)."""
    n = len(values)
    row = np.where(valid, np.arange(n)[:, None], n)
    first = np.minimum.reduceat(row, runs.starts, axis=0)
    inside = first <= runs.ends[:, None]
    picked = np.take_along_axis(values, np.minimum(first, n - 1), axis=0)
    return np.where(inside, picked, 0.0)


def _moments(cells: Float64, origin_s: float) -> Moments:
    """Moments of cells, whose pane begins at `origin_s`."""
    count, s1, t1 = cells[..., _COUNT], cells[..., _SUM], cells[..., _T1]
    some = np.maximum(count, 1.0)
    x_mean, t_mean = s1 / some, t1 / some
    filled = count > 0
    return Moments(
        count,
        np.where(filled, cells[..., _REFERENCE] + x_mean, 0.0),
        np.maximum(cells[..., _SQUARE] - s1 * x_mean, 0.0),
        cells[..., _MIN],
        cells[..., _MAX],
        np.where(filled, t_mean + origin_s, 0.0),
        np.maximum(cells[..., _T2] - t1 * t_mean, 0.0),
        cells[..., _TX] - t1 * x_mean,
    )
