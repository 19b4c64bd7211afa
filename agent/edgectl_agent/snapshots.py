"""What the agent was in the middle of, kept so that a restart goes on from there.

One msgpack document per snapshot behind a header that tells whether it is whole. The newest is ``state.snap``, the one
before ``state.prev``: a damaged newest costs one snapshot interval, not the state. What the state means is the
caller's business; it holds plain values (arrays by `core.arrays.pack_array`), and the source positions belong to it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec

from edgectl_agent import checked
from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.durable import sync_folder, write_file

FORMAT = 1
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
_MAGIC = b"edgesnp\n"
_HEADER = struct.Struct("<8sIIQ")
"""Magic, format, CRC-32C of the document, its length."""


class SnapshotStore:
    """Saves and loads one state. A crash at any point of `save` leaves the old snapshot or the new one.

    Round-trip law: ``load()`` returns what `save` got, as msgpack sees it (tuples become lists).
    """

    def __init__(self, folder: Path) -> None:
        self._newest = folder / "state.snap"
        self._previous = folder / "state.prev"
        self._whole = False  # the newest is known to be good
        self.problem = ""
        """Why `load` did not return the newest snapshot; empty if it did, or if there never was one."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Make `state` the newest snapshot, durably; the newest so far becomes the previous one.

        Raises:
            StorageError: the disk refused; the snapshots on it are as good as they were.
            TypeError: `state` holds something that msgpack does not know.
        """
        document = msgspec.msgpack.encode(state)
        header = _HEADER.pack(_MAGIC, FORMAT, google_crc32c.value(document), len(document))
        try:
            checked.make_folder(self._newest.parent)
            self._keep_previous()
            write_file(self._newest, header + document, 0o600)
            self._whole = True
        except (OSError, StorageError) as e:
            raise checked.storage_error(f"snapshot of {len(document)} bytes cannot be written", e) from e

    def _keep_previous(self) -> None:
        """Give the newest snapshot a second name, unless it is damaged: a good previous one is worth more."""
        if not self._whole and _problem(_read(self._newest)):
            return
        link = self._previous.with_name(self._previous.name + ".tmp")
        link.unlink(missing_ok=True)
        os.link(self._newest, link)
        os.replace(link, self._previous)
        sync_folder(self._newest.parent)

    def load(self) -> dict[str, Any] | None:
        """The newest snapshot that is whole; None if there is none. Tuples come back as lists.

        Raises:
            StorageError: a file is there but cannot be opened.
        """
        problems: list[str] = []
        self.problem = ""
        try:
            found = {path: _read(path) for path in (self._newest, self._previous)}
        except OSError as e:
            raise checked.storage_error(f"snapshots in {self._newest.parent} cannot be read", e) from e
        for path, raw in found.items():
            problem = _problem(raw)
            if raw is not None and not problem:
                try:
                    state = _decode(memoryview(raw)[_HEADER.size :])
                except UNREADABLE as e:  # whole, yet no document: written by something else, or by a bug
                    problem = f"does not decode: {e}"
                else:
                    self._whole = path == self._newest
                    self.problem = "; ".join(problems)
                    return state
            problems.append(f"{path.name} {problem}")
        if any(raw is not None for raw in found.values()):
            self.problem = "; ".join(problems)
        return None


def _read(path: Path) -> bytes | None:
    return checked.read_damaged(path) if path.exists() else None


def _problem(raw: bytes | None) -> str:
    """What is wrong with a snapshot's bytes; empty if nothing is."""
    if raw is None:
        return "is missing"
    if len(raw) < _HEADER.size:
        return f"has only {len(raw)} bytes"
    magic, version, crc, length = _HEADER.unpack_from(raw)
    document = raw[_HEADER.size :]
    if magic != _MAGIC:
        return "is not a snapshot"
    if version != FORMAT:
        return f"has format {version}, expected {FORMAT}"
    if len(document) != length:
        return f"has {len(document)} bytes of {length}"
    if google_crc32c.value(document) != crc:
        return "is damaged"
    return ""
