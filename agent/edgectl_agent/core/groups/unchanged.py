"""For how long a channel's value has stood still, as a stuck sensor's does: in whole spans, at most `MOST`.

The time from the reading that brought the value to this one, divided by ``span`` and rounded down: 0 for what changes
more often than that, so that a value which happens to come twice says nothing. Values are compared exactly. A missing
value is no change; missing until there was a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgectl_agent.core.batch import Float64
from edgectl_agent.core.bundle import FeatureSpec, UnchangedFeatures
from edgectl_agent.core.groups.interface import NEVER, Group, Rows, StreamArrays, channel_columns, elapsed
from edgectl_agent.core.runs import Runs

MOST = 100
"""Standing still for longer is no stranger: such a machine is off."""
_LONGEST_NS = np.iinfo(np.int64).max


class Unchanged(Group):
    """The last valid value of each channel, and since when it is that."""

    takes_one = True

    def __init__(self, group: UnchangedFeatures, spec: FeatureSpec) -> None:
        self._span_ns = group.span_ns
        self._columns = channel_columns(spec, group.channels)
        self.width = len(group.channels)
        each = (self.width,)
        self.state = StreamArrays(value=(each, np.float64, np.nan), since=(each, np.int64, NEVER))

    def push(self, rows: Rows) -> Float64:
        self.state.reserve(rows.stream)
        runs = Runs.of(rows.stream)
        x = np.empty((len(rows), self.width))
        for place, column in enumerate(self._columns):
            x[:, place] = self._still(rows, runs, place, column)
        return x

    def push_one(self, stream: int, time_ns: int, values: Sequence[float]) -> list[float]:
        self.state.reserve_to(stream)
        value, since = self.state["value"][stream], self.state["since"][stream]
        x = [math.nan] * self.width
        for place, column in enumerate(self._columns):
            now = values[column]
            if now == now and now != value.item(place):
                value[place], since[place] = now, time_ns
            begun: int = since.item(place)
            if begun != NEVER:
                x[place] = float(min(min(time_ns - begun, _LONGEST_NS) // self._span_ns, MOST))
        return x

    def _still(self, rows: Rows, runs: Runs, place: int, column: int) -> Float64:
        value, since = self.state["value"][:, place], self.state["since"][:, place]
        given = np.flatnonzero(~np.isnan(rows.values[:, column]))
        now, mine = rows.values[given, column], Runs.of(rows.stream[given])
        before = np.roll(now, 1)
        before[mine.starts] = value[rows.stream[given[mine.starts]]]
        changed = given[now != before]
        begun = np.full(len(rows), NEVER)
        begun[changed] = rows.event_time[changed]
        stream = rows.stream[runs.starts]
        begun = runs.accumulate(np.maximum, begun, since[stream])
        value[rows.stream[given[mine.starts]]], since[stream] = now[mine.ends], begun[runs.ends]
        spans = np.minimum(elapsed(begun, rows.event_time) // self._span_ns, MOST)
        return np.where(begun == NEVER, np.nan, spans)
