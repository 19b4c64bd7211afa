"""Appends whole lines to a file that others read and may rotate away at any time."""

from __future__ import annotations

import os
from pathlib import Path


class Lines:
    """One line is one write. A line that a full disk tore stays alone: the next begins after a line end."""

    def __init__(self, path: Path, mode: int = 0o640) -> None:
        """`mode` of a file that is new."""
        self.path, self._mode = path, mode
        self.torn = False

    def append(self, line: bytes) -> None:
        """One line or several, with a line end at the end. Raises `OSError`."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, self._mode)
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
