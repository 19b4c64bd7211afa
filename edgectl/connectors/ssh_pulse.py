"""Notices that the machine at the other end of an SSH connection is gone, where no TCP connection of ours leads there.

A machine that we reach directly acknowledges what we send, or our own kernel gives it up (``TCP_USER_TIMEOUT``). One
behind a jump host does so to the jump host, which may wait for it for a quarter of an hour. So it is asked, as
OpenSSH's ``ServerAliveInterval`` does it: any answer will do, and none at all for long enough means that it is gone.
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paramiko
from paramiko.common import cMSG_GLOBAL_REQUEST

_ALIVE = (None, errno.EAGAIN, errno.EBADF)
"""Not what a connection dies of: no answer yet, or we have closed it."""


class Heard:
    """A socket, or what looks like one, that counts what arrives and keeps what it died of.

    The kernel says that once, to whoever asks first; everybody else hears that the other side closed it.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.size = 0
        """Bytes."""
        self.died: OSError | None = None

    def recv(self, size: int) -> bytes:
        with self._dying():
            found: bytes = self._socket.recv(size)
        self.size += len(found)
        return found

    def send(self, data: bytes) -> int:
        with self._dying():
            return int(self._socket.send(data))

    @contextmanager
    def _dying(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            if self.died is None and e.errno not in _ALIVE:
                self.died = e
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def ask(transport: Any, interval_s: float) -> None:
    """Have a quiet `transport` ask for an answer every `interval_s`, which paramiko's own keepalives do not want.

    A server answers a request that it does not know by refusing it (RFC 4254, 4).
    """
    this = weakref.proxy(transport)
    transport.packetizer.set_keepalive(interval_s, lambda: this._send_user_message(_question()))


class Pulse:
    """Whether anything arrives. Look every `EVERY` of the interval at which a quiet connection is asked."""

    EVERY = 0.5

    def __init__(self, heard: Heard, alive_s: float, gone_s: float) -> None:
        self._heard = heard
        self._known = heard.size
        self.gone_s = gone_s + alive_s  # it is asked once it has been quiet for one interval
        self._quiet, self._most = 0, round(self.gone_s / (alive_s * self.EVERY))

    def there(self) -> bool:
        """Whether it may still be there. Looks are counted and not seconds: a laptop sleeps."""
        self._quiet = self._quiet + 1 if self._heard.size == self._known else 0
        self._known = self._heard.size
        return self._quiet < self._most


def _question() -> Any:
    message = paramiko.Message()
    message.add_byte(cMSG_GLOBAL_REQUEST)
    message.add_string("keepalive@openssh.com")
    message.add_boolean(True)  # wants an answer
    return message
