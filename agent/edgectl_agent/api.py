"""The control API: what the operator's side asks of this node. It decides nothing itself.

On the plain listener every call but ``live``, ``ready`` and ``metrics`` carries the token that only those can read who
may enter the data folder (``api.json``). The listener with mutual TLS has asked for an operator's certificate before a
call comes here, and needs no token. Answers are the messages of `core.messages`; refusals ``{"error": sentence,
"reason": word}``.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgectl_agent.core.errors import EdgeError, StorageError, UsageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import UpdateResult
from edgectl_agent.core.recordings import RecordingOrder
from edgectl_agent.deposit import MAX_FILE_BYTES, Deposit
from edgectl_agent.listener import body_parts, discard
from edgectl_agent.runtime import Runtime

T = TypeVar("T")
_MAX_BODY = 64 * 1024
_MAX_WAIT_S = 60.0
_MAX_PAGE = 1000
_STATUS = {
    "usage": 400, "beyond-head": 409, "another-log": 409, "unauthorized": 401, "slow": 408, "oversized": 413,
    "digest": 422, "no-such-recording": 404, "recorded": 409,
}  # fmt: skip
_UNREAD = (408, 413)

Handler = Callable[[Request], Awaitable[Response]]


class Bell:
    """Wakes the long polls of the listeners' event loops from another thread."""

    def __init__(self) -> None:
        self._rung: dict[asyncio.AbstractEventLoop, asyncio.Event] = {}

    def next_ring(self) -> asyncio.Event:
        """An event that is set by the next `ring`. Take it before looking, so that no ring is missed."""
        return self._rung.setdefault(asyncio.get_running_loop(), asyncio.Event())

    def ring(self) -> None:
        for loop in tuple(self._rung):
            with suppress(RuntimeError):  # its listener ends
                loop.call_soon_threadsafe(self._wake, loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        rung = self._rung.pop(loop, None)
        if rung is not None:
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

    def app(self, token: bool = True) -> Starlette:
        """The application; without `token` for a listener that has proved who calls."""
        return Starlette(routes=self._routes(token), exception_handlers={HTTPException: no_such_call})

    def _routes(self, token: bool) -> list[Route]:
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
            ("PUT", "/v1/spool/{name:path}", self._spool, True),
            ("POST", "/v1/recordings", self._record, True),
            ("GET", "/v1/recordings/{id}", self._recorded, True),
            ("POST", "/v1/recordings/{id}/release", self._release_recorded, True),
            ("DELETE", "/v1/recordings/{id}", self._end_recording, True),
        ]
        return [
            Route(path, self._guarded(handler, private and token), methods=[method])
            for method, path, handler, private in table
        ]

    def _guarded(self, handler: Handler, private: bool) -> Handler:
        async def guarded(request: Request) -> Response:
            sent = request.headers.get("authorization", "").encode("latin-1")
            if private and not hmac.compare_digest(sent, b"Bearer " + self._token):
                await discard(request, _MAX_BODY)
                sentence = "the token is missing, wrong or of an earlier start of the agent → read it from api.json"
                return error(401, sentence, "unauthorized")
            try:
                return await handler(request)
            except StorageError as e:
                return error(503, str(e), e.reason)
            except EdgeError as e:
                return error(_STATUS.get(e.reason, 409), str(e), e.reason)

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
        after, limit = _asked(request, "after", 0), min(_asked(request, "limit", 100), _MAX_PAGE)
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

    async def _record(self, request: Request) -> Response:
        order = await _body(request, RecordingOrder)
        return _json(await asyncio.to_thread(self._runtime.record, order))

    async def _recorded(self, request: Request) -> Response:
        after = _asked(request, "after", 0)
        page = await asyncio.to_thread(self._runtime.recorder.page, request.path_params["id"], after)
        return Response(msgspec.msgpack.encode(page), media_type="application/vnd.msgpack")

    async def _release_recorded(self, request: Request) -> Response:
        asked = await _body(request, _Release)
        await asyncio.to_thread(self._runtime.recorder.release, request.path_params["id"], asked.through)
        return _json({"released": asked.through})

    async def _end_recording(self, request: Request) -> Response:
        await asyncio.to_thread(self._runtime.end_recording, request.path_params["id"])
        return _json({"ended": request.path_params["id"]})

    async def _spool(self, request: Request) -> Response:
        sha256 = _digest(request.headers.get("repr-digest", ""))
        if _number(request.headers.get("content-length", "0"), "Content-Length") > MAX_FILE_BYTES:
            raise UsageError(f"the body has more than {MAX_FILE_BYTES} bytes", reason="oversized")
        deposit = await asyncio.to_thread(Deposit, self._runtime.spool, request.path_params["name"])
        try:
            async for part in body_parts(request, MAX_FILE_BYTES):
                await asyncio.to_thread(deposit.write, part)
        except StorageError:
            await discard(request, MAX_FILE_BYTES)
            raise
        else:
            await asyncio.to_thread(deposit.finish, sha256)
        finally:
            await asyncio.to_thread(deposit.close)
        return Response(status_code=204)


async def no_such_call(request: Request, found: Exception) -> Response:
    """The answer to a path or method that is not there."""
    assert isinstance(found, HTTPException)
    return error(found.status_code, f"{request.method} {request.url.path}: {found.detail}", "no-such-call")


async def _body(request: Request, into: type[T]) -> T:
    raw = b"".join([part async for part in body_parts(request, _MAX_BODY)])
    try:
        return msgspec.json.decode(raw, type=into)
    except UNREADABLE as e:
        raise UsageError(f"the body is not as expected: {e}") from e


def _asked(request: Request, name: str, default: int) -> int:
    return _number(request.query_params.get(name, str(default)), name)


def _number(text: str, name: str) -> int:
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


def error(status: int, sentence: str, reason: str) -> Response:
    """A refusal. A body that was not read to its end is not waited for."""
    answer = _json({"error": sentence, "reason": reason}, status)
    if status in _UNREAD:
        answer.headers["connection"] = "close"
    return answer


def _digest(header: str) -> bytes:
    """The SHA-256 of a ``Repr-Digest`` header (RFC 9530). Raises `UsageError` where there is none."""
    found = re.search(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/=]{44}):", header)
    with suppress(ValueError):
        if found:
            return base64.b64decode(found[1], validate=True)
    raise UsageError("expected a header Repr-Digest: sha-256=:…: with the file's digest, found none")


def _changed(result: UpdateResult) -> Response:
    return _json(result, 409 if result.state == "refused" else 200)
