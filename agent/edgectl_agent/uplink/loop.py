"""Runs one errand in a thread of its own: again and again, sooner when asked, later after failures."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from edgectl_agent.core.errors import EdgeError
from edgectl_agent.logs import note, warn
from edgectl_agent.uplink.interface import Errand, LinkStatus, UplinkError
from edgectl_agent.uplink.pace import Pace

_STOP_S = 1.0
SETTLE_S = 0.5
"""Between a nudge and the attempt, so that what happens together goes together."""


class Loop:
    """`start` to `stop`; `nudge` from any thread."""

    def __init__(
        self,
        errand: Errand,
        pace: Pace,
        rng: random.Random,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._errand, self._pace, self._rng = errand, pace, rng
        self._clock, self._monotonic = clock, monotonic
        self._changed = threading.Condition()
        self._due_s = 0.0
        self._floor_s = 0.0
        """Not before this, whoever asks: the other side is failing, or was just asked."""
        self._stopping = False
        self._status = LinkStatus(name=errand.name)
        errand.news = self._forget
        self._thread = threading.Thread(target=self._run, name=errand.name, daemon=True)

    def start(self) -> None:
        self._due_s = self._monotonic() + self._pace.first(self._rng.random())
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end; one that waits for the network ends with the process."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def nudge(self, soon: bool = True) -> None:
        """Try as soon as things have settled, or (not `soon`) this very moment, even while the other side is failing:
        a person asks."""
        with self._changed:
            now_s = self._monotonic()
            if soon:
                wanted = max(now_s + SETTLE_S * (0.5 + self._rng.random()), self._floor_s)
                self._due_s = min(self._due_s, wanted)
            else:
                self._due_s = self._floor_s = now_s
            self._changed.notify_all()

    def status(self) -> LinkStatus:
        """How it fares, as of now."""
        return self._status

    def _forget(self) -> None:
        self._status = replace(self._status, problem="", act=False)

    def _run(self) -> None:
        while self._wait():
            self._once()
        self._errand.close()

    def _wait(self) -> bool:
        """Until it is due; False when it is to end."""
        with self._changed:
            while not self._stopping and (left := self._due_s - self._monotonic()) > 0:
                self._changed.wait(left)
            self._due_s = math.inf  # a nudge during the attempt is not lost
            return not self._stopping

    def _once(self) -> None:
        status = replace(self._status, attempts=self._status.attempts + 1)
        try:
            again = self._errand.attempt()
        except EdgeError as e:
            self._fail(status, e)
        except Exception as e:  # a bug of ours must not end the thread in silence
            self._fail(status, UplinkError(f"internal error: {type(e).__name__}: {e}", act=True))
        else:
            if status.failing:
                note("uplink-works-again", link=status.name, failures=status.failing)
            self._status = replace(
                status, failing=0, failing_since_ns=0, last_success_ns=self._clock(), problem="", act=False
            )
            self._next(0.0 if again else self._pace.success(self._rng.random()), floor_s=0.0)

    def _fail(self, status: LinkStatus, error: EdgeError) -> None:
        act = getattr(error, "act", True)
        if str(error) != status.problem:
            warn("uplink-failed", link=status.name, message=str(error))
        self._status = status = replace(
            status,
            failures=status.failures + 1,
            failing=status.failing + 1,
            failing_since_ns=status.failing_since_ns or self._clock(),
            problem=str(error),
            act=act,
        )
        asked = getattr(error, "retry_after_s", 0.0)
        wait_s = self._pace.failure(status.failing, self._rng.random(), asked)
        self._next(wait_s, floor_s=wait_s)

    def _next(self, wait_s: float, floor_s: float) -> None:
        with self._changed:
            now_s = self._monotonic()
            self._floor_s = now_s + floor_s
            self._due_s = max(min(self._due_s, now_s + wait_s), self._floor_s)
