"""A web server that takes files as WebDAV servers do, with the manners of strict ones: no folder is made by itself.

with WebDav(folder, token="secret") as server:
    WebPlace(server.url, "secret")
"""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType


class WebDav:
    """Serves and takes what is below `folder`; `log` has every request."""

    def __init__(self, folder: Path, token: str = "") -> None:
        self.folder, self.token = folder, token
        self.log: list[str] = []
        self.torn: set[str] = set()
        """Names whose content the server keeps only half of."""
        folder.mkdir(parents=True, exist_ok=True)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/models"

    def __enter__(self) -> WebDav:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def puts(self) -> list[str]:
        return [line.removeprefix("PUT ") for line in self.log if line.startswith("PUT ")]


def _handler(dav: WebDav) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _at(self) -> Path:
            return dav.folder / self.path.removeprefix("/models/")

        def _begin(self) -> bytes | None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            dav.log.append(f"{self.command} {self.path.removeprefix('/models/')}")
            if dav.token and self.headers["Authorization"] != f"Bearer {dav.token}":
                self._answer(401)
                return None
            return body

        def _answer(self, status: int, body: bytes = b"", tag: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if tag:
                self.send_header("ETag", f'"{tag}"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            if self._begin() is None:
                return None
            if not self._at().is_file():
                return self._answer(404)
            raw = self._at().read_bytes()
            return self._answer(200, raw, _tag(raw))

        do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

        def do_PUT(self) -> None:
            body = self._begin()
            if body is None:
                return None
            file = self._at()
            wanted = self.headers["If-Match"]
            if wanted and (not file.is_file() or wanted != f'"{_tag(file.read_bytes())}"'):
                return self._answer(412)
            if not file.parent.is_dir():
                return self._answer(409)
            name = self.path.removeprefix("/models/")
            file.write_bytes(body[: len(body) // 2] if name in dav.torn else body)
            return self._answer(201)

        def do_MKCOL(self) -> None:
            if self._begin() is None:
                return None
            if self._at().is_dir():
                return self._answer(405)
            if not self._at().parent.is_dir():
                return self._answer(409)
            self._at().mkdir()
            return self._answer(201)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            pass

    return Handler


def _tag(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]
