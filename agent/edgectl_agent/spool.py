"""The spool: a folder into which any transport drops TUF metadata and targets, and which nobody trusts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tuf.api.exceptions import DownloadError, DownloadHTTPError

from edgectl_agent.beneath import Beneath, UnsafePath, inside
from edgectl_agent.ngclient import FetcherInterface

METADATA_URL = "spool:///metadata/"
TARGET_URL = "spool:///targets/"
UNSAFE_HINT = "delete it there and find out who put it, then push again"
_CHUNK = 1 << 18


class UnsafeSpool(DownloadError):
    """A link, a pipe or the like lies in the spool where a file or folder is expected."""


class SpoolFetcher(FetcherInterface):
    """Serves ``spool:///a/b`` from ``<folder>/a/b``; what is not there is a 404, as TUF's client expects."""

    def __init__(self, folder: Path) -> None:
        self._files = Beneath(folder)
        self.last = ""
        """The file asked for most recently, relative to the spool: what an error is about."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.last = url.removeprefix("spool:///")
        if not inside(self.last):
            raise DownloadHTTPError(f"{self.last!r} is not a name inside the spool", 404)
        try:
            return self._chunks(self._files.open(self.last))
        except UnsafePath as e:
            raise UnsafeSpool(f"{self.last} is not read from the spool: {e.strerror}") from e
        except OSError as e:
            raise DownloadHTTPError(f"{self.last} is not in the spool: {e.strerror}", 404) from e

    def _chunks(self, opened: IO[bytes]) -> Iterator[bytes]:
        with opened as file:
            try:
                while chunk := file.read(_CHUNK):
                    yield chunk
            except OSError as e:
                raise DownloadError(f"{self.last} cannot be read: {e.strerror}") from e
