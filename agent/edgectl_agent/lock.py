"""One agent per data folder: two would write the same outbox."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from edgectl_agent.core.errors import EdgeError, StorageError


class AlreadyRunning(EdgeError):
    """Another agent owns the data folder."""

    exit_code, reason = 50, "locked"


class AgentLock:
    """``agent.lock``: held by the kernel for as long as the process lives; the content is for people."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "agent.lock"
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock, making the folder if need be. Raises `AlreadyRunning`, `StorageError`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise StorageError(f"data_dir: {self._path.parent} cannot be used: {e.strerror or e}") from e
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyRunning(
                f"another agent (process {owner}) already runs on {self._path.parent}",
                hint="stop it, or give this one another data_dir",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
