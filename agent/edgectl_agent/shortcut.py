"""The usual request of a sender that posts one reading at a time, answered where its bytes arrive.

Only a request that comes onto a connection at rest, with a plain head of known fields and a body of no great size, is
taken here; all others go through h11 and the ASGI application as if this were not there: another path or method,
``Transfer-Encoding``, ``Expect``, ``Content-Encoding``, ``Connection: close``, anything twice or odd, a head in pieces,
a body that keeps its listener waiting, a connection beyond the limit. Both ways ask `Ingest` for the answer.

That way costs more than half a millisecond of a core per request, several times what a node does with its reading.
"""

from __future__ import annotations

import re
from asyncio import TimerHandle
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import NamedTuple

import h11

from edgectl_agent.listener import Patient

LARGEST = 64 * 1024
"""Bytes of a body that may be taken here."""
_HEAD_BYTES = 2048
_MOST_HEADS = 256
"""A sender's heads are alike: so many are remembered."""
_LOOK_S = 1.0
"""A body that is not whole by then is h11's to wait for."""
_FIELDS = (b"host", b"accept", b"accept-encoding", b"connection", b"user-agent", b"authorization", b"content-type")
_HEAD = re.compile(
    rb"POST /v1/readings(?:\?source=([\w.-]{1,64}))? HTTP/1\.1\r\n"
    rb"((?:[A-Za-z-]+: ?[\x21-\x7e](?:[\x20-\x7e]{0,1000}[\x21-\x7e])?\r\n){1,20})\r\n",
    re.ASCII,
)


class Answer(NamedTuple):
    """What a request gets."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


class Head(NamedTuple):
    """What of a request's head the answer depends on."""

    source: str
    authorization: str
    content_type: str
    length: int


def usual(raw: bytes) -> Head | None:
    """The head in `raw`, which ends with its blank line; None if it is not a usual one."""
    found = _HEAD.fullmatch(raw)
    if found is None:
        return None
    lines = [line.partition(b":") for line in found[2].split(b"\r\n")[:-1]]
    fields = {name.lower(): value.strip(b" ") for name, _, value in lines}
    length = fields.pop(b"content-length", b"")
    known = len(fields) + 1 == len(lines) and fields.keys() <= set(_FIELDS) and b"host" in fields
    if not known or not re.fullmatch(rb"[0-9]{1,5}", length) or int(length) > LARGEST:
        return None
    if fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    authorization, content_type = (fields.get(name, b"").decode() for name in (b"authorization", b"content-type"))
    return Head((found[1] or b"").decode(), authorization, content_type, int(length))


def shortcut(respond: Callable[[Head, bytes], Answer], largest: int) -> type[Patient]:
    """A protocol for `Listener` that lets `respond` answer usual requests with a body of at most `largest` bytes."""
    heads: dict[bytes, Head | None] = {}

    def head_of(raw: bytes) -> Head | None:
        if raw not in heads:
            if len(heads) >= _MOST_HEADS:
                heads.clear()
            head = usual(raw)
            heads[raw] = head if head is not None and head.length <= largest else None
        return heads[raw]

    class Shortcut(Patient):
        _held = b""
        """The begin of a usual request."""
        _touched_s = _held_s = 0.0
        _look: TimerHandle | None = None

        def data_received(self, data: bytes) -> None:
            before, self._held, self._touched_s = self._held, b"", self.loop.time()
            if before or self._at_rest:
                data = self._take(before + data)
                if self._held and not before:
                    self._held_s = self._touched_s
            if data:
                super().data_received(data)

        @property
        def _at_rest(self) -> bool:
            """Whether no request is under way, nor one that h11 has a part of."""
            conn, cycle = self.conn, self.cycle
            if conn.their_state is not h11.IDLE or conn.our_state is not h11.IDLE:
                return False
            return (cycle is None or cycle.response_complete) and not conn.trailing_data[0]

        def _take(self, data: bytes) -> bytes:
            """Answer usual requests. Returns what is left for h11."""
            while data:
                end = data.find(b"\r\n\r\n", 0, _HEAD_BYTES) + 4
                head = head_of(data[:end]) if end > 4 else None
                if head is None or self._not_now:
                    return data
                self._disarm()
                self._unset_keepalive_if_required()
                if self._look is None:
                    self._look = self.loop.call_later(_LOOK_S, self._looked)
                if len(data) < end + head.length:
                    self._held = data
                    return b""
                self._write(respond(head, data[end : end + head.length]))
                data = data[end + head.length :]
            return b""

        @property
        def _not_now(self) -> bool:
            """Whether uvicorn would refuse the request or let it wait."""
            crowded = self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency
            return crowded or self.flow.write_paused or self.transport.is_closing()

        def _write(self, answer: Answer) -> None:
            lines = [b"HTTP/1.1 %d %s" % (answer.status, HTTPStatus(answer.status).phrase.encode())]
            lines += (b"%s: %s" % field for field in (*self.server_state.default_headers, *answer.headers))
            self.transport.write(b"\r\n".join((*lines, b"", answer.body)))

        def _looked(self) -> None:
            """Now and then, in place of a timer for every request."""
            self._look = None
            now_s = self.loop.time()
            if self.transport.is_closing():
                return
            if self._held and now_s - self._held_s >= _LOOK_S:
                data, self._held = self._held, b""
                super().data_received(data)
            elif not self._held and now_s - self._touched_s >= self.timeout_keep_alive:
                if self._at_rest:
                    self.transport.close()
            else:
                self._look = self.loop.call_later(_LOOK_S, self._looked)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._look is not None:
                self._look.cancel()
                self._look = None
            super().connection_lost(exc)

    return Shortcut
