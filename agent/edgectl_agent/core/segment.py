"""The bytes of the outbox: records in segments, and the head that says how far they reach. Rules only, no I/O.

A segment is a header and then records, one after the other::

    header   magic 8 · CRC-32C 4 · sequence of the first record 8 · chain before it 32
    record   magic 4 · CRC-32C 4 · chain 32 · payload length 4 · sequence 8 · written 8 · boot length 1 · boot · payload
    head     two slots of: magic 8 · CRC-32C 4 · generation 8 · sequence 8 · released 8 · chain 32

All integers are little-endian. A record's checksum covers everything after it; its chain is
``SHA-256(chain before ‖ payload length … payload)``. The checksum finds damage in one record, the chain a record that
is intact but not the one that was written there, and the head a log that ends too early.

Damage is confined: `scan` goes on at the next intact record, and because sequences have no gaps it can say exactly
which ones are missing. A record is believed only with a sequence that is still expected, so that neither a stale block
nor a copy of an older record inside a payload counts.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from dataclasses import dataclass

import google_crc32c

MAX_PAYLOAD = 1024 * 1024
START = bytes(32)
"""The chain before the first record of a log."""
GONE = 0xFFFF_FFFF
"""Stands in `Scan.offsets` for a record that is lost."""

_SEGMENT_MAGIC = b"edgeob1\n"
_RECORD_MAGIC = b"\xe5oR1"
_HEAD_MAGIC = b"edgehd1\n"
_SEGMENT = struct.Struct("<8sIQ32s")
_HEAD = struct.Struct("<8sIQQQ32s")
_BODY = struct.Struct("<IQqB")
_RECORD = struct.Struct("<4s4s32sIQqB")
_PREFIX = _RECORD.size - _BODY.size
"""Magic, checksum and chain of a record."""

SEGMENT_HEADER = _SEGMENT.size
MAX_RECORD = _RECORD.size + 255 + MAX_PAYLOAD
SLOT_BYTES = 4096
"""Each slot of the head has a page of its own, so that one torn write cannot hurt both."""


@dataclass(frozen=True, slots=True)
class Record:
    """One acknowledged payload. ``(boot, seq)`` is a position, not an identity; ``seq`` has no gaps, from 1."""

    boot: str
    seq: int
    written_ns: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """How far the log is acknowledged and released, and the chain of the last acknowledged record."""

    seq: int = 0
    released: int = 0
    chain: bytes = START
    generation: int = 1


@dataclass(frozen=True, slots=True)
class Scan:
    """What a stretch of a segment holds.

    Attributes:
        offsets: byte offset of each record from the first expected one on; `GONE` where it is lost.
        damaged: ``(start, stop)`` byte ranges that are no intact, expected record.
        end: offset after the last intact record.
        next_seq: sequence after the last intact record.
        chain: of the last intact record; as given if there is none.
    """

    offsets: array[int]
    damaged: tuple[tuple[int, int], ...]
    end: int
    next_seq: int
    chain: bytes | None


def encode_record(boot: bytes, seq: int, written_ns: int, payload: bytes, chain: bytes) -> tuple[bytes, bytes]:
    """The record's bytes and its chain. ``boot`` has at most 255 bytes, ``payload`` at most `MAX_PAYLOAD`."""
    body = _BODY.pack(len(payload), seq, written_ns, len(boot)) + boot + payload
    chain = hashlib.sha256(chain + body).digest()
    rest = chain + body
    return _RECORD_MAGIC + _checksum(rest) + rest, chain


def record_size(boot: bytes, payload: bytes) -> int:
    """Bytes that `encode_record` makes."""
    return _RECORD.size + len(boot) + len(payload)


def decode_record(data: bytes, at: int) -> Record:
    """The record at `at`, which `record_end` has found intact."""
    _, _, _, length, seq, written_ns, boot_length = _RECORD.unpack_from(data, at)
    boot = at + _RECORD.size
    payload = boot + boot_length
    return Record(data[boot:payload].decode("utf-8", "replace"), seq, written_ns, data[payload : payload + length])


def record_end(data: bytes, at: int, low: int, high: int, chain: bytes | None) -> int:
    """Where the record at `at` ends; 0 unless it is intact, has a sequence in ``low..high`` and follows `chain`."""
    if len(data) < at + _RECORD.size:
        return 0
    magic, checksum, own_chain, length, seq, _, boot_length = _RECORD.unpack_from(data, at)
    end: int = at + _RECORD.size + boot_length + length
    if magic != _RECORD_MAGIC or not low <= seq <= high or length > MAX_PAYLOAD or end > len(data):
        return 0
    if _checksum(data[at + 8 : end]) != checksum:
        return 0
    if chain is not None and hashlib.sha256(chain + data[at + _PREFIX : end]).digest() != own_chain:
        return 0
    return end


def scan(data: bytes, at: int, seqs: range, chain: bytes | None, *, contiguous: bool = False) -> Scan:
    """Find the records of `seqs` in ``data[at:]``.

    Args:
        data: a whole segment.
        at: where to begin: after the header, or after an earlier scan.
        seqs: the sequences that may follow, first one first; beyond them nothing is looked at.
        chain: before the first record; None if not known, which trusts the first record's own.
        contiguous: stop at the first byte that is not the next record, instead of looking for a later one.
    """
    offsets: array[int] = array("I")
    damaged: list[tuple[int, int]] = []
    end, expected = at, seqs.start
    seqs = seqs[: len(data) // _RECORD.size + 1]  # more records than fit cannot be missing here
    while at < len(data) and expected < seqs.stop:
        found, stop = at, record_end(data, at, expected, expected, chain)
        if not stop:
            if contiguous:
                break
            found, stop = _next_record(data, at + 1, expected, seqs.stop - 1, chain)
            damaged.append((at, found))
            if not stop:
                break
            seq = decode_record(data, found).seq
            offsets.extend([GONE] * (seq - expected))
            expected = seq
        offsets.append(found)
        at = end = stop
        expected, chain = expected + 1, _chain(data, found)
    return Scan(offsets, tuple(damaged), end, expected, chain)


def _next_record(data: bytes, at: int, low: int, high: int, chain: bytes | None) -> tuple[int, int]:
    """Start and end of the first intact record from `at` on; ``(len(data), 0)`` if there is none."""
    while (at := data.find(_RECORD_MAGIC, at)) >= 0:
        # after a hole the chain of the record before is not known, unless the hole held no record
        end = record_end(data, at, low, low, chain) or record_end(data, at, low + 1, high, None)
        if end:
            return at, end
        at += 1
    return len(data), 0


def _chain(data: bytes, at: int) -> bytes:
    return data[at + 8 : at + _PREFIX]


def _checksum(data: bytes) -> bytes:
    crc: int = google_crc32c.value(data)
    return crc.to_bytes(4, "little")


def encode_segment_header(first: int, chain: bytes) -> bytes:
    """The bytes before the record `first`, which will follow `chain`."""
    rest = first.to_bytes(8, "little") + chain
    return _SEGMENT_MAGIC + _checksum(rest) + rest


def segment_chain(data: bytes, first: int) -> bytes | None:
    """The chain before the segment's first record; None if the header is damaged or of another segment."""
    if len(data) < SEGMENT_HEADER:
        return None
    magic, crc, found, chain = _SEGMENT.unpack_from(data)
    intact = magic == _SEGMENT_MAGIC and crc == google_crc32c.value(data[12:SEGMENT_HEADER]) and found == first
    return bytes(chain) if intact else None


def encode_head(head: Head) -> bytes:
    """One slot; it belongs at ``slot_offset(head)``."""
    rest = _HEAD.pack(b"", 0, head.generation, head.seq, head.released, head.chain)[12:]
    return _HEAD_MAGIC + _checksum(rest) + rest


def slot_offset(head: Head) -> int:
    """Heads alternate between the two slots, so that the one before is intact while the next is written."""
    return head.generation % 2 * SLOT_BYTES


def decode_head(data: bytes) -> tuple[Head | None, bool]:
    """The newest intact slot of a head file, and whether both are intact: a damaged one may have been newer."""
    heads = [h for h in (_decode_slot(data, 0), _decode_slot(data, SLOT_BYTES)) if h]
    return max(heads, key=lambda h: h.generation, default=None), len(heads) == 2


def _decode_slot(data: bytes, at: int) -> Head | None:
    slot = data[at : at + _HEAD.size]
    if len(slot) < _HEAD.size or slot[:8] != _HEAD_MAGIC:
        return None
    _, crc, generation, seq, released, chain = _HEAD.unpack(slot)
    if crc != google_crc32c.value(slot[12:]) or generation % 2 * SLOT_BYTES != at:
        return None
    return Head(seq, released, chain, generation)
