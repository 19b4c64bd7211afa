"""The standard features one reading at a time, in plain Python: what the peers compute. Imports nothing but math.

Written as one would who knows the load and wants it fast: running sums about a reference per pane, the sums of the
closed panes kept until the pane changes, and no object per reading. `rows` and the file's layout are shared with the
peers' scripts, which run in environments of their own.
"""

from __future__ import annotations

import math

PANE_MS, PANES, DAY_MS = 30_000, 10, 86_400_000


class Features:
    """All streams."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}

    def push(self, stream: str, ms: int, values: tuple[float, ...]) -> list[float]:
        """The reading's features: value and difference, seven statistics of each channel, time of day."""
        found = self._streams.get(stream)
        if found is None:
            found = self._streams[stream] = Stream(len(values))
        return found.push(ms, values)


class Stream:
    """One stream."""

    def __init__(self, channels: int) -> None:
        self.last = [math.nan] * channels
        self._channels = [Channel() for _ in range(channels)]

    def push(self, ms: int, values: tuple[float, ...]) -> list[float]:
        instant: list[float] = []
        for value, before in zip(values, self.last, strict=True):
            instant.append(value)
            instant.append(value - before)
        self.last[:] = values
        pane = ms // PANE_MS
        for channel, value in zip(self._channels, values, strict=True):
            instant += channel.push(pane, ms, value)
        angle = 2 * math.pi * (ms % DAY_MS // 60_000) / 1440
        instant.append(math.sin(angle))
        instant.append(math.cos(angle))
        return instant


class Channel:
    """One channel's window."""

    __slots__ = ("_cell", "_closed", "_origin", "_pane", "_panes", "_reference")

    def __init__(self) -> None:
        self._pane = -1
        self._panes: list[tuple[int, list[float]]] = []
        self._reference = self._origin = 0.0
        self._closed = self._cell = _nothing()

    def push(self, pane: int, ms: int, value: float) -> tuple[float, ...]:
        if pane != self._pane:
            self._turn(pane, ms, value)
        x, t = value - self._reference, ms / 1000 - self._origin
        cell, closed = self._cell, self._closed
        cell[0] += 1
        cell[1] += x
        cell[2] += x * x
        cell[3] += t
        cell[4] += t * t
        cell[5] += t * x
        if value < cell[6]:
            cell[6] = value
        if value > cell[7]:
            cell[7] = value
        n, s, t1 = cell[0] + closed[0], cell[1] + closed[1], cell[3] + closed[3]
        mean, tt = s / n, cell[4] + closed[4] - t1 * t1 / n
        return (
            self._reference + mean,
            math.sqrt(max((cell[2] + closed[2]) / n - mean * mean, 0.0)),
            min(cell[6], closed[6]),
            max(cell[7], closed[7]),
            n,
            s + n * self._reference,
            (cell[5] + closed[5] - t1 * mean) / tt if tt > 1e-9 else 0.0,
        )

    def _turn(self, pane: int, ms: int, value: float) -> None:
        """Begin a pane; add up those that stay in the window."""
        if self._pane < 0:
            self._reference, self._origin = value, ms / 1000
        else:
            self._panes.append((self._pane, self._cell))
        self._panes = [held for held in self._panes if held[0] > pane - PANES]
        self._pane, self._cell, closed = pane, _nothing(), _nothing()
        for _, cell in self._panes:
            for i in range(6):
                closed[i] += cell[i]
            closed[6], closed[7] = min(closed[6], cell[6]), max(closed[7], cell[7])
        self._closed = closed


def _nothing() -> list[float]:
    return [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, math.inf, -math.inf]
