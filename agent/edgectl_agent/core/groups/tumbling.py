"""Tumbling windows: the one that is running, and the one before it.

A window of length ``L`` covers ``[k L, (k + 1) L)`` since Monday 1970-01-05 00:00 UTC, so that windows of hours, a day
or a week begin where the calendar's do, in UTC. The closed window is the one just before the reading's own; if no
reading lay in it (a gap), its count and sum are 0 and everything else is missing.
"""

from __future__ import annotations

import numpy as np

from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import FeatureSpec, TumblingFeatures
from edgectl_agent.core.groups.interface import MONDAY_NS, NEVER, Group, Rows, StreamArrays, channel_columns
from edgectl_agent.core.runs import Runs
from edgectl_agent.core.windows import Moments, Windows, statistic

_EMPTY = np.array([0.0, 0.0, 0.0, np.inf, -np.inf, 0.0, 0.0, 0.0])
"""`Moments` of no value."""


class Tumbling(Group):
    """The running window is a `Windows` of one pane; the closed one is what that said last."""

    def __init__(self, group: TumblingFeatures, spec: FeatureSpec) -> None:
        self._group = group
        self._columns = channel_columns(spec, group.channels)
        self.width = len(group.channels) * len(group.stats) * len(group.parts)
        channels = len(group.channels)
        empty = np.repeat(_EMPTY[:, None], channels, axis=1)
        self._running = Windows(group.window_ns, 1, channels)
        self.state = StreamArrays(
            window=((), np.int64, NEVER),
            last=((len(_EMPTY), channels), np.float64, empty),
            closed=((len(_EMPTY), channels), np.float64, empty),
        )
        self.parts = {"running": self._running}

    def push(self, rows: Rows) -> Float64:
        self.state.reserve(rows.stream)
        time = rows.event_time - MONDAY_NS
        running = self._running.push(rows.stream, time, rows.values[:, self._columns])
        window = time // self._group.window_ns
        runs = Runs.of(rows.stream, window)
        closed = self._closed(runs, rows, window, running)
        parts = {"running": running, "closed": Moments(*closed[runs.of_row].swapaxes(0, 1))}
        found = [statistic(parts[part], stat) for stat in self._group.stats for part in self._group.parts]
        return np.stack(found, axis=2).reshape(len(rows), self.width)

    def _closed(self, runs: Runs, rows: Rows, window: Int64, running: Moments) -> Float64:
        """For each run, the moments of the window before its own, shape (runs, fields, c)."""
        state = self.state
        stream, number = rows.stream[runs.starts], window[runs.starts]
        first = np.append(True, stream[1:] != stream[:-1])
        final = np.stack([field[runs.ends] for field in running], axis=1)
        before = np.roll(final, 1, axis=0)
        before[first] = state["last"][stream[first]]
        number_before = np.roll(number, 1)
        number_before[first] = state["window"][stream[first]]
        empty = np.broadcast_to(_EMPTY[:, None], before.shape)
        closed = np.where((number_before == number - 1)[:, None, None], before, empty)
        goes_on = first & (number_before == number)
        closed[goes_on] = state["closed"][stream[goes_on]]
        last = np.append(first[1:], True)
        kept = stream[last]
        state["window"][kept], state["last"][kept], state["closed"][kept] = number[last], final[last], closed[last]
        return closed
