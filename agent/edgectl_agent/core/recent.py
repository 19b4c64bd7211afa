"""The latest values of many series, for people who ask what an alert saw."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.runs import Runs

RECENT = 32
"""How many are kept of each."""


class Recent:
    """State of all series, by number from 0: a ring of values each."""

    def __init__(self) -> None:
        self._count: Int64 = np.empty(0, np.int64)
        self._ring: Float64 = np.empty((0, RECENT))

    @property
    def bytes_per_series(self) -> int:
        """What one series costs in memory."""
        return self._count.itemsize + self._ring.itemsize * RECENT

    def values(self, series: int) -> list[float]:
        """The latest ones, the newest last."""
        if series >= len(self._count):
            return []
        count: int = self._count.item(series)
        ring: list[float] = self._ring[series].tolist()
        return ring[:count] if count <= RECENT else [*ring[count % RECENT :], *ring[: count % RECENT]]

    def push(self, runs: Runs, series: Int64, value: Float64) -> None:
        """Add values, shape (n,), of the runs of equal `series`."""
        if len(series) == 0:
            return
        self._reserve(int(series.max()) + 1)
        late = np.flatnonzero(runs.ends[runs.of_row] - np.arange(len(series)) < RECENT)
        place = (self._count[series[late]] + runs.rank[late]) % RECENT
        self._ring[series[late], place] = value[late]
        self._count[series[runs.starts]] += runs.lengths

    def forget(self, series: Int64) -> None:
        """These numbers mean other series from now on."""
        self._count[series[series < len(self._count)]] = 0

    def snapshot(self) -> dict[str, Any]:
        """All state, as plain values."""
        return {"count": pack_array(self._count), "ring": pack_array(self._ring)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `snapshot` was taken."""
        self._count, self._ring = unpack_array(state["count"]), unpack_array(state["ring"])

    def _reserve(self, series: int) -> None:
        have = len(self._count)
        if series > have:
            more = max(series - have, have // 4)
            self._count = np.append(self._count, np.zeros(more, np.int64))
            self._ring = np.concatenate([self._ring, np.zeros((more, RECENT))])
