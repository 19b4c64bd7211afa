"""How often a category had some value in a sliding window.

With ``values``, one column for each of them, exact. Without, one column: how often the reading's own value came, itself
included, by a count-min sketch (Cormode & Muthukrishnan, "An Improved Data Stream Summary: The Count-Min Sketch and its
Applications", 2005, section 3) of `DEPTH` rows of `WIDTH` counters: never too low, and too high by more than 4.3 % of
all values in the window for one value in 55. A reading without the category counts nothing, and its own count is 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Float64, Int32, Int64
from edgectl_agent.core.bundle import CountFeatures, FeatureSpec
from edgectl_agent.core.categories import code
from edgectl_agent.core.groups.hashes import mixed
from edgectl_agent.core.groups.interface import Group, Rows, category_columns
from edgectl_agent.core.groups.panes import Panes, counted

DEPTH, WIDTH = 4, 64


class Counts(Group):
    """Counters per category and pane."""

    def __init__(self, group: CountFeatures, spec: FeatureSpec) -> None:
        self._columns = category_columns(spec, group.categories)
        self._values = np.array([code(value) for value in group.values], np.int32)
        self.width = len(group.categories) * max(len(group.values), 1)
        cells = len(group.values) or DEPTH * WIDTH
        self._panes = Panes(group.window_ns, group.panes, (len(group.categories), cells), np.uint32, np.add)
        self.state = self._panes.state

    def push(self, rows: Rows) -> Float64:
        opened = self._panes.open(rows.stream, rows.event_time)
        index, valid = self._cells(rows.codes[:, self._columns])
        running = np.stack(
            [counted(opened.runs, opened.start[:, k], index[:, k], valid[:, k]) for k in range(index.shape[1])], axis=1
        )
        closed = self._panes.close(opened, running[opened.runs.ends])
        total = running + closed[opened.runs.of_row]
        if len(self._values):
            each: Float64 = total.reshape(len(rows), self.width).astype(np.float64)
            return each
        own = np.take_along_axis(total, index, axis=2).min(axis=2)
        return np.where(valid, own, 0).astype(np.float64)

    def _cells(self, codes: Int32) -> tuple[Int64, NDArray[np.bool_]]:
        """Which counters each reading's value has, shape (n, k, d), and whether it counts at all, shape (n, k)."""
        if len(self._values):
            same = codes[..., None] == self._values
            return same.argmax(axis=2)[..., None], same.any(axis=2)
        hashes = np.stack([mixed(codes, salt=row) for row in range(DEPTH)], axis=2)
        index = (hashes >> np.uint64(58)).astype(np.int64) + np.arange(DEPTH) * WIDTH
        return index, codes >= 0
