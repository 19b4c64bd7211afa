"""The control API, on loopback: what the operator's side asks of this node. It decides nothing itself.

Every call but ``live``, ``ready`` and ``metrics`` carries the token that only this machine's owner of the data folder
can read (``api.json``). Answers are the messages of `core.messages`; refusals ``{"error": sentence, "reason": word}``.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgectl_agent.core.errors import EdgeError, StorageError, UsageError
from edgectl_agent.core.messages import UpdateResult
from edgectl_agent.runtime import Runtime

T = TypeVar("T")
_MAX_BODY = 64 * 1024
_MAX_WAIT_S = 60.0
_MAX_PAGE = 1000
_STOP_S = 2.0
_STATUS = {"usage": 400, "beyond-head": 409, "another-log": 409, "unauthorized": 401, "oversized": 413}

Handler = Callable[[Request], Awaitable[Response]]


class Bell:
    """Wakes the long polls of an event loop from another thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = asyncio.Event()

    def next_ring(self) -> asyncio.Event:
        """An event that is set by the next `ring`. Take it before looking, so that no ring is missed."""
        self._loop = asyncio.get_running_loop()
        return self._rung

    def ring(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()


class _Rollback(msgspec.Struct, frozen=True):
    """Body of ``POST /v1/rollback``."""

    recipe: str
    epoch: int = 0


class _Release(msgspec.Struct, frozen=True):
    """Body of ``POST /v1/alerts/release``."""

    through: int
    log_id: str = ""


class Api:
    """Handlers over a `Runtime`."""

    def __init__(self, runtime: Runtime, node: str, token: str) -> None:
        self._runtime, self._node, self._token = runtime, node, token.encode()
        self.bell = Bell()
        runtime.on_commit = self.bell.ring

    def routes(self) -> list[Route]:
        """Every path, its method and whether it asks for the token."""
        table: list[tuple[str, str, Handler, bool]] = [
            ("GET", "/v1/live", self._live, False),
            ("GET", "/v1/ready", self._ready, False),
            ("GET", "/metrics", self._metrics, False),
            ("GET", "/v1/status", self._status, True),
            ("GET", "/v1/alerts", self._alerts, True),
            ("POST", "/v1/alerts/release", self._release, True),
            ("POST", "/v1/update", self._update, True),
            ("POST", "/v1/rollback", self._rollback, True),
            ("GET", "/v1/have", self._have, True),
        ]
        return [
            Route(path, self._guarded(handler, private), methods=[method]) for method, path, handler, private in table
        ]

    def _guarded(self, handler: Handler, private: bool) -> Handler:
        async def guarded(request: Request) -> Response:
            sent = request.headers.get("authorization", "").encode("latin-1")
            if private and not hmac.compare_digest(sent, b"Bearer " + self._token):
                return _error(401, "the token is missing or wrong → read it from api.json", "unauthorized")
            try:
                return await handler(request)
            except StorageError as e:
                return _error(503, str(e), e.reason)
            except EdgeError as e:
                return _error(_STATUS.get(e.reason, 409), str(e), e.reason)

        return guarded

    # ── handlers ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        report = await asyncio.to_thread(self._runtime.report)
        detecting = bool(report.models) and report.state in ("healthy", "warming")
        return _json({"ready": detecting, "state": report.state, "reasons": report.reasons}, 200 if detecting else 503)

    async def _metrics(self, request: Request) -> Response:
        text = await asyncio.to_thread(self._runtime.metrics.render)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _status(self, request: Request) -> Response:
        return _json(await asyncio.to_thread(self._runtime.report))

    async def _alerts(self, request: Request) -> Response:
        after, limit = _number(request, "after", 0), min(_number(request, "limit", 100), _MAX_PAGE)
        deadline = asyncio.get_running_loop().time() + _seconds(request, "wait")
        while True:
            rung = self.bell.next_ring()
            records = await asyncio.to_thread(self._page, after, limit)
            left = deadline - asyncio.get_running_loop().time()
            if records or left <= 0:
                break
            try:
                await asyncio.wait_for(rung.wait(), left)
            except TimeoutError:
                continue
        next_after = records[-1]["seq"] if records else after
        outbox = self._runtime.outbox
        page = {"node": self._node, "records": records, "next_after": next_after}
        return _json({**page, "lost": outbox.lost, "log_id": outbox.log_id})

    def _page(self, after: int, limit: int) -> list[dict[str, Any]]:
        head = self._runtime.outbox.status().head_seq
        if after > head:
            raise UsageError(
                f"{self._node} has acknowledged {head} records, not {after}: its outbox is another than before",
                reason="beyond-head",
            )
        found = self._runtime.outbox.read(after, limit)
        return [{"boot": r.boot, "seq": r.seq, "alert": msgspec.Raw(r.payload)} for r in found]

    async def _release(self, request: Request) -> Response:
        asked = await _body(request, _Release)
        await asyncio.to_thread(self._runtime.outbox.release, asked.through, asked.log_id)
        return _json({"released": asked.through})

    async def _update(self, request: Request) -> Response:
        return _changed(await asyncio.to_thread(self._runtime.changes.update))

    async def _rollback(self, request: Request) -> Response:
        asked = await _body(request, _Rollback)
        return _changed(await asyncio.to_thread(self._runtime.changes.rollback, asked.recipe, asked.epoch))

    async def _have(self, request: Request) -> Response:
        return _json(await asyncio.to_thread(self._runtime.have))


class Server:
    """Serves an `Api` from a thread of its own."""

    def __init__(self, api: Api, listen: str) -> None:
        self._listen = listen
        config = uvicorn.Config(
            Starlette(routes=api.routes(), exception_handlers={HTTPException: _no_such_call}),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="api", daemon=True)

    def bind(self) -> str:
        """Take the port. Returns the base URL. Raises `StorageError` if it is taken."""
        host, _, port = self._listen.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, int(port)))
            self._socket.listen(64)
        except (OSError, OverflowError) as e:
            self._socket.close()
            raise StorageError(f"api.listen: {self._listen} cannot be used: {e}", reason="port") from e
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._socket.getsockname()[1]}"

    def start(self) -> None:
        """Serve. Returns when calls are answered."""
        self._thread.start()
        while self._thread.is_alive() and not self._server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        """End open calls within about two seconds."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        if self._socket is not None:
            self._socket.close()

    def _serve(self) -> None:
        assert self._socket is not None
        self._server.run(sockets=[self._socket])


async def _no_such_call(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}", "no-such-call")


async def _body(request: Request, into: type[T]) -> T:
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > _MAX_BODY:
            raise UsageError(f"the body has more than {_MAX_BODY} bytes", reason="oversized")
    try:
        return msgspec.json.decode(raw, type=into)
    except msgspec.MsgspecError as e:
        raise UsageError(f"the body is not as expected: {e}") from e


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UsageError(f"{name}: expected a whole number, found {text[:40]!r}")
    return int(text)


def _seconds(request: Request, name: str) -> float:
    text = request.query_params.get(name, "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise UsageError(f"{name}: expected seconds, found {text[:40]!r}")
    return min(seconds, _MAX_WAIT_S)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _error(status: int, sentence: str, reason: str) -> Response:
    return _json({"error": sentence, "reason": reason}, status)


def _changed(result: UpdateResult) -> Response:
    return _json(result, 409 if result.state == "refused" else 200)
