"""How a file comes into the spool through the control API: whole or not at all.

Apart from `edgectl_agent.spool`, because that loads TUF's client, which a running agent has no memory to spare for.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from edgectl_agent.checked import storage_error, write_all
from edgectl_agent.core.bundle import MAX_BUNDLE_BYTES
from edgectl_agent.core.errors import TrustError, UsageError
from edgectl_agent.durable import sync_folder

MAX_FILE_BYTES = MAX_BUNDLE_BYTES
"""Of one file that is received: nothing larger is ever accepted."""
_PART = ".put-"
"""Prefix of files on their way in."""


def inside(name: str) -> bool:
    """Whether `name` is that of a file in the spool: parts separated by slashes, none of them empty or dots."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255 for part in parts)


class Deposit:
    """One file on its way into the spool: under a temporary name until `finish` has compared its digest.

    Whatever ends it before, the file that has the name stays as it is. An upload that was cut starts over.
    """

    def __init__(self, spool: Path, name: str) -> None:
        """Begin. Raises `UsageError` for a name outside the spool and `StorageError` if the disk refuses."""
        parts = name.split("/")
        if not inside(name) or parts[-1].startswith(_PART):
            raise UsageError(f"{name[:200]!r} is not a name inside the spool")
        self._name, self._target = name, spool / name
        self._digest = hashlib.sha256()
        try:
            _make_folders(spool, parts[:-1])
            self._part = self._target.parent / f"{_PART}{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(self._part, flags, 0o660)
        except OSError as e:
            raise storage_error(f"{name} cannot be put into the spool", e) from e

    def write(self, part: bytes) -> None:
        """The next bytes. Raises `StorageError`."""
        self._digest.update(part)
        try:
            write_all(self._file, part)
        except OSError as e:
            raise storage_error(f"{self._name} cannot be put into the spool", e) from e

    def finish(self, sha256: bytes) -> None:
        """Give the file its name, durably. Raises `TrustError` if its digest is another, or `StorageError`."""
        if self._digest.digest() != sha256:
            raise TrustError(
                f"{self._name}: the bytes that came have another digest than was announced", reason="digest"
            )
        try:
            os.fsync(self._file)
            os.replace(self._part, self._target)
            sync_folder(self._target.parent)
        except OSError as e:
            raise storage_error(f"{self._name} cannot be put into the spool", e) from e

    def close(self) -> None:
        """Forget what is not finished."""
        os.close(self._file)
        with suppress(OSError):
            self._part.unlink(missing_ok=True)


def sweep(spool: Path) -> None:
    """Remove what an agent that was killed had begun to receive."""
    for part in spool.rglob(f"{_PART}*") if spool.is_dir() else ():
        with suppress(OSError):
            part.unlink()


def _make_folders(spool: Path, names: list[str]) -> None:
    """Folders below the spool; a link among them would lead out of it. Raises `UsageError` or `OSError`."""
    spool.mkdir(parents=True, exist_ok=True)
    folder = spool
    for name in names:
        folder = folder / name
        if folder.is_symlink():
            raise UsageError(f"{folder} is a link, expected a folder of the spool")
        folder.mkdir(exist_ok=True)
