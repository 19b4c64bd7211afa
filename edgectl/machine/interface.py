"""A machine as its administrator sees it: commands and files.

What is installed with them is `edgectl.machine`'s matter, how they get there is the implementation's
(`edgectl.connectors.ssh_host`).

`Host` is the machine half of remote nodes; the agent's control API is `edgectl.connectors.interface.Connector`'s.
Implementations raise only the errors named here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgectl.core.errors import NodeUnreachable, RemoteRefused, StorageError

__all__ = ["Done", "Host", "NodeUnreachable", "RemoteRefused", "StorageError"]

Told = Callable[[int], None]
"""Called with the bytes that went over since the last call."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended. `status` is its exit status; 128 + n if signal n ended it."""

    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Standard output, without the last line's end."""
        return self.out.decode(errors="replace").rstrip("\n")

    @property
    def complaint(self) -> str:
        """The last line of standard error, or of standard output: what went wrong, as the command says it."""
        lines = (self.err or self.out).decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else f"status {self.status}"


class Host(ABC):
    """One machine. May be used by one thread at a time."""

    name: str
    """The node's, for messages."""

    @abstractmethod
    def run(self, command: str, *, stdin: bytes = b"", root: bool = False, timeout_s: float = 60.0) -> Done:
        """Run a POSIX shell command to its end, as root with `root` (by sudo where the user is not root).

        A status other than 0 is an answer, not an error.

        Raises:
            NodeUnreachable: no connection, it broke, or the command did not end within `timeout_s`.
            RemoteRefused: root is not to be had; the message says what sudo says.
        """

    @abstractmethod
    def read(self, path: str, *, root: bool = False) -> bytes | None:
        """A file's content; None if there is no such file. Raises as `run`."""

    @abstractmethod
    def write(
        self, path: str, content: bytes | Path, *, mode: int = 0o644, root: bool = False, told: Told | None = None
    ) -> bool:
        """Put a file there, complete or not at all: temporary name in the same folder, then renamed.

        An upload of a `Path` that was cut short goes on where it stopped; the whole content's SHA-256 is compared
        before the rename. Missing folders are made. Returns whether anything changed.

        Raises:
            NodeUnreachable: as `run`.
            RemoteRefused: root is not to be had.
            StorageError: the machine's disk refuses (full, read-only, no permission).
        """

    def close(self) -> None:  # noqa: B027 - optional by contract
        """Release connections."""
