"""Consecutive runs of rows, such as a stream's readings in a batch, and how a ufunc accumulates in each of them.

Equal to the last bit for any batch boundaries: always strictly in order, going on from what was stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Float64, Int64

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

    def fold(self, ufunc: np.ufunc, rows: Float64, first: Float64) -> Float64:
        """What `scan` finds at the end of each run, shape (…, runs)."""
        longest = int(self.lengths.max(initial=0))
        if longest > _SHORT:
            return self.scan(ufunc, rows, first).take(self.ends, axis=-1)
        found: Float64 = ufunc(np.ascontiguousarray(first), rows.take(self.starts, axis=-1))
        for rank in range(1, longest):
            runs = np.flatnonzero(self.lengths > rank)
            found[..., runs] = ufunc(found.take(runs, axis=-1), rows.take(self.starts[runs] + rank, axis=-1))
        return found

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


class InOrder:
    """In which order the rows of runs lie for a scan: as they come."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self.order: Int64 | None = None
        """Which row lies at each place; None where all do as they come."""
        self.back: Int64 | None = None
        """The place of each row."""
        self.order_of_runs: Int64 | None = None
        """Which run each column of `first` is, in `spread` and `scan`."""
        self.ends = runs.ends
        """The place of each run's last row."""

    def spread(self, first: Float64, out: Float64) -> None:
        """What is `first` of a run, shape (…, runs), at each of its rows."""
        out[:] = first.take(self._runs.of_row, axis=-1)

    def scan(self, ufunc: np.ufunc, rows: Float64, first: Float64) -> None:
        """As `Runs.scan`, in place."""
        rows[:] = self._runs.scan(ufunc, rows, first)


class ByRank(InOrder):
    """By rank: the first rows of all runs, the longest runs first, then the second rows of those that have one, ….

    A rank's rows then go on from the leading ones of the rank before, so that a scan needs slices and no index.
    """

    def __init__(self, runs: Runs) -> None:
        super().__init__(runs)
        longest = int(runs.lengths.max(initial=0))
        shorter = longest - runs.lengths
        order = np.argsort(shorter.astype(np.min_scalar_type(longest)), kind="stable")  # of few bits: by counting
        sizes = [int((runs.lengths > rank).sum()) for rank in range(longest)]
        offsets = np.cumsum([0, *sizes])
        starts = runs.starts[order]
        self._blocks = [slice(int(at), int(at) + size) for at, size in zip(offsets[:-1], sizes, strict=True)]
        self.order_of_runs = order
        self.order = np.concatenate([starts[:size] + rank for rank, size in enumerate(sizes)])
        self.back = np.empty_like(self.order)
        self.back[self.order] = np.arange(len(self.order))
        self.ends = self.back[runs.ends]

    def spread(self, first: Float64, out: Float64) -> None:
        for block in self._blocks:
            out[..., block] = first[..., : block.stop - block.start]

    def scan(self, ufunc: np.ufunc, rows: Float64, first: Float64) -> None:
        for block in self._blocks:
            here = rows[..., block]
            ufunc(first[..., : block.stop - block.start], here, out=here)
            first = here


def for_scans(runs: Runs) -> InOrder:
    """The order that suits `runs`."""
    longest = int(runs.lengths.max(initial=0))
    return ByRank(runs) if 1 < longest <= _SHORT else InOrder(runs)
