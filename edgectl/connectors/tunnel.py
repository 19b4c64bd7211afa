"""HTTP/1.1 to an address that only the machine at the other end of an SSH connection can reach.

httpcore speaks the protocol; its connections are `direct-tcpip` channels in place of sockets.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore

from edgectl.connectors.ssh_link import Link, LinkError

KEPT_S = 4.0
"""An unused channel is closed after so long: the agent closes it after 5 s, and a call sent just then has no answer."""
OPEN_S = 60.0


class Tunnel:
    """Keep-alive HTTP through one link, for any number of threads."""

    def __init__(self, link: Link) -> None:
        self._pool = httpcore.ConnectionPool(network_backend=_Backend(link), keepalive_expiry=KEPT_S)

    def request(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes, timeout_s: float
    ) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            httpcore.ConnectError: nothing listens there; nothing was sent.
            httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError: no answer, or half of one.
            LinkError: the SSH connection is gone.
        """
        limits = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
        try:
            answer = self._pool.request(method, url, headers=headers, content=body, extensions={"timeout": limits})
        except httpcore.ConnectError as e:
            if isinstance(e.__cause__, LinkError):
                raise e.__cause__ from e
            raise
        return answer.status, answer.content

    def close(self) -> None:
        self._pool.close()


class _Backend(httpcore.NetworkBackend):
    def __init__(self, link: Link) -> None:
        self._link = link

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        del local_address, socket_options
        try:
            return _Stream(self._link.open(host, port, timeout or OPEN_S))
        except (ConnectionError, LinkError) as e:
            raise httpcore.ConnectError(str(e)) from e

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._channel.settimeout(timeout)
        try:
            return bytes(self._channel.recv(max_bytes))
        except TimeoutError as e:
            raise httpcore.ReadTimeout(str(e)) from e
        except OSError as e:
            raise httpcore.ReadError(str(e)) from e

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._channel.settimeout(timeout)
        try:
            self._channel.sendall(buffer)
        except TimeoutError as e:
            raise httpcore.WriteTimeout(str(e)) from e
        except OSError as e:
            raise httpcore.WriteError(str(e)) from e

    def close(self) -> None:
        self._channel.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # of an idle connection: the server has closed it
            return self._channel.closed or self._channel.eof_received or self._channel.recv_ready()
        return None
