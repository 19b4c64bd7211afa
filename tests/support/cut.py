"""A TCP proxy that cuts the connection after a number of bytes from the client, as a bad link does."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType


class Cut:
    """Forwards to `port`; once `after` bytes went there in all, everything is cut until `mend`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._left: int | None = None
        self.sent = 0
        """Bytes that went to the server since the last `after` or `mend`."""
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def after(self, count: int) -> None:
        self._left, self.sent = count, 0

    def mend(self) -> None:
        self._left, self.sent = None, 0

    def __enter__(self) -> Cut:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.close()
        self._cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, server]
                threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if counted and self._left is not None and self.sent + len(data) >= self._left:
                    sink.sendall(data[: max(0, self._left - self.sent)])
                    return self._cut()
                sink.sendall(data)
                self.sent += len(data) if counted else 0
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        return None

    def _cut(self) -> None:
        opened, self._open = self._open, []
        for end in opened:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
