"""Wakes one waiting thread from any other, and from a signal handler.

A `threading.Event` cannot: its lock is not reentrant, so a handler that sets it while the interrupted thread is inside
of the same event waits for itself for ever (a second SIGTERM close behind the first did).
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress


class Wake:
    """`set` from anywhere; `wait` from one thread. It has two descriptors until `close`."""

    _listened: tuple[int, ...]

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)
        self._ears, self._listened = self._poll, ()

    def set(self) -> None:
        """Let the present wait, or else the next one, end at once."""
        with suppress(OSError):  # full: it is woken already; closed: nobody waits
            self._writer.send(b"\0")

    def wait(self, timeout_s: float) -> bool:
        """Until it is set, or for `timeout_s` seconds; it is not set any more then. Returns whether it was."""
        woken = bool(self._poll.poll(timeout_s * 1000))
        if woken:
            self.clear()
        return woken

    def listen(self, timeout_s: float, descriptors: tuple[int, ...]) -> bool:
        """As `wait`, or until one of these is readable. Returns whether one is; it stays so."""
        if descriptors != self._listened:
            self._listened, self._ears = descriptors, select.poll()
            for descriptor in (self._reader.fileno(), *descriptors):
                self._ears.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in self._ears.poll(timeout_s * 1000)}
        if self._reader.fileno() in ready:
            self.clear()
        return not ready.isdisjoint(descriptors)

    def clear(self) -> None:
        """Forget what was set."""
        with suppress(OSError):  # nothing was
            self._reader.recv(4096)

    def fileno(self) -> int:
        """Readable while it is set."""
        return self._reader.fileno()

    def close(self) -> None:
        """Give the descriptors back; nobody waits any more."""
        self._reader.close()
        self._writer.close()
