"""A port that nobody can hold: slow heads, slow bodies and too many connections, on a real socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from edgectl_agent import listener
from edgectl_agent.core.errors import UsageError
from edgectl_agent.listener import Listener, body_parts
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

QUICK_S = 0.3


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    for name, value in {"HEAD_S": QUICK_S, "PART_S": QUICK_S, "CONNECTIONS": 4}.items():
        monkeypatch.setattr(listener, name, value)

    async def count(request: Request) -> Response:
        try:
            return PlainTextResponse(str(sum([len(part) async for part in body_parts(request, 100)])))
        except UsageError as e:
            return PlainTextResponse(e.reason, 408, headers={"connection": "close"})

    door = Listener(Starlette(routes=[Route("/", count, methods=["POST"])]), "127.0.0.1:0", "test")
    url = door.bind()
    door.start()
    yield int(url.rpartition(":")[2])
    door.stop()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 60)


def answer(side: socket.socket) -> bytes:
    """All that comes until the other side closes; empty if it breaks the connection without a word."""
    found = b""
    try:
        while part := side.recv(1000):
            found += part
    except ConnectionResetError:
        pass
    return found


def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    with connect(port) as side:
        assert answer(side) == b""


def test_a_head_that_drips_is_cut_off_at_the_limit_however_often_a_byte_comes(port: int) -> None:
    began = time.monotonic()
    with connect(port) as side:
        side.settimeout(0.02)
        sent = 0
        while True:
            try:
                side.sendall(b"POST / HTTP/1.1\r\nX: " if not sent else b"x")
                sent += 1
                assert side.recv(10) == b""
                break
            except TimeoutError:
                assert time.monotonic() - began < 60
            except (ConnectionResetError, BrokenPipeError):
                break
    assert time.monotonic() - began >= QUICK_S


def test_a_body_that_stops_is_answered_408_and_closed(port: int) -> None:
    with connect(port) as side:
        side.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nhalf")
        found = answer(side)
    assert found.startswith(b"HTTP/1.1 408")
    assert found.endswith(b"slow")


def test_a_body_that_is_too_long_is_not_read_to_its_end(port: int) -> None:
    with connect(port) as side:
        side.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 200)
        assert answer(side).endswith(b"oversized")


def test_a_client_that_works_is_not_disturbed_by_the_limits(port: int) -> None:
    with connect(port) as side:
        for _ in range(3):
            side.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
            found = side.recv(1000)
            assert found.startswith(b"HTTP/1.1 200")
            while not found.endswith(b"\r\n\r\n5"):
                found += side.recv(1000) or pytest.fail("closed")


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head() -> None:
    door = Listener(Starlette(), "127.0.0.1:0", "test")
    door.bind()
    assert door._socket is not None
    assert door._socket.proto == socket.IPPROTO_TCP, "asyncio sets TCP_NODELAY for no other"
    door.stop()


def test_beyond_the_limit_of_connections_requests_are_refused_and_the_first_ones_go_on(port: int) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    with connect(port) as first:
        first.sendall(request + b"hello")
        assert first.recv(1000).startswith(b"HTTP/1.1 200")
        idle = [connect(port) for _ in range(3)]
        with connect(port) as late:
            late.sendall(request + b"hello")
            assert late.recv(1000).startswith(b"HTTP/1.1 503")
        for side in idle:
            side.close()
    with connect(port) as again:
        again.sendall(request + b"hello")
        assert again.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("noise", [b"zz\r\n\r\n", b"\x00\xff\r\n\r\nGET"])
def test_noise_in_a_body_that_was_answered_already_ends_the_connection_without_a_traceback(
    port: int, noise: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(port) as side:
        side.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        first = side.recv(1000)
        side.sendall(noise)
        rest = answer(side)

    assert first.startswith(b"HTTP/1.1 404")
    assert b"HTTP/1.1 500" not in rest
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
