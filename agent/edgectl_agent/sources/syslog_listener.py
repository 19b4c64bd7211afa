"""The sockets of a syslog source, and the thread that reads them into an `Intake`.

TCP senders are held up while the queue is full; what comes by UDP is dropped then, and counted.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from edgectl_agent.core.errors import SourceError
from edgectl_agent.core.syslog import Framer
from edgectl_agent.logs import warn
from edgectl_agent.sources.intake import Intake
from edgectl_agent.wake import Wake

_BLOCK_BYTES = 64 * 1024
_DATAGRAMS = 256
"""Read in a row before other sockets get their turn."""
_STEP_NS = 1000
"""Between two times of reception: far enough apart to differ as a float, so that no message is another's duplicate."""
_KERNEL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message, when it came (ns since 1970) and from which address."""

    data: bytes
    at_ns: int
    peer: str

    def __len__(self) -> int:
        return len(self.data)


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    peer: str
    framer: Framer
    held: list[Arrival] = field(default_factory=list)
    """Read, and waiting for room in the queue."""
    ended: bool = False


class Listener:
    """Listens from `start` to `stop`.

    Args:
        address: host and port; port 0 takes a free one.
        transports: ``tcp``, ``udp`` or both, on the same port.
        allow: the networks whose senders are heard; empty: all.
        connections: at most so many at a time.
        limit: of one message, in bytes.
    """

    def __init__(
        self,
        address: tuple[str, int],
        transports: tuple[str, ...],
        allow: tuple[IPv4Network | IPv6Network, ...],
        connections: int,
        limit: int,
        intake: Intake[Arrival],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._host, self._wanted = address
        self._transports, self._allow, self._most, self._limit = transports, allow, connections, limit
        self._intake, self._clock = intake, clock
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, _Connection] = {}
        """By the number of their descriptor."""
        self._sockets: list[socket.socket] = []
        self._last_ns = 0
        self._told = False
        self._stopping = threading.Event()
        self._wake = Wake()
        self._thread = threading.Thread(target=self._run, name="syslog", daemon=True)
        self.port = 0

    def start(self) -> None:
        """Listen. Raises `SourceError`."""
        self.port = self._wanted
        try:
            for transport in sorted(self._transports):  # TCP first: if it takes a free port, UDP takes the same
                self._listen(transport)
        except OSError as e:
            self._close()
            where = f"{self._host}:{self._wanted}"
            raise SourceError(f"{where} cannot be listened on by {transport}: {e.strerror or e}") from e
        self._selector.register(self._wake.fileno(), selectors.EVENT_READ, self._wake.clear)
        self._thread.start()

    def stop(self) -> None:
        """Close everything; what is in the queue stays there."""
        self._stopping.set()
        if self._thread.ident is not None:
            self.wake()
            self._thread.join()
        self._close()

    def wake(self) -> None:
        """There is room in the queue again."""
        self._wake.set()

    @property
    def holds(self) -> bool:
        """Whether a sender is held up."""
        return any(connection.held for connection in list(self._connections.values()))

    # ── the thread ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._stopping.is_set():
            for key, _ in self._selector.select():
                key.data()
            for connection in [one for one in self._connections.values() if one.held]:
                self._deliver(connection, [])

    def _listen(self, transport: str) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        one = socket.socket(family, socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM)
        self._sockets.append(one)
        one.setblocking(False)
        if transport == "tcp":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BYTES)
        one.bind((self._host, self.port))
        self.port = one.getsockname()[1]
        if transport == "tcp":
            one.listen()
        self._selector.register(
            one,
            selectors.EVENT_READ,
            (lambda: self._accept(one)) if transport == "tcp" else lambda: self._datagrams(one),
        )

    def _accept(self, listening: socket.socket) -> None:
        try:
            found, address = listening.accept()
        except OSError:  # it is gone again, or this process has no descriptor left
            return
        peer = _peer(address)
        if not self._heard(peer) or len(self._connections) >= self._most:
            found.close()
            full = self._heard(peer)
            self._intake.offer((), {"too-many-connections" if full else "not-allowed": 1})
            if not self._told:
                warn("syslog-refused", peer=peer, connections=len(self._connections))
                self._told = True
            return
        found.setblocking(False)
        connection = _Connection(found, peer, Framer(self._limit))
        self._connections[found.fileno()] = connection
        self._selector.register(found, selectors.EVENT_READ, lambda: self._stream(connection))

    def _stream(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_BLOCK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        messages = connection.framer.feed(data) if data else list(filter(None, [connection.framer.last()]))
        connection.ended = not data
        self._deliver(connection, [self._arrival(message, connection.peer) for message in messages])

    def _deliver(self, connection: _Connection, arrived: list[Arrival]) -> None:
        """Put what came into the queue; do not read on while something does not fit, nor after the end."""
        was_held = bool(connection.held)
        waiting = connection.held + arrived
        too_long, connection.framer.too_long = connection.framer.too_long, 0
        taken = self._intake.offer(waiting, {"too-long": too_long} if too_long else None) if waiting or too_long else 0
        connection.held = waiting[taken:]
        if connection.ended and not connection.held:
            self._hang_up(connection, registered=not was_held)
        elif bool(connection.held) != was_held:
            if was_held:
                self._selector.register(connection.socket, selectors.EVENT_READ, lambda: self._stream(connection))
            else:
                self._selector.unregister(connection.socket)

    def _hang_up(self, connection: _Connection, registered: bool) -> None:
        if registered:
            self._selector.unregister(connection.socket)
        del self._connections[connection.socket.fileno()]
        connection.socket.close()

    def _datagrams(self, listening: socket.socket) -> None:
        arrived: list[Arrival] = []
        rejected: Counter[str] = Counter()
        for _ in range(_DATAGRAMS):
            try:
                data, address = listening.recvfrom(_BLOCK_BYTES)
            except OSError:  # nothing is left; or a sender to whom we never wrote is gone
                break
            message, peer = data.rstrip(b"\r\n\0 "), _peer(address)
            why = "too-long" if len(message) > self._limit else "" if self._heard(peer) else "not-allowed"
            if why:
                rejected[why] += 1
            elif message:
                arrived.append(self._arrival(message, peer))
        self._intake.offer_or_drop(arrived, rejected)

    def _arrival(self, message: bytes, peer: str) -> Arrival:
        self._last_ns = max(self._clock(), self._last_ns + _STEP_NS)
        return Arrival(message, self._last_ns, peer)

    def _heard(self, peer: str) -> bool:
        return not self._allow or any(ip_address(peer) in network for network in self._allow)

    def _close(self) -> None:
        for one in [*self._sockets, *(connection.socket for connection in self._connections.values())]:
            one.close()
        self._sockets, self._connections = [], {}
        self._selector.close()
        self._wake.close()


def _peer(address: Any) -> str:
    found = ip_address(str(address[0]).partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)
