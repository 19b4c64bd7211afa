"""What storage damaged in the outbox: which sequences are lost, for good, and the bytes that were found instead."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgectl_agent import checked
from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.recovery import Ranges, merge
from edgectl_agent.durable import write_file

QUARANTINE_BYTES = 16 * 1024 * 1024
"""Evidence is worth some space, not the whole disk."""


class Losses:
    """``lost.json`` and ``quarantine/`` in the outbox's folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "lost.json"
        self._folder = folder / "quarantine"
        self.ranges: Ranges = ()

    def load(self) -> None:
        """Read what was reported before. If that file is damaged, present damage is reported again: no harm."""
        try:
            self.ranges = merge(checked.decode_checked(checked.read_damaged(self._file), Ranges))
        except (OSError, StorageError):
            self.ranges = ()

    def add(self, found: Iterable[tuple[int, int]]) -> None:
        """Remember more losses, in memory until `save`."""
        self.ranges = merge((*self.ranges, *found))

    def save(self) -> None:
        """Make `ranges` durable. Raises `StorageError`."""
        write_file(self._file, checked.encode_checked(self.ranges), 0o600)

    def isolate(self, segment: Path, start: int, stop: int) -> str:
        """Copy damaged bytes of `segment` to the quarantine.

        Returns:
            the new file's name; empty if these bytes are there already, or the quarantine is full.

        Raises:
            OSError, StorageError: the disk refused.
        """
        path = self._folder / f"{segment.stem}-{start}.bad"
        data = checked.read_damaged(segment, start, stop)
        checked.make_folder(self._folder)
        if path.exists() or len(data) + sum(p.stat().st_size for p in self._folder.iterdir()) > QUARANTINE_BYTES:
            return ""
        write_file(path, data, 0o600)
        return path.name
