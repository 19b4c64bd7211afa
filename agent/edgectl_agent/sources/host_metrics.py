"""Measures this machine: any node is a real source without a sensor.

Rates are differences of the kernel's counters over monotonic time, so a stepped clock does not bend them. What happened
while the agent was down cannot be asked for again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from edgectl_agent.config import HOST_CHANNELS, HostMetricsConfig
from edgectl_agent.core.units import duration_ns
from edgectl_agent.sources.interface import Chunk, Position, Source, SourceError

_LOOK_S = 0.05


class HostMetricsSource(Source):
    """One stream, one reading of `HOST_CHANNELS` every ``every``."""

    replayable = False
    live = True

    def __init__(
        self,
        config: HostMetricsConfig,
        node: str,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s = duration_ns(config.every) / 1e9
        self._stream = config.stream or node
        self._clock, self._monotonic = clock, monotonic

    def open(self, position: Position | None) -> None:
        self._measured_s = self._monotonic()
        self._next_s = self._measured_s + self._every_s
        self._counters = self._read()[1]

    def poll(self, limit: int, timeout_s: float) -> Chunk:
        deadline = self._monotonic() + timeout_s
        while (now_s := self._monotonic()) < min(self._next_s, deadline):
            time.sleep(min(self._next_s, deadline) - now_s if self._next_s - now_s < _LOOK_S else _LOOK_S)
        now_ns = self._clock()
        if now_s < self._next_s or limit < 1:
            empty = np.empty((0, len(HOST_CHANNELS)))
            return Chunk((), np.empty(0, np.int64), empty, {}, now_ns)
        values = self._measure(now_s)
        while self._next_s <= now_s:  # after a stop of the machine one reading is due, not one for each period missed
            self._next_s += self._every_s
        return Chunk((self._stream,), np.array([now_ns], np.int64), values[np.newaxis], {}, now_ns)

    def _measure(self, now_s: float) -> Any:
        levels, counters = self._read()
        elapsed = max(now_s - self._measured_s, 1e-6)
        rates = np.maximum(counters - self._counters, 0.0) / elapsed  # a counter that wrapped or was reset is no rate
        self._measured_s, self._counters = now_s, counters
        return np.array([levels[0], levels[1], *rates, levels[2]])

    def _read(self) -> tuple[tuple[float, float, float], Any]:
        """Levels (CPU %, memory %, load), and counters (disk read, disk write, received, sent) in bytes."""
        try:
            disk, net = psutil.disk_io_counters(), psutil.net_io_counters()
            levels = (psutil.cpu_percent(None), psutil.virtual_memory().percent, os.getloadavg()[0])
        except (OSError, psutil.Error, RuntimeError) as e:
            raise SourceError(f"this machine's metrics cannot be read: {e}") from e
        moved = (disk.read_bytes, disk.write_bytes) if disk else (0, 0)
        carried = (net.bytes_recv, net.bytes_sent) if net else (0, 0)
        return levels, np.array([*moved, *carried], np.float64)
