"""A recording of what a source delivers, as it lies on the node and crosses the wire.

Readings come in blocks, numbered from 1 without gaps and counted: ``Block.first`` is how many readings the recording
had taken before the block. So a reader who knows how far he is sees of each block that is gone how many readings it
held. Blocks are msgpack, because they are mostly columns of numbers; the rest is JSON.
"""

from __future__ import annotations

from typing import Annotated, Literal

import google_crc32c
import msgspec

from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import Name

MAX_SPOOL_BYTES = 256 * 1024 * 1024
SPOOL_BYTES = 64 * 1024 * 1024
"""What a recording may take of the node's disk unless the order says otherwise."""
MAX_S = 31 * 86400.0
PAGE_BYTES = 1 << 20


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    """Immutable; unknown fields are ignored."""


class RecordingOrder(_Message, frozen=True, kw_only=True):
    """Body of ``POST /v1/recordings``. The same `id` again changes nothing."""

    id: Name
    source: str
    for_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_S)]
    spool_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=MAX_SPOOL_BYTES)] = SPOOL_BYTES


class RecordingStatus(_Message, frozen=True, kw_only=True):
    """One recording. Times are the node's clock.

    ``head`` and ``readings`` count what can be read: blocks and their readings that a stored snapshot covers, so that a
    killed agent never delivers them again. ``ended``: everything that was taken can be read, and nothing more comes.
    """

    id: str
    node: str
    source: str
    started_ns: int
    until_ns: int
    channels: tuple[str, ...]
    units: dict[str, str] = {}
    categories: tuple[str, ...] = ()
    replayable: bool = True
    """Whether the source brings again what an agent that was killed had not yet stored."""
    boot: str = ""
    head: int = 0
    readings: int = 0
    state: Literal["running", "ended", "failed"] = "running"
    detail: str = ""


class Delivered(msgspec.Struct, frozen=True, array_like=True):
    """What one poll of the source brought: n readings.

    ``event_time``: n little-endian int64, ns since 1970 UTC; ``values``: n rows of c little-endian float64, NaN =
    missing; ``texts``: k columns of n.
    """

    streams: tuple[str, ...]
    event_time: bytes
    values: bytes
    texts: tuple[tuple[str, ...], ...]


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive readings: ``count`` of them, taken from ``begin_ns`` to ``end_ns`` by the node's clock."""

    seq: int
    first: int
    count: int
    boot: str
    begin_ns: int
    end_ns: int
    chunks: tuple[Delivered, ...]


class RecordingPage(_Message, frozen=True, kw_only=True):
    """Answer of ``GET /v1/recordings/ID?after=SEQ``, as msgpack."""

    status: RecordingStatus
    blocks: tuple[Block, ...] = ()


class RawPage(_Message, frozen=True, kw_only=True):
    """A `RecordingPage` whose blocks are as they lie on the disk."""

    status: RecordingStatus
    blocks: tuple[msgspec.Raw, ...] = ()


def seal(block: bytes) -> bytes:
    """An encoded block with its checksum before it. Law: ``unseal(seal(b)) == b``."""
    return int(google_crc32c.value(block)).to_bytes(4, "little") + block


def unseal(raw: bytes) -> bytes:
    """The encoded block. Raises `StorageError` if it is not whole."""
    block = raw[4:]
    if len(raw) < 5 or google_crc32c.value(block) != int.from_bytes(raw[:4], "little"):
        raise StorageError("a block of a recording is damaged", reason="damaged")
    return block


def open_block(raw: bytes) -> Block:
    """The block that `seal` closed. Raises `StorageError` if it is not whole."""
    try:
        return msgspec.msgpack.decode(unseal(raw), type=Block)
    except UNREADABLE as e:
        raise StorageError(f"a block of a recording is damaged: {e}", reason="damaged") from e


msgspec.json.Decoder(RecordingOrder)  # not first in two threads at once: see core.messages
msgspec.json.Decoder(RecordingStatus)
msgspec.msgpack.Decoder(RecordingPage)
