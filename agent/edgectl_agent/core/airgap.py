"""What goes to and from a node by hand: a slice of the repository, and a file with its report and alerts. No I/O.

A slice is a folder ``<node>/`` with the files of a spool and ``slice.json``, which lists them. Its digests find a
damaged or half-copied stick early; what may be trusted is TUF's matter alone. ``collected.json`` says how far the
operator has the node's alerts; it is signed, because whoever holds the stick could else make the node forget alerts.

An export is JSON Lines: a head with the report, one line per record of the outbox, and a tail with the count and the
SHA-256 of all bytes before it. So a file that was cut short, or changed on the way, is told from a whole one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import msgspec

from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import Name, OutboxRecord, Report, Sha256

MANIFEST = "slice.json"
RECEIPT = "collected.json"
SETUP = "setup/"
"""Begins the names of files for whoever sets the node up; the agent takes none of them in."""
RECEIPT_TYPE = "application/vnd.edgectl.collected+json"
"""DSSE payload type of `RECEIPT`."""


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """Immutable; unknown fields are ignored, so that an older agent reads a newer operator's files."""


class SliceFile(_Value, frozen=True, kw_only=True):
    """One file of a slice."""

    sha256: Sha256
    length: int


class Slice(_Value, frozen=True, kw_only=True):
    """``slice.json``. `until` is when the first signature in it ends, ISO 8601."""

    format: Literal[1] = 1
    fleet: str
    node: Name
    made: str
    until: str
    files: dict[str, SliceFile]


class Collected(_Value, frozen=True, kw_only=True):
    """The operator has every record of `node`'s outbox `log_id` up to `through`; payload of ``collected.json``."""

    node: Name
    through: Annotated[int, msgspec.Meta(gt=0)]
    log_id: Annotated[str, msgspec.Meta(min_length=1)]


class Head(_Value, frozen=True, kw_only=True):
    """First line of an export. `root_sha256` is the digest of the root that the node was enrolled with: its fleet."""

    edgectl_export: Literal[1]
    report: Report
    root_sha256: Sha256
    log_id: str


class Tail(_Value, frozen=True, kw_only=True):
    """Last line of an export. `lost` are the ranges of records that storage damaged."""

    records: int
    lost: tuple[tuple[int, int], ...] = ()
    sha256: Sha256


class Export(_Value, frozen=True, kw_only=True):
    """A whole export, read and compared with its digest."""

    head: Head
    records: tuple[OutboxRecord, ...]
    lost: tuple[tuple[int, int], ...]


for _type in (Slice, Collected, Head, Tail):  # not first in two threads at once: see core.messages
    msgspec.json.Decoder(_type)


def write_export(
    head: Head, pages: Iterable[tuple[Iterable[OutboxRecord], tuple[tuple[int, int], ...]]]
) -> Iterator[bytes]:
    """The lines of an export; `pages` are (records, lost) as the control API hands them out."""
    digest, count = hashlib.sha256(), 0
    lost: tuple[tuple[int, int], ...] = ()

    def line(value: msgspec.Struct) -> bytes:
        raw = msgspec.json.encode(value) + b"\n"
        digest.update(raw)
        return raw

    yield line(head)
    for records, lost in pages:  # noqa: B007 - the last page's are the newest
        for record in records:
            count += 1
            yield line(record)
    yield msgspec.json.encode(Tail(records=count, lost=lost, sha256=digest.hexdigest())) + b"\n"


def read_export(raw: bytes, name: str) -> Export:
    """What `write_export` wrote, whole. Raises `ConfigError` naming the file if it is anything else."""
    body, _, last = raw.rstrip(b"\n").rpartition(b"\n")
    body += b"\n"
    if not raw.startswith(b'{"edgectl_export":'):
        raise ConfigError(f"{name}: is not a file of `edgectl-agent export`", reason="no-export")
    try:
        tail = msgspec.json.decode(last, type=Tail)
    except UNREADABLE as e:
        raise _damaged(name, "its end is missing") from e
    if hashlib.sha256(body).hexdigest() != tail.sha256:
        raise _damaged(name, "its digest differs")
    try:
        first, *rest = body.splitlines()
        head = msgspec.json.decode(first, type=Head)
        records = tuple(msgspec.json.decode(line, type=OutboxRecord) for line in rest)
    except UNREADABLE as e:  # whole, so it is another version's
        raise ConfigError(f"{name}: was written by another version of the agent: {e}", reason="no-export") from e
    if len(records) != tail.records:
        raise _damaged(name, f"{tail.records} records were written, {len(records)} are here")
    return Export(head=head, records=records, lost=tail.lost)


def _damaged(name: str, how: str) -> ConfigError:
    return ConfigError(f"{name}: damaged or cut short on the way: {how}", hint="copy it again", reason="damaged")
