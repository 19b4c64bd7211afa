"""Whether a category's value is new in its stream, and which share of a sliding window was.

A stream remembers values in two Bloom filters (Bloom, "Space/Time Trade-offs in Hash Coding with Allowable Errors",
1970), one for the present span of ``memory`` and one for the span before: a value that comes enters the present one,
and it is *new* if neither has it. So a value is new again after a silence of one to two memories (ageing by a pair of
buffers, Yoon, "Aging Bloom Filter with Two Active Buffers for Dynamic Sets", 2010). A filter has 10 bits and 4 hashes
per value of ``capacity``: with that many values in a span, a new one passes as known with a probability of at most
1.2 % per filter, with twice as many at most 9 %; a known one is never called new.

The column is 1 or 0, missing where the category is. With ``share`` it is the share of new values in the window's
values instead (0 where there was none): the new-template rate of a log. In a fresh stream everything is new at first,
and that is what the warm-up is for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Float64, Int32, Int64
from edgectl_agent.core.bundle import FeatureSpec, NewFeatures
from edgectl_agent.core.groups.hashes import mixed
from edgectl_agent.core.groups.interface import NEVER, Group, Rows, StreamArrays, category_columns
from edgectl_agent.core.groups.panes import Panes
from edgectl_agent.core.runs import Runs

HASHES = 4
BITS_PER_VALUE = 10


class Novelty(Group):
    """Two filters per category, and counts per pane if a share is asked for."""

    def __init__(self, group: NewFeatures, spec: FeatureSpec) -> None:
        self._columns = category_columns(spec, group.categories)
        self.width = len(group.categories)
        self._memory_ns = group.memory_ns
        self._bytes = (group.capacity * BITS_PER_VALUE + 7) // 8
        shape = (self.width, self._bytes)
        self.state = StreamArrays(span=((), np.int64, NEVER), present=(shape, np.uint8, 0), former=(shape, np.uint8, 0))
        self._share = Panes(group.share_ns, group.panes, (self.width, 2), np.uint32, np.add) if group.share_ns else None
        if self._share is not None:
            self.parts = {"share": self._share.state}

    def push(self, rows: Rows) -> Float64:
        self.state.reserve(rows.stream)
        codes = rows.codes[:, self._columns]
        new = self._new(rows.stream, rows.event_time // self._memory_ns, codes)
        if self._share is None:
            return np.where(codes >= 0, new.astype(np.float64), np.nan)
        given = np.stack([codes >= 0, new & (codes >= 0)], axis=2).astype(np.uint32)
        total = self._share.push(rows.stream, rows.event_time, given)
        share: Float64 = total[..., 1] / np.maximum(total[..., 0], 1)
        return share

    def _new(self, stream: Int32, span: Int64, codes: Int32) -> NDArray[np.bool_]:
        """Which values no filter has; enters all of them. Shape (n, k)."""
        runs = Runs.of(stream, span)
        of, mine = stream[runs.starts], span[runs.starts]
        start, former = self._filters(of, mine)
        bits = self._bits(codes)
        final = start.copy()
        for k in range(self.width):
            rows = np.flatnonzero(codes[:, k] >= 0)
            place = runs.of_row[rows, None]
            np.bitwise_or.at(final[:, k], (place, bits[rows, k] >> 3), _mask(bits[rows, k]))
        again = (of[1:] == of[:-1]) & (mine[1:] == mine[:-1] + 1)
        later = np.append(False, of[1:] == of[:-1])
        former[later] = 0
        former[np.flatnonzero(again) + 1] = final[:-1][again]
        last = np.append(~later[1:], True)
        state = self.state
        state["span"][of[last]], state["present"][of[last]], state["former"][of[last]] = (
            mine[last], final[last], former[last],
        )  # fmt: skip
        known = np.stack([self._known(runs, codes[:, k], bits[:, k], start[:, k], former[:, k])
                          for k in range(self.width)], axis=1)  # fmt: skip
        return ~known

    def _filters(self, of: Int32, mine: Int64) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """What each run's two filters hold before it, if it is the stream's first; shapes (runs, k, bytes)."""
        span, present = self.state["span"][of], self.state["present"][of]
        start, former = present.copy(), self.state["former"][of]
        start[span != mine] = 0
        former[span != mine] = 0
        moved = span == mine - 1
        former[moved] = present[moved]
        later = np.append(False, of[1:] == of[:-1])
        start[later] = 0
        return start, former

    def _known(
        self, runs: Runs, codes: Int32, bits: Int64, start: NDArray[np.uint8], former: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Whether a filter has each reading's value before it, shape (n,)."""
        run = runs.of_row[:, None]
        byte, mask = bits >> 3, _mask(bits)
        given = np.flatnonzero(codes >= 0)
        key = (run * (8 * self._bytes) + bits)[given]
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        set_before = np.zeros(bits.shape, bool)
        set_before[given] = (first // HASHES)[inverse].reshape(key.shape) < np.arange(len(given))[:, None]
        present = (start[run, byte] & mask != 0) | set_before
        known: NDArray[np.bool_] = present.all(axis=1) | (former[run, byte] & mask != 0).all(axis=1)
        return known

    def _bits(self, codes: Int32) -> Int64:
        """The filter's bits of each value, shape (n, k, HASHES)."""
        hashes = np.stack([mixed(codes, salt=16 + i) for i in range(HASHES)], axis=2)
        return (hashes % np.uint64(8 * self._bytes)).astype(np.int64)


def _mask(bits: Int64) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = np.left_shift(1, bits & 7).astype(np.uint8)
    return found
