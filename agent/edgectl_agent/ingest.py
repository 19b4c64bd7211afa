"""``POST /v1/readings``: other programs hand in readings. Its own port, its own tokens; nothing here commands the node.

A request is taken as a whole or not at all. 202 says that its readings are in memory and will be scored, in order. An
orderly end scores them first. SIGKILL or a power cut loses what is not scored yet, and the windows go on from the last
snapshot (``snapshot.every``) without what came since; a stream that began since then warms up again. Alerts that were
acknowledged stay. A sender to whom that matters posts to a file instead (source type ``tail``), which is replayed.
"""

from __future__ import annotations

import hmac
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgectl_agent.api import error, no_such_call
from edgectl_agent.core.errors import ConfigError, EdgeError, UsageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.listener import Patient, body_parts, discard
from edgectl_agent.logs import warn
from edgectl_agent.shortcut import LARGEST, Answer, Head, shortcut
from edgectl_agent.sources.http import HttpSource, NotTaken, QueueFull
from edgectl_agent.sources.payloads import elements

RETRY_AFTER_S = 1
_JSON = ("application/json",)
_LINES = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
_MEDIA_TYPE = "application/json"
_CONTENT_TYPE = (b"content-type", _MEDIA_TYPE.encode())
_STATUS = {"oversized": 413, "slow": 408, "media-type": 415, "no-such-source": 404}


class Tokens:
    """The bearer tokens in a file, one a line; read again when the file is replaced, so that they can be rotated."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` if there is no token."""
        self._path, self._place = path, str(path)
        self._seen, self._tokens = self._read()

    def accept(self, header: str) -> bool:
        """Whether an ``Authorization`` header carries one of them; takes the same time whichever is wrong."""
        try:
            if _stamp(self._place) != self._seen:
                self._seen, self._tokens = self._read()
        except (ConfigError, OSError) as e:
            warn("tokens-not-taken", message=str(e))  # the old ones hold
        sent = header.encode("latin-1")
        found = [hmac.compare_digest(sent, b"Bearer " + token) for token in self._tokens]
        return any(found)

    def _read(self) -> tuple[tuple[int, int], tuple[bytes, ...]]:
        try:
            stamp, text = _stamp(self._path), self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            why = getattr(e, "strerror", None) or e
            raise ConfigError(f"ingest.token_file: {self._path} cannot be read: {why}") from e
        lines = (line.strip() for line in text.splitlines())
        found = tuple(line.encode() for line in lines if line and not line.startswith("#"))
        if not found:
            raise ConfigError(f"ingest.token_file: {self._path}: expected a token per line, found none")
        return stamp, found


def _stamp(path: Path | str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_ino


class Ingest:
    """Handlers over the sources that are fed by HTTP."""

    def __init__(self, intakes: Mapping[str, HttpSource], tokens: Tokens, max_body: int) -> None:
        self._intakes, self._tokens, self._max_body = intakes, tokens, max_body

    def app(self) -> Starlette:
        routes = [
            Route("/v1/readings", self._readings, methods=["POST"]),
            Route("/v1/live", self._live, methods=["GET"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: no_such_call})

    @property
    def protocol(self) -> type[Patient]:
        """For the listener that serves `app`."""
        return shortcut(self.respond, min(LARGEST, self._max_body))

    async def _live(self, request: Request) -> Response:
        return Response(b'{"live":true}', 200, media_type=_MEDIA_TYPE)

    async def _readings(self, request: Request) -> Response:
        if not self._tokens.accept(request.headers.get("authorization", "")):
            await discard(request, self._max_body)
            return _unauthorized()
        read = False
        try:
            source = self._source(request.query_params.get("source", ""))
            kind, packed = form(request.headers.get("content-type", ""), request.headers.get("content-encoding", ""))
            read = True
            body = b"".join([part async for part in body_parts(request, self._max_body)])
            taken = _taken(source, unpack(body, self._max_body) if packed else body, kind)
        except (QueueFull, NotTaken, UsageError) as e:
            if not read:
                await discard(request, self._max_body)
            return _refused(e)
        return Response(taken, 202, media_type=_MEDIA_TYPE)

    def respond(self, head: Head, body: bytes) -> Answer:
        """The answer to a request that `shortcut` took."""
        refused = None if self._tokens.accept(head.authorization) else _unauthorized()
        if refused is None:
            try:
                taken = _taken(self._source(head.source), body, form(head.content_type, "")[0])
                return Answer(202, (_CONTENT_TYPE, (b"content-length", b"%d" % len(taken))), taken)
            except (QueueFull, NotTaken, UsageError) as e:
                refused = _refused(e)
        return Answer(refused.status_code, refused.raw_headers, bytes(refused.body))

    def _source(self, name: str) -> HttpSource:
        known = ", ".join(self._intakes)
        if not name and len(self._intakes) > 1:
            raise UsageError(f"several sources are fed here: expected ?source= with one of {known}")
        found = self._intakes.get(name) if name else next(iter(self._intakes.values()))
        if found is None:
            raise UsageError(f"no source is called {name[:64]!r}, known are: {known}", reason="no-such-source")
        return found


def _taken(source: HttpSource, text: bytes, kind: str) -> bytes:
    """Let the source take a body's records. Returns the answer's body. Raises as `HttpSource.offer` and `split` do."""
    taken = source.offer(split(text, kind, source.room))
    return msgspec.json.encode({"accepted": taken.accepted, "rejected": taken.rejected})


def _unauthorized() -> Response:
    return error(401, "the token is missing or wrong → it is in the node's ingest.token_file", "unauthorized")


def _refused(why: EdgeError) -> Response:
    if not isinstance(why, QueueFull):
        return error(_STATUS.get(why.reason, 400), str(why), why.reason)
    answer = error(503 if why.reason == "stopping" else 429, str(why), why.reason)
    answer.headers["retry-after"] = str(RETRY_AFTER_S)
    return answer


def form(content_type: str, encoding: str) -> tuple[str, bool]:
    """(``json`` or ``lines``, whether it is gzip) of a request's headers. Raises `UsageError` for any other."""
    media = content_type.partition(";")[0].strip().lower()
    kind = "json" if media in _JSON else "lines" if media in _LINES else ""
    if not kind:
        expected = "expected application/json or application/x-ndjson"
        raise UsageError(f"content type {media[:80]!r}: {expected}", reason="media-type")
    packed = encoding.strip().lower()
    if packed not in ("", "identity", "gzip"):
        raise UsageError(f"content encoding {packed[:40]!r}: expected gzip or none", reason="media-type")
    return kind, packed == "gzip"


def unpack(raw: bytes, limit: int) -> bytes:
    """The text in a gzip body; never more than `limit` bytes are made. Raises `UsageError`."""
    parts, room = [], limit
    while True:
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(raw, room + 1)
        except zlib.error as e:
            raise UsageError(f"the body is not gzip: {e}", reason="unparsable") from e
        room -= len(part)
        if room < 0:
            raise UsageError(f"the body has more than {limit} bytes when it is unpacked", reason="oversized")
        parts.append(part)
        if not member.eof:
            raise UsageError("the gzip body is cut off", reason="unparsable")
        if not member.unused_data:
            return b"".join(parts)
        raw = member.unused_data


def split(text: bytes, kind: str, most: int) -> Sequence[bytes]:
    """The records of a body: its lines, the elements of its array, or its one object. Raises `UsageError`.

    A body that has far more than `most` records is refused before they are made.

    Law: what `kind` ``lines`` and an array of the same records give, decodes alike.
    """
    if kind == "lines":
        if text.count(b"\n") > 2 * most:
            raise _too_many(most)
        return text.split(b"\n")
    start = text.lstrip(b" \t\r\n")
    if start.startswith(b"{"):
        return [text]
    if not start.startswith(b"["):
        raise UsageError("expected a JSON object or an array of them", reason="unparsable")
    try:
        found = elements(text, 2 * most)
    except UNREADABLE as e:
        raise UsageError(f"the body is not JSON: {e}", reason="unparsable") from e
    if found is None:
        raise _too_many(most)
    return found


def _too_many(most: int) -> UsageError:
    return UsageError(f"the body has far more records than this source's queue holds, {most}", reason="oversized")
