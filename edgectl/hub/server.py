"""Listens: TLS off loopback, one socket, and an end in order at Ctrl-C or SIGTERM."""

from __future__ import annotations

import ipaddress
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import uvicorn
from edgectl_agent.listener import Quiet
from starlette.types import ASGIApp

from edgectl.core.errors import ConfigError, StorageError, UsageError

_GRACE_S = 5
_MOST_CONNECTIONS = 2000


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where to listen and with which certificate. `behind_proxy`: something in front speaks TLS."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    behind_proxy: bool = False

    @property
    def url(self) -> str:
        """For people; with port 0 it is not yet known."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificate else 'http'}://{shown}:{self.port}"


def names(url: str, host: str) -> tuple[str, ...]:
    """What a certificate of ours must be good for: the host in the nodes' `url`, and where we listen."""
    known = (urlsplit(url).hostname or "", host)
    return tuple(dict.fromkeys(name for name in known if name and name not in ("0.0.0.0", "::")))


def wants_tls(url: str, host: str) -> bool:
    """Whether, without a certificate from elsewhere, one of the fleet's own authority is needed."""
    return url.startswith("https:") or not is_loopback(host)


def parse(listen: str) -> tuple[str, int]:
    """``HOST:PORT``. Raises `UsageError`."""
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError(f"--listen: expected HOST:PORT such as 127.0.0.1:8443, found {listen!r}")
    return host.strip("[]"), int(port)


def check(listen: Listen) -> None:
    """Raises `UsageError` if tokens would cross a network in the clear, and `ConfigError` for a wrong certificate."""
    if listen.certificate is None and not listen.behind_proxy and not is_loopback(listen.host):
        raise UsageError(
            f"--listen {listen.host}: expected TLS off loopback",
            hint="give --tls-cert and --tls-key, or --behind-proxy where another server speaks TLS in front of this",
        )
    if listen.certificate is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(listen.certificate, listen.key)
        except (OSError, ssl.SSLError) as e:
            why = "no PEM certificate and key that fit" if isinstance(e, ssl.SSLError) else e.strerror
            raise ConfigError(f"certificate {listen.certificate} with key {listen.key}: {why}") from e


def bind(listen: Listen) -> socket.socket:
    """Take the port. Raises `StorageError` if it is taken."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named: else each answer waits 40 ms for an ACK
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((listen.host, listen.port))
        taken.listen(512)
    except OSError as e:
        taken.close()
        raise StorageError(f"cannot listen on {listen.host}:{listen.port}: {e.strerror or e}", reason="port") from e
    return taken


def run(app: ASGIApp, listen: Listen, taken: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM; calls under way are given a few seconds to end."""
    serving(app, listen).run(sockets=[taken])


def serving(app: ASGIApp, listen: Listen) -> uvicorn.Server:
    """What `run` runs, for whoever ends it otherwise: by its ``should_exit``."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Quiet,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=listen.behind_proxy,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=listen.certificate,
        ssl_keyfile=listen.key,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """uvicorn, but a signal that ends it in order is not raised once more afterwards."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
