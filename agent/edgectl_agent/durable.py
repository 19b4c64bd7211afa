"""Small files that must be there, whole, after a power cut."""

from __future__ import annotations

import os
from pathlib import Path

from edgectl_agent.core.errors import StorageError

TEMPORARY = ".tmp-"
"""Prefix of files in the making; whatever a crash leaves under it can go."""


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` in one step: afterwards it holds the old bytes or the new ones, on stable storage.

    Raises:
        StorageError: the disk refuses; `path` is as it was.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written: {e.strerror or e}") from e


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
