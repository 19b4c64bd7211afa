"""How a file comes into the spool through the control API: whole or not at all.

Apart from `edgectl_agent.spool`, because that loads TUF's client, which a running agent has no memory to spare for.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import ExitStack, suppress
from pathlib import Path

from edgectl_agent.beneath import Beneath, UnsafePath, inside, open_in
from edgectl_agent.checked import storage_error, write_all
from edgectl_agent.core.bundle import MAX_BUNDLE_BYTES
from edgectl_agent.core.errors import TrustError, UsageError

MAX_FILE_BYTES = MAX_BUNDLE_BYTES
"""Of one file that is received: nothing larger is ever accepted."""
_PART = ".put-"
"""Prefix of files on their way in."""


class Deposit:
    """One file on its way into the spool: under a temporary name until `finish` has compared its digest.

    Whatever ends it before, the file that has the name stays as it is. An upload that was cut starts over.
    """

    def __init__(self, spool: Path, name: str) -> None:
        """Begin. Raises `UsageError` for a name outside the spool and `StorageError` if the disk refuses."""
        self._name, self._last = name, name.split("/")[-1]
        if not inside(name) or self._last.startswith(_PART):
            raise UsageError(f"{name[:200]!r} is not a name inside the spool")
        self._part = f"{_PART}{secrets.token_hex(8)}"
        self._digest = hashlib.sha256()
        try:
            with ExitStack() as opened:
                self._folder = opened.enter_context(Beneath(spool).folder(name, make=True))
                self._file = open_in(self._folder, self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o660)
                opened.callback(os.close, self._file)
                self._opened = opened.pop_all()
        except UnsafePath as e:
            raise UsageError(f"{name} cannot be put into the spool: {e.strerror}") from e
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
            os.replace(self._part, self._last, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.fsync(self._folder)
        except OSError as e:
            raise storage_error(f"{self._name} cannot be put into the spool", e) from e

    def close(self) -> None:
        """Forget what is not finished."""
        with self._opened, suppress(OSError):
            os.unlink(self._part, dir_fd=self._folder)


def sweep(spool: Path) -> None:
    """Remove what an agent that was killed had begun to receive."""
    Beneath(spool).remove(lambda name, _: name.split("/")[-1].startswith(_PART))
