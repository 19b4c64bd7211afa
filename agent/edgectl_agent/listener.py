"""A port of the agent: an ASGI application served from a thread of its own, with TLS where it is asked for.

It is strict with time, because a port costs memory for every connection: a request's head must be complete within
`HEAD_S`, and beyond `CONNECTIONS` connections further requests get 503. How long a body may take is the handler's
matter (`body_parts`).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import h11
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgectl_agent.config import split_address
from edgectl_agent.core.errors import StorageError, UsageError

CONNECTIONS = 128
HEAD_S = 10.0
"""From a connection, or from the first byte of a further request, to the end of the request's head."""
PART_S = 20.0
"""How long a sender may pause within a body."""
_STOP_S = 2.0
_TICK_S = 1.0


class Listener:
    """Serves `app` on `listen`; `key` is the setting that messages name. `protocol` may answer some requests itself."""

    def __init__(
        self,
        app: ASGIApp,
        listen: str,
        key: str,
        tls: ssl.SSLContext | None = None,
        protocol: type[Patient] | None = None,
    ) -> None:
        self._listen, self._key, self._tls = listen, key, tls
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=protocol or Patient,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # nobody on loopback may say that he came by TLS
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=1,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
        self._server = _Server(config)
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name=key, daemon=True)

    def bind(self) -> str:
        """Take the port. Returns the base URL. Raises `StorageError` if it is taken."""
        host, port = split_address(self._listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio turns Nagle's algorithm off only where the protocol is named: else each answer waits 40 ms for an ACK
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen(CONNECTIONS)
        except (OSError, OverflowError) as e:
            self._socket.close()
            raise StorageError(
                f"{self._key}.listen: {self._listen} cannot be used: {getattr(e, 'strerror', None) or e}", reason="port"
            ) from e
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{shown}:{self._socket.getsockname()[1]}"

    def start(self) -> None:
        """Serve. Returns when calls are answered."""
        self._thread.start()
        while self._thread.is_alive() and not self._server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        """End open calls within about two seconds."""
        self._server.end()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        if self._socket is not None:
            self._socket.close()

    def _serve(self) -> None:
        assert self._socket is not None
        self._server.run(sockets=[self._socket])


class _Server(uvicorn.Server):
    """Looks once a second what is to be done beside requests: uvicorn itself does so ten times, all its life."""

    _loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._ending = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._ending.wait()

    def end(self) -> None:
        """From any thread."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._ending.set)


class Quiet(H11Protocol):
    """Ends a connection on which noise follows a request that was answered; uvicorn's answer to that is a traceback."""

    def handle_events(self) -> None:
        try:
            super().handle_events()
        except h11.LocalProtocolError:
            self.transport.close()


class Patient(Quiet):
    """Patient for `HEAD_S`: uvicorn itself waits for ever for the head of a request."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._disarm()
        elif self._timer is None:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def body_parts(request: Request, limit: int) -> AsyncIterator[bytes]:
    """A request's body as it comes.

    Raises:
        UsageError: it has more than `limit` bytes (``oversized``), or its sender paused for `PART_S` or went away
            (``slow``).
    """
    size = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(PART_S):  # not wait_for, which makes a task of every part
                part = await anext(stream)
        except StopAsyncIteration:
            return
        except (TimeoutError, ClientDisconnect) as e:
            raise UsageError(f"the body stopped after {size} bytes", reason="slow") from e
        size += len(part)
        if size > limit:
            raise UsageError(f"the body has more than {limit} bytes", reason="oversized")
        yield part


async def discard(request: Request, limit: int) -> None:
    """Read what is left of a body that nobody wants: a sender that is cut off while it sends may miss the answer."""
    with suppress(UsageError):
        async for _ in body_parts(request, limit):
            pass
