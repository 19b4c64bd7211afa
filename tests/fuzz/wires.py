"""Protocols of the network: MQTT packets, as paho gets them, and HTTP requests, as the ingest listener gets them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from typing import Any

from edgectl_agent.config import HttpConfig
from edgectl_agent.ingest import Ingest, Tokens
from edgectl_agent.listener import Listener
from edgectl_agent.sources.http import HttpSource
from edgectl_agent.sources.mqtt_link import _Client
from edgectl_agent.sources.mqtt_socket import Buffered, Malformed, Trimmer
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from uvicorn.server import ServerState

from tests.fuzz.engine import Target, scratch

_CONNACK, _SUBACK = b"\x20\x03\x00\x00\x00", b"\x90\x04\x00\x01\x00\x01"
_WORDS = (
    b"\x30",
    b"\x32",
    b"\x20\x03",
    b"\xe0\x02",
    b"\xff\xff\xff\x7f",
    b"\x80\x80\x80\x01",
    b"\x00\x01",
    b"\x26",
    b"\x23\x00\x05",
)


def _publish(payload: bytes, properties: bytes = b"\0", qos: int = 1) -> bytes:
    topic = b"plant/press-1/vib"
    body = len(topic).to_bytes(2) + topic + (b"\x00\x07" if qos else b"") + properties + payload
    size, length = len(body), bytearray()
    while size > 127:
        length.append(size % 128 | 128)
        size //= 128
    return bytes([0x30 | qos << 1]) + bytes([*length, size]) + body


_PACKETS = (
    _CONNACK + _SUBACK + _publish(b'{"ts":1}') + _publish(b"x" * 900),
    _CONNACK + _publish(b"y" * 400, b"\x0f\x01\x01\x23\x00\x05\x26\x00\x01a\x00\x01b\x03\x00\x01c") + b"\xd0\x00",
    _CONNACK + b"\xe0\x02\x8b\x00",
)


def _trimmer() -> Target:
    def run(data: bytes) -> Hashable:
        five, step, text = bool(data[:1] > b"\x7f"), 8 + int.from_bytes(data[1:2]) ** 2, data[2:]
        whole, cut, out, failed = Trimmer(64, five), Trimmer(64, five), b"", False
        try:
            expected: bytes | None = whole.feed(text)
        except Malformed:
            expected = None
        try:
            for at in range(0, len(text), step):
                out += cut.feed(text[at : at + step])
        except Malformed:
            failed = True
        assert failed == (expected is None)
        assert failed or out == expected
        return failed, five, out == text, len(out).bit_length()

    return Target("mqtt packets, trimmed", run, [b"\xff\x03" + one for one in _PACKETS], words=_WORDS, weight=6)


class _Line:
    """A connection on which `data` has arrived."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def recv(self, size: int, /) -> bytes:
        found, self._data = self._data[:size], self._data[size:]
        return found

    def send(self, data: bytes | bytearray, /) -> int:
        return len(data)

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def setblocking(self, on: bool, /) -> None:
        pass


class _Connected(_Client):
    line: _Line

    def _create_socket(self) -> Any:
        self.buffered = Buffered(self.line, 1024, self.protocol == MQTTProtocolVersion.MQTTv5)  # type: ignore[arg-type]
        return self.buffered


def _paho() -> Target:
    """`Link` takes every exception of the library for a lost connection; it must not hang, grow or die."""

    def run(data: bytes) -> Hashable:
        five = data[:1] > b"\x7f"
        protocol = MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311
        client = _Connected(
            CallbackAPIVersion.VERSION2, "c", protocol=protocol, reconnect_on_failure=False, manual_ack=True
        )
        client.line = _Line(data[1:])
        client.on_socket_register_write = lambda *_: None
        taken: list[str] = []
        client.on_message = lambda _, __, message: taken.append(message.topic)
        client.connect("localhost")
        source, status = client.buffered, MQTTErrorCode.MQTT_ERR_SUCCESS
        try:
            while not status and source.fill() and (source.messages or source.ready):
                taken += [message.topic.decode(errors="replace") for message in source.messages]
                source.messages.clear()
                while source.ready and not status:
                    status = client.loop_read()
        finally:
            client._sock = None
        return int(status), min(len(taken), 3), five

    seeds = [b"\xff" + one for one in _PACKETS] + [b"\0\x20\x02\x00\x00" + _publish(b"x", b"")]
    return Target("mqtt packets, read by paho", run, seeds, (Exception,), _WORDS, 4096, weight=2)


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 40000), "sockname": ("127.0.0.1", 8711)})
        self.written = b""
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def _requests() -> Target:
    folder = scratch()
    (folder / "tokens").write_text("secret\n")
    source = HttpSource(HttpConfig(stream="s", time="ts", channels={"a": "a"}, queue=100))
    ingest = Ingest({"press": source}, Tokens(folder / "tokens"), 4096)
    made = ingest.protocol
    config = Listener(ingest.app(), "127.0.0.1:0", "ingest", protocol=made)._server.config
    config.load()
    loop = asyncio.new_event_loop()
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)

    async def served(data: bytes) -> bytes:
        transport, state = _Transport(), ServerState()
        protocol = made(config, state, {}, loop)
        protocol.connection_made(transport)
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            if part and not transport.is_closing():
                protocol.data_received(part)
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        for _ in range(50):
            if not state.tasks:
                break
            await asyncio.sleep(0)
        for task in state.tasks:
            task.cancel()
        return transport.written

    def run(data: bytes) -> Hashable:
        written = loop.run_until_complete(served(data))
        source.poll(1000, 0)
        status = written[9:12]
        assert not written or written.startswith(b"HTTP/1.1 ")
        assert status != b"500", written
        return status, written.count(b"HTTP/1.1 ")

    body = b'{"s":"m","ts":1,"a":2}'
    head = b"POST /v1/readings?source=press HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
    head += b"Content-Type: application/json\r\n"
    seeds = (
        head + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        head + b"Transfer-Encoding: chunked\r\n\r\n16\r\n" + body + b"\r\n0\r\n\r\n",
        b"GET /v1/live HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        head + b"Content-Encoding: gzip\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    )
    words = (
        b"\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1", b"?source=%ff",
        b"Upgrade: h2c\r\n",
        b"Connection: close\r\n", b"-1", b" ", b"%00",
    )  # fmt: skip
    return Target("http requests", run, seeds, words=words, longest=8192, weight=1)


def targets() -> list[Target]:
    return [_trimmer(), _paho(), _requests()]
