"""Usual posts of readings are answered early, and as they would be otherwise."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from edgectl_agent import listener, shortcut
from edgectl_agent.config import HttpConfig
from edgectl_agent.ingest import Ingest, Tokens
from edgectl_agent.listener import Listener
from edgectl_agent.shortcut import Head, usual
from edgectl_agent.sources.http import HttpSource

FIELDS = b"Host: x\r\nAuthorization: Bearer secret\r\nContent-Type: application/x-ndjson\r\n"
READING = b'{"s":"m","ts":1,"a":2}\n'


def post(body: bytes = READING, more: bytes = b"", fields: bytes = FIELDS, query: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST /v1/readings" + query + b" HTTP/1.1\r\n" + fields + more + length + b"\r\n" + body


class Ports:
    """The same ingest behind a listener that takes the short way and one that does not."""

    def __init__(self, folder: Path) -> None:
        (folder / "tokens").write_text("secret\n")
        sources = {
            name: HttpSource(HttpConfig(stream="s", time="ts", channels={"a": "a"}, queue=100)) for name in ("p", "q")
        }
        self.early = 0
        ingest = Ingest(sources, Tokens(folder / "tokens"), 4096)
        whole = ingest.respond

        def respond(head: Head, body: bytes) -> shortcut.Answer:
            self.early += 1
            return whole(head, body)

        ingest.respond = respond  # type: ignore[method-assign]
        self.short = Listener(ingest.app(), "127.0.0.1:0", "ingest", protocol=ingest.protocol)
        self.long = Listener(ingest.app(), "127.0.0.1:0", "ingest")
        self.sources = sources

    def answer(self, door: Listener, *parts: bytes, count: int = 1) -> list[tuple[int, object]]:
        """Status and body of each answer to what is sent in these parts."""
        found, raw = [], b""
        assert door._socket is not None
        with socket.create_connection(door._socket.getsockname(), 60) as side:
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                side.sendall(part)
                time.sleep(0.02 if len(parts) > 1 else 0)  # so that it comes alone
            while len(found) < count:
                head, blank, rest = raw.partition(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                size = int(fields.get(b"content-length", b"0"))
                if not blank or len(rest) < size:
                    raw += side.recv(65536) or pytest.fail(f"closed after {raw!r}")
                    continue
                if head[9:12] != b"100":
                    assert b"date" in fields
                    found.append((int(head[9:12]), json.loads(rest[:size]), fields.get(b"retry-after")))
                raw = rest[size:]
        for source in self.sources.values():
            source.poll(1000, 0)
        return found  # type: ignore[return-value]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    found = Ports(tmp_path_factory.mktemp("ingest"))
    for door in (found.short, found.long):
        door._server.config.timeout_keep_alive = 1
        door.bind()
        door.start()
    yield found
    for door in (found.short, found.long):
        door.stop()


@pytest.fixture
def ports(opened: Ports) -> Ports:
    opened.early = 0
    return opened


P = {"query": b"?source=p"}


@pytest.mark.parametrize(
    ("request_", "early"),
    [
        (post(**P), True),
        (post(READING * 3 + b"nonsense\n", **P), True),
        (post(b"nonsense", **P), True),
        (post(READING * 101, **P), True),
        (post(), True),  # which source?
        (post(query=b"?source=r"), True),
        (post(b"", **P), True),
        (post(b"[" + READING + b"]", fields=FIELDS.replace(b"x-ndjson", b"json"), **P), True),
        (post(fields=FIELDS.replace(b"x-ndjson", b"xml"), **P), True),
        (post(fields=FIELDS.replace(b"secret", b"wrong"), **P), True),
        (post(fields=b"Host: x\r\n", **P), True),
        (post(READING * 200, **P), False),  # more than the listener takes
        (post(more=b"Expect: 100-continue\r\n", **P), False),
        (post(more=b"Connection: close\r\n", **P), False),
        (post(more=b"X-Trace: 1\r\n", **P), False),
        (post(more=b"Content-Type: text/plain\r\n", **P), False),
        (post(more=b"Content-Encoding: gzip\r\n", **P), False),
        (post(query=b"?source=%70"), False),
        (b"POST /v1/readings?source=p HTTP/1.1\r\n" + FIELDS + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (b"GET /v1/live HTTP/1.1\r\n" + FIELDS + b"\r\n", False),
    ],
)
def test_a_request_gets_the_same_answer_on_either_way(ports: Ports, request_: bytes, early: bool) -> None:
    expected = ports.answer(ports.long, request_)
    assert ports.early == 0
    assert ports.answer(ports.short, request_) == expected
    assert ports.early == early


def test_several_requests_on_a_connection_are_answered_in_their_order_however_they_are_cut(ports: Ports) -> None:
    requests = [post(READING * n, more=b"X-Odd: 1\r\n" if n % 3 == 2 else b"", **P) for n in range(1, 7)]
    stream = b"".join(requests)
    expected = [(202, {"accepted": n, "rejected": {}}, None) for n in range(1, 7)]
    for cuts in ([], [10], [150], [len(requests[0]) - 5], [len(requests[0]) + 5, len(stream) - 3]):
        edges = [0, *cuts, len(stream)]
        parts = [stream[a:b] for a, b in pairwise(edges)]
        assert ports.answer(ports.short, *parts, count=6) == expected
    assert ports.early >= 3


def test_a_body_that_stops_is_answered_408_and_one_that_goes_on_in_time_is_taken(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PART_S", 0.2)
    monkeypatch.setattr(shortcut, "_LOOK_S", 0.1)
    whole = post(**P)
    assert ports.answer(ports.short, whole[:-5], whole[-5:])[0][0] == 202
    assert ports.early == 1
    assert ports.answer(ports.short, whole[:-5])[0][0] == 408


def test_a_connection_that_sends_no_more_is_closed(ports: Ports) -> None:
    assert ports.short._socket is not None
    with socket.create_connection(ports.short._socket.getsockname(), 60) as side:
        side.sendall(post(**P))
        assert side.recv(65536).startswith(b"HTTP/1.1 202 Accepted\r\n")
        assert side.recv(1) == b""


def test_only_a_plain_head_is_usual() -> None:
    plain = b"POST /v1/readings HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n"
    assert usual(plain) == Head("", "", "", 7)
    for old, new in [
        (b"POST", b"post"),
        (b"7", b"+7"),
        (b"7", b"7, 7"),
        (b"7", b"100000"),
        (b"Host: x\r\n", b""),
        (b"Host: x\r\n", b"Host: x\r\nhost: y\r\n"),
        (b"Host: x", b"Host : x"),
        (b"Host: x", b"Host: x\r\n folded"),
        (b"Host: x", b"Host: \x00x"),
        (b"Content-Length: 7\r\n", b""),
        (b"Content-Length: 7\r\n", b"Content-Length: 7\r\nContent-Length: 7\r\n"),
        (b"\r\n", b"\n"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"/v1/readings", b"//v1/readings"),
    ]:
        assert usual(plain.replace(old, new)) is None, (old, new)
