"""Tells the service manager how the agent is, by the datagrams that systemd's ``Type=notify`` expects.

Without ``NOTIFY_SOCKET`` everything here does nothing. With ``WATCHDOG_USEC`` the worker's own turns keep the watchdog
quiet: a worker that hangs falls silent, and the service manager restarts the agent.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

_STATUS_S = 10.0
"""Between two signs of life where nobody watches: often enough for a status line."""
_PER_DEADLINE = 3
"""Signs of life in one watchdog period: one may come late."""


class Notifier:
    """One process's line to its service manager."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        usec = environ.get("WATCHDOG_USEC", "") if watched else ""
        self.period_s = int(usec) / 1e6 / _PER_DEADLINE if usec.isascii() and usec.isdigit() and int(usec) else None
        """Between two signs of life; None without a watchdog."""
        self._due_s = -math.inf

    def say(self, *lines: str) -> None:
        """Send ``READY=1``, ``STOPPING=1``, ``STATUS=…``. A manager that does not listen is its own problem."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.setblocking(False)  # a full queue must not stop the worker
            out.sendto("\n".join(lines).encode(), self._address)

    def alive(self, status: Callable[[], str], now_s: float) -> None:
        """A sign of life with a status line, if one is due; called by the worker each turn."""
        if self._address and now_s >= self._due_s:
            self._due_s = now_s + min(self.period_s or _STATUS_S, _STATUS_S)
            self.say("WATCHDOG=1", f"STATUS={status()}")


def here() -> Notifier:
    """That of this process."""
    return Notifier(os.environ, os.getpid())
