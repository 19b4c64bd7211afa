"""A place from which a static web server hands out the signed repository. A new kind of place is one new file here and
one line in `edgectl.publishing.places`.

Names are relative to the repository (``metadata/timestamp.json``). Implementations raise only the errors below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from edgectl.core.errors import ConfigError, EdgeError

__all__ = ["ConfigError", "Place", "PlaceError"]


class PlaceError(EdgeError):
    """The place does not answer, is full, or does not keep what was written; publishing again goes on."""

    exit_code, reason = 75, "publish"


class Place(ABC):
    """Where the repository is published. Every method raises `PlaceError`, and `ConfigError` for a wrong credential."""

    where: str
    """For messages, without a secret."""

    @abstractmethod
    def sizes(self) -> Mapping[str, int] | None:
        """Name → bytes of every file there; None if the place cannot list."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of one file; None if there is no such file."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is no such file."""

    @abstractmethod
    def write(self, name: str, content: Path, after: bytes | None = None) -> None:
        """Put a file there: readers find the old content or the new, as far as the place can promise it.

        Args:
            name: what to replace or make, with missing folders.
            content: a local file.
            after: what the file holds now, where the place can compare it in the same step.

        Raises:
            LockHeld: the file does not hold `after` any more.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

    def close(self) -> None:  # noqa: B027 - optional by contract
        """Release connections."""
