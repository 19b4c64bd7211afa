"""A static web server on a folder, real in every byte, whose misbehaviour is data.

    with StaticServer(folder) as server:
        server.faults["timestamp.json"] = truncated(10)
        ... server.url, server.requests

A fault is chosen by the end of the path and stays until it is removed; without one the file is served with ETag, ranges
and conditional requests, as ordinary servers do.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Seen:
    """One request, and what it was answered."""

    path: str
    status: int
    headers: dict[str, str]


class StaticServer:
    """Serves `folder` below its `url` until the block ends."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.faults: dict[str, Fault] = {}
        self.requests: list[Seen] = []
        self.stop = threading.Event()
        outer = self

        class Handler(_Handler):
            server_of = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> StaticServer:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def asked(self, ending: str) -> list[int]:
        """Statuses of the answers to requests whose path ends so."""
        return [seen.status for seen in self.requests if seen.path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: StaticServer

    def do_GET(self) -> None:
        fault = next((f for end, f in self.server_of.faults.items() if self.path.endswith(end)), None)
        path = self.server_of.folder / self.path.lstrip("/")
        with suppress(ConnectionError):
            if fault is not None:
                fault(self, path)
            elif not path.is_file():
                self.answer(404, b"<html>not here</html>")
            else:
                self.serve(path.read_bytes())

    def do_POST(self) -> None:
        self.do_GET()  # whoever takes a body is a fault

    def serve(self, raw: bytes) -> None:
        etag = f'"{hashlib.sha256(raw).hexdigest()[:16]}"'
        if self.headers["If-None-Match"] == etag:
            return self.answer(304, b"")
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if asked and self.headers["If-Range"] == etag and int(asked[1]) < len(raw):
            begin = int(asked[1])
            said = {"Content-Range": f"bytes {begin}-{len(raw) - 1}/{len(raw)}", "ETag": etag}
            return self.answer(206, raw[begin:], **said)
        return self.answer(200, raw, ETag=etag)

    def answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.begin(status, **{"Content-Length": str(len(body) if length is None else length), **headers})
        self.wfile.write(body)

    def begin(self, status: int, **headers: str) -> None:
        self.server_of.requests.append(Seen(self.path, status, dict(self.headers.items())))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        pass


Fault = Callable[[_Handler, Path], None]


def truncated(after: int) -> Fault:
    """Promises the whole file and breaks off."""

    def fault(handler: _Handler, path: Path) -> None:
        raw = path.read_bytes()
        etag = f'"{hashlib.sha256(raw).hexdigest()[:16]}"'
        handler.answer(200, raw[:after], length=len(raw), ETag=etag)
        handler.close_connection = True

    return fault


def body(raw: bytes, status: int = 200, **headers: str) -> Fault:
    """Answers something else."""
    return lambda handler, path: handler.answer(status, raw, **headers)


def endless(handler: _Handler, path: Path) -> None:
    """Never ends, without a length."""
    handler.begin(200, Connection="close")
    handler.close_connection = True
    while not handler.server_of.stop.is_set():
        handler.wfile.write(b"x" * 65536)


def dripping(handler: _Handler, path: Path) -> None:
    """A byte now and then, for ever."""
    handler.begin(200, Content_Length="1000000")
    while not handler.server_of.stop.wait(0.02):
        handler.wfile.write(b"x")


def silent(handler: _Handler, path: Path) -> None:
    """Takes the request and says nothing."""
    handler.server_of.stop.wait()
    handler.close_connection = True
