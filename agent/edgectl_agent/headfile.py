"""The outbox's memory of how far it is acknowledged and released: one small file, overwritten in place.

Two slots in pages of their own take turns, so that a torn write leaves the head before it. The file never grows after
it was made, therefore it can be written when the disk is full.

Beside it lies ``id``, a random name of the log: sequences mean something only together with it. A head of another log
is never written before that log's name is durable.
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import replace
from pathlib import Path

from edgectl_agent import checked
from edgectl_agent.core.segment import SLOT_BYTES, Head, encode_head, slot_offset
from edgectl_agent.durable import write_file

_LOG_ID = re.compile(rb"[0-9a-f]{32}\n")


class HeadFile:
    """After a failed write `failed` is true, and the next write replaces the file: a failed fsync is never repeated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._id_path = path.with_name("id")
        self.log_id = ""
        self._named = False  # whether `log_id` is durable
        self._fd = -1
        self.failed = True
        self._dirty = False

    def identify(self, *, same_log: bool) -> None:
        """Learn the log's id; a new one if this is not the `same_log` as before, or its id cannot be read."""
        try:
            raw = checked.read_damaged(self._id_path) if same_log else b""
        except OSError:
            raw = b""
        self._named = _LOG_ID.fullmatch(raw) is not None
        self.log_id = raw.decode().strip() if self._named else secrets.token_hex(16)

    def name(self) -> None:
        """Make `log_id` durable. Raises `StorageError`."""
        if not self._named:
            write_file(self._id_path, self.log_id.encode() + b"\n", 0o600)
            self._named = True

    def reuse(self) -> None:
        """Go on with the file that is there. Raises `OSError`."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self.failed = False

    def create(self, head: Head) -> Head:
        """Write both slots in a new file. Returns the head with its new generation. Raises `StorageError`."""
        self.close()
        self.name()
        newer = replace(head, generation=head.generation + 2)
        pages = bytearray(2 * SLOT_BYTES)
        for h in (replace(head, generation=head.generation + 1), newer):
            slot = encode_head(h)
            pages[slot_offset(h) : slot_offset(h) + len(slot)] = slot
        write_file(self._path, bytes(pages), 0o600)
        self.reuse()
        return newer

    def write(self, head: Head) -> Head:
        """Hand `head` to the kernel: it survives the process, and a power cut after `sync` or some seconds.

        Returns:
            it with its new generation.

        Raises:
            OSError, StorageError: it is not known which head the file holds now.
        """
        if self.failed:
            return self.create(head)
        newer = replace(head, generation=head.generation + 1)
        self.failed = True
        os.pwrite(self._fd, encode_head(newer), slot_offset(newer))
        self.failed, self._dirty = False, True
        return newer

    def sync(self) -> None:
        """Make the newest head durable. Raises `OSError`."""
        if self._dirty and not self.failed:
            self.failed = True
            os.fdatasync(self._fd)
            self.failed = self._dirty = False

    def close(self) -> None:
        """Close the file without a sync."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self.failed, self._dirty = -1, True, False
