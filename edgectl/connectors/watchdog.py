"""Ends what takes too long: paramiko waits for some answers without any limit of its own."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchdog:
    """One thread that calls back at deadlines that were not met in time; it starts with the first one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._pending: set[int] = set()
        self._numbers = itertools.count()
        self._running = False

    @contextmanager
    def limit(self, seconds: float, end: Callable[[], object]) -> Iterator[None]:
        """Call ``end()`` from the other thread unless the block ends within `seconds`."""
        number = self._add(seconds, end)
        try:
            yield
        finally:
            with self._changed:
                self._pending.discard(number)
                if len(self._due) > 2 * len(self._pending) + 64:  # what was met in time is forgotten
                    self._due = [entry for entry in self._due if entry[1] in self._pending]
                    heapq.heapify(self._due)

    def every(self, seconds: float, look: Callable[[], bool]) -> None:
        """Call ``look()`` from the other thread every `seconds`, until it returns False."""

        def again() -> None:
            if look():
                self._add(seconds, again)

        self._add(seconds, again)

    def _add(self, seconds: float, call: Callable[[], object]) -> int:
        number = next(self._numbers)
        with self._changed:
            heapq.heappush(self._due, (self._clock() + seconds, number, call))
            self._pending.add(number)
            if self._due[0][1] == number:
                self._changed.notify()
            if not self._running:
                self._running = True
                threading.Thread(target=self._watch, name="ssh-watchdog", daemon=True).start()
        return number

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._due or (self._due[0][1] in self._pending and self._due[0][0] > self._clock()):
                    self._changed.wait(self._due[0][0] - self._clock() if self._due else None)
                _, number, end = heapq.heappop(self._due)
                overdue = number in self._pending
                self._pending.discard(number)
            if overdue:
                end()
