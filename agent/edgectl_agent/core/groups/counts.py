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
from edgectl_agent.core.groups.panes import Opened, Panes
from edgectl_agent.core.runs import Runs

DEPTH, WIDTH = 4, 64
"""The width is that of six bits of a hash."""


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
        codes = rows.codes[:, self._columns]
        if len(self._values):
            same = codes[..., None] == self._values
            found = self._panes.push(rows.stream, rows.event_time, same.astype(np.uint32))
        else:
            found = self._own(self._panes.open(rows.stream, rows.event_time), codes)
        return found.reshape(len(rows), self.width).astype(np.float64)

    def _own(self, opened: Opened, codes: Int32) -> NDArray[np.uint32]:
        """Counts of the readings' own values, shape (n, k)."""
        hashes = np.stack([mixed(codes, salt=row) for row in range(DEPTH)], axis=2)
        index = (hashes >> np.uint64(58)).astype(np.int64) + np.arange(DEPTH) * WIDTH
        valid, run = codes >= 0, opened.runs.of_row
        final = opened.start.copy()
        running = np.zeros(index.shape, np.uint32)
        for k in range(codes.shape[1]):
            rows = np.flatnonzero(valid[:, k])
            place = run[rows, None]
            running[rows, k] = opened.start[place, k, index[rows, k]] + _nth(place * DEPTH * WIDTH + index[rows, k])
            np.add.at(final[:, k], (place, index[rows, k]), 1)
        closed = np.take_along_axis(self._panes.close(opened, final)[run], index, axis=2)
        return np.where(valid, (running + closed).min(axis=2), np.uint32(0))


def _nth(keys: Int64) -> NDArray[np.uint32]:
    """How often each key came up to its own place, from 1 on; shape as `keys`, whose rows are in order."""
    flat = keys.ravel()
    order = np.argsort(flat, kind="stable")
    nth = np.empty(len(flat), np.uint32)
    nth[order] = Runs.of(flat[order]).rank + 1
    return nth.reshape(keys.shape)
