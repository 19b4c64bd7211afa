"""Between paho and the network: few system calls per packet, and no packet that fills the memory.

paho reads a packet byte by byte off the socket and then keeps all of it, up to 256 MB. Here bytes are read in blocks,
and of a message that is too large only its head and `limit` bytes of payload are handed on: enough to see that it is
too large, to count it and to acknowledge it. The usual message, of QoS 0 or 1, without properties and of no great size,
is taken out right here: paho's way with it costs more than a node's with a reading. Everything else is paho's.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from contextlib import suppress
from typing import NamedTuple, Protocol

_BLOCK = 64 * 1024
_RECORD = 16 * 1024
"""TLS hands on one record at a time, of at most this."""
_PUBLISH = 0x30
_LONGEST_HEAD = 2 + 65_535 + 2 + 4
"""A PUBLISH packet's topic, identifier and length of properties."""
_MOST_PROPERTIES = 64 * 1024
_USUAL = 32 * 1024
"""A message of at most so many bytes is waited for."""


class Message(NamedTuple):
    """A message as it came.

    Attributes:
        identifier: the broker's, 0 with QoS 0.
    """

    topic: bytes
    payload: bytes
    identifier: int


class Malformed(ValueError):
    """The bytes are not MQTT."""


class Socket(Protocol):
    """What is used of a connected, non-blocking socket, plain or TLS."""

    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes | bytearray, /) -> int: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...
    def setblocking(self, on: bool, /) -> None: ...
    def settimeout(self, seconds: float, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...


class Trimmer:
    """Bytes of an MQTT stream in, the same bytes out, except for payloads (and properties) that are too large.

    Law: the outcome does not depend on how the bytes are cut into calls, and every packet of at most `limit` bytes
    comes out as it went in.

    With `messages`, usual ones go there instead, unless bytes of this call came out before them: so the order stays.
    """

    def __init__(self, limit: int, version5: bool, messages: deque[Message] | None = None) -> None:
        self._limit, self._version5, self._messages = limit, version5, messages
        self._raw = bytearray()
        self._plan: deque[tuple[bool, int]] = deque()
        """What becomes of the next bytes: whether they are handed on, and how many."""

    def feed(self, data: bytes) -> bytes:
        """Raises `Malformed`."""
        self._raw += data
        out = bytearray()
        while self._raw and (self._plan or self._begin(out)):
            keep, left = self._plan.popleft()
            if keep:
                out += self._raw[:left]
            if left > len(self._raw):
                self._plan.appendleft((keep, left - len(self._raw)))
            del self._raw[:left]
        return bytes(out)

    def _begin(self, out: bytearray) -> bool:
        """Decide about the next packet. False while too little of it is there."""
        raw, length = self._raw, _number(self._raw, 1)
        if length is None:
            return False
        size, start = length
        if self._messages is not None and not out and raw[0] & 0xF4 == _PUBLISH and size <= min(_USUAL, self._limit):
            if len(raw) < start + size:
                return False
            if (message := self._message(start, start + size)) is not None:
                self._messages.append(message)
                self._plan.append((False, start + size))
                return True
        if raw[0] & 0xF0 != _PUBLISH or size <= self._limit:
            self._plan.append((True, start + size))
            return True
        if len(raw) < start + min(size, _LONGEST_HEAD):
            return False
        head = start + 2 + int.from_bytes(raw[start : start + 2]) + (2 if raw[0] & 0x06 else 0)
        length = _number(raw, head) if self._version5 else (0, head)
        if length is None:
            raise Malformed("a message ends in its head")
        properties, end = length[0], length[0] + length[1]
        if end > start + size:
            raise Malformed("a message is shorter than its head")
        fit = properties <= _MOST_PROPERTIES
        payload = start + size - end
        kept = min(payload, self._limit)
        new = head - start + (end - head if fit else 1) + kept
        out += raw[:1] + _varint(new) + raw[start:head] + (b"" if fit else b"\0")
        self._plan += (False, head), (fit, end - head), (True, kept), (False, payload - kept)
        return True

    def _message(self, start: int, end: int) -> Message | None:
        """The PUBLISH packet that is there up to `end`; None if it has properties, or something is wrong with it."""
        raw = self._raw
        at = start + 2 + int.from_bytes(raw[start : start + 2])
        topic, identifier, numbered = bytes(raw[start + 2 : at]), 0, raw[0] & 0x02
        if numbered:
            identifier = int.from_bytes(raw[at : at + 2])
            at += 2
        if self._version5:
            if raw[at : at + 1] != b"\0":
                return None
            at += 1
        if not topic or at > end or (numbered and not identifier):
            return None
        return Message(topic, bytes(raw[at:end]), identifier)


class Buffered:
    """A socket of which `recv` takes bytes out of blocks that went through a `Trimmer`.

    `messages` are those that came before these bytes.
    """

    def __init__(self, connection: Socket, limit: int, version5: bool) -> None:
        self.messages: deque[Message] = deque()
        self._socket, self._trimmer = connection, Trimmer(limit, version5, self.messages)
        self._block = memoryview(b"")
        self._ended = False
        self.drained = False
        """Whether the last block was all that there was; if more has come since, the network says so."""
        self.linger_s = 0.0
        """How long `close` waits for the other side to have read everything."""

    @property
    def ready(self) -> bool:
        """Whether `recv` has something without looking at the network."""
        return len(self._block) > 0 or self._ended

    def fill(self) -> bool:
        """Read a block, without waiting. False if there is none now. Raises `OSError`, `Malformed`."""
        try:
            data = self._socket.recv(_BLOCK)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        self._ended, self.drained = not data, 0 < len(data) < _RECORD
        self._block = memoryview(self._trimmer.feed(data))
        return True

    def recv(self, size: int) -> bytes:
        if not self._block:
            if self._ended:
                return b""
            raise BlockingIOError
        found = bytes(self._block[:size])
        self._block = self._block[size:]
        return found

    def send(self, data: bytes | bytearray) -> int:
        return self._socket.send(data)

    def close(self) -> None:
        """Closing over bytes that nobody has read would discard what we sent last: the other side closes first."""
        deadline = time.monotonic() + self.linger_s
        with suppress(OSError):
            if self.linger_s:
                self._socket.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(_BLOCK):
                    break
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, on: bool) -> None:
        self._socket.setblocking(on)


def _number(raw: bytearray, at: int) -> tuple[int, int] | None:
    """(a variable byte integer, where it ends); None while it is not whole. Raises `Malformed`."""
    value = 0
    for i, byte in enumerate(raw[at : at + 4]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    if len(raw) >= at + 4:
        raise Malformed("a length of more than four bytes")
    return None


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)
