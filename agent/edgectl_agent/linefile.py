"""Appends whole lines to a file that others read and may rotate away at any time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


class Lines:
    """One line is one write. A line that a full disk tore stays alone: the next begins after a line end."""

    def __init__(
        self, path: Path, mode: int = 0o640, *, make: bool = True, opening: Callable[[Path, int, int], int] = os.open
    ) -> None:
        """`mode` of a file that is new; `make`: whether one that is not there is made; `opening`: as `os.open`."""
        self.path, self._mode, self._opening = path, mode, opening
        self._flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
        self.torn = False

    def append(self, line: bytes) -> None:
        """One line or several, with a line end at the end. Raises `OSError`."""
        descriptor = self._opening(self.path, self._flags, self._mode)
        try:
            whole = b"\n" + line if self.torn else line
            self.torn = os.write(descriptor, whole) < len(whole)
            if self.torn:
                raise OSError("the disk took only part of a line")
        finally:
            os.close(descriptor)

    def sync(self) -> int:
        """Put on stable storage what the file holds now, and return its size; whoever appends meanwhile does not wait.

        Raises `OSError`; of a file that somebody took away, `FileNotFoundError`.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
