"""Sliding windows of panes whose content merges by whole numbers: counts by addition, sketches by maximum.

Merging is exact and in any order, so a window may be put together from the stored panes and those of the batch as it
suits. Which panes a window has is the rule of `windows.Windows`: the newest reading's and the ``panes - 1`` before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Int32, Int64
from edgectl_agent.core.groups.interface import NEVER, StreamArrays
from edgectl_agent.core.runs import Runs


@dataclass(frozen=True, slots=True)
class Opened:
    """Runs of readings in the same pane of a stream, and what the panes held before, shape (runs, *shape)."""

    runs: Runs
    stream: Int32
    pane: Int64
    start: NDArray[Any]


class Panes:
    """The last panes of every stream, each an array of `shape`; `merge` is np.add or np.maximum."""

    def __init__(self, window_ns: int, panes: int, shape: tuple[int, ...], dtype: type, merge: np.ufunc) -> None:
        self._pane_ns = max(1, window_ns // panes)
        self._panes, self._merge = panes, merge
        self.state = StreamArrays(pane=((panes,), np.int64, NEVER), content=((panes, *shape), dtype, 0))

    def push(self, stream: Int32, event_time: Int64, given: NDArray[Any]) -> NDArray[Any]:
        """Add what each reading gives, shape (n, *shape), of readings as `open` wants them.

        Returns:
            The window just after each reading, shape (n, *shape).
        """
        opened = self.open(stream, event_time)
        running = opened.runs.accumulate(self._merge, given, opened.start)
        closed = self.close(opened, running[opened.runs.ends])
        window: NDArray[Any] = self._merge(running, closed[opened.runs.of_row])
        return window

    def open(self, stream: Int32, event_time: Int64) -> Opened:
        """Begin a batch: readings sorted by stream and in event-time order within a stream."""
        self.state.reserve(stream)
        pane = event_time // self._pane_ns
        runs = Runs.of(stream, pane)
        run_stream, run_pane = stream[runs.starts], pane[runs.starts]
        slot = run_pane % self._panes
        start = self.state["content"][run_stream, slot]
        start[self.state["pane"][run_stream, slot] != run_pane] = 0
        return Opened(runs, run_stream, run_pane, start)

    def close(self, opened: Opened, final: NDArray[Any]) -> NDArray[Any]:
        """End the batch: `final` is what each run's pane holds now. Returns the panes before each run's, merged."""
        stream, pane = opened.stream, opened.pane
        first = Runs.of(stream)
        oldest = pane[first.starts][first.of_row]  # what is stored of this or a later pane is in `final`
        closed = np.zeros_like(final)
        for back in range(1, self._panes):
            slot = (pane - back) % self._panes
            stored = (self.state["pane"][stream, slot] == pane - back) & (pane - back < oldest)
            rows = np.flatnonzero(stored)
            if len(rows):
                closed[rows] = self._merge(closed[rows], self.state["content"][stream[rows], slot[rows]])
        for back in range(1, min(self._panes, len(stream))):
            near = np.flatnonzero((stream[back:] == stream[:-back]) & (pane[back:] - pane[:-back] < self._panes))
            if len(near) == 0:
                break
            closed[near + back] = self._merge(closed[near + back], final[near])
        self._store(first, stream, pane, final)
        return closed

    def _store(self, first: Runs, stream: Int32, pane: Int64, final: NDArray[Any]) -> None:
        kept = np.flatnonzero(pane > pane[first.ends][first.of_row] - self._panes)
        slot = pane[kept] % self._panes
        self.state["pane"][stream[kept], slot] = pane[kept]
        self.state["content"][stream[kept], slot] = final[kept]


def counted(runs: Runs, start: NDArray[Any], index: Int64, valid: NDArray[np.bool_]) -> NDArray[Any]:
    """Counts after each reading: of the run's `start`, shape (runs, m), and the readings up to this one.

    As `Runs.accumulate` of ones and zeros, and some times sooner where runs are longer than one reading and m is large.

    Args:
        runs: rows that share a pane.
        start: shape (runs, m).
        index: shape (n,), where each reading counts.
        valid: shape (n,), which readings count.
    """
    n, m = len(index), start.shape[1]
    ones = np.zeros((n + 1, m), start.dtype)
    rows = np.flatnonzero(valid)
    ones[rows + 1, index[rows]] = 1
    total = np.cumsum(ones, axis=0, dtype=start.dtype)
    found: NDArray[Any] = total[1:] - total[runs.starts][runs.of_row] + start[runs.of_row]
    return found
