"""Replaces files completely or not at all, also through a power cut."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from edgectl_agent.durable import sync_folder

from edgectl.core.errors import StorageError


def write_file(path: Path, content: bytes, mode: int = 0o644) -> bool:
    """Put `content` at `path`, through a temporary file beside it; returns whether anything changed.

    Raises:
        StorageError: the disk refuses; `path` is as it was.
    """
    try:
        if path.is_file() and path.read_bytes() == content:
            return False
        replace(path, content, mode)
    except OSError as e:
        hint = "make room on this disk" if e.errno in (errno.ENOSPC, errno.EDQUOT) else None
        raise StorageError(f"cannot write {path}: {(e.strerror or str(e)).lower()}", hint=hint) from e
    return True


def replace(path: Path, content: bytes | Path, mode: int = 0o644, *, exact: bool = False) -> None:
    """Put `content`, or what the file of that path holds, at `path`, and make its folder if need be.

    The umask takes from `mode` unless it is `exact`.

    Raises:
        OSError: the disk refuses; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
            if exact:
                os.fchmod(file.fileno(), mode)
            if isinstance(content, Path):
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too leaves no litter
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
