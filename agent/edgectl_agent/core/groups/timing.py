"""When readings come: the time since the one before, and how many come per second.

``since_last`` is in seconds, missing for a stream's first reading. ``rate`` is the decayed count of readings times
ln 2 / half_life (see `decayed`), the reading itself included; after a pause it is low at once. Every accepted reading
counts, whichever of its channels are missing.
"""

from __future__ import annotations

import math

import numpy as np

from edgectl_agent.core.batch import Float64
from edgectl_agent.core.bundle import FeatureSpec, TimingFeatures
from edgectl_agent.core.groups.decay import DecayedMoments
from edgectl_agent.core.groups.interface import NEVER, Group, Rows, StreamArrays, elapsed
from edgectl_agent.core.runs import Runs


class Timing(Group):
    """The newest reading's time, and a decayed count."""

    def __init__(self, group: TimingFeatures, spec: FeatureSpec) -> None:
        self._group = group
        self.width = len(group.kinds)
        self._count = DecayedMoments(group.half_life_ns, 1)
        self.state = StreamArrays(newest=((), np.int64, NEVER))
        self.parts = {"count": self._count.state}

    def push(self, rows: Rows) -> Float64:
        kinds = {"since_last": self._since_last, "rate": self._rate}
        return np.stack([kinds[kind](rows) for kind in self._group.kinds], axis=1)

    def _since_last(self, rows: Rows) -> Float64:
        self.state.reserve(rows.stream)
        runs = Runs.of(rows.stream)
        stream = rows.stream[runs.starts]
        before = np.roll(rows.event_time, 1)
        before[runs.starts] = self.state["newest"][stream]
        self.state["newest"][stream] = rows.event_time[runs.ends]
        return np.where(before == NEVER, np.nan, elapsed(before, rows.event_time) / 1e9)

    def _rate(self, rows: Rows) -> Float64:
        after, _ = self._count.push(rows.stream, rows.event_time, np.ones((len(rows), 1)))
        found: Float64 = after.weight[:, 0] * (math.log(2) * 1e9 / self._group.half_life_ns)
        return found
