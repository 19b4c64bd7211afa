"""The spool: a folder into which any transport drops TUF metadata and targets, and which nobody trusts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadHTTPError

from edgectl_agent.deposit import inside
from edgectl_agent.ngclient import FetcherInterface

METADATA_URL = "spool:///metadata/"
TARGET_URL = "spool:///targets/"
_CHUNK = 1 << 18


class SpoolFetcher(FetcherInterface):
    """Serves ``spool:///a/b`` from ``<folder>/a/b``; what is not there is a 404, as TUF's client expects."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.last = ""
        """The file asked for most recently, relative to the spool: what an error is about."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.last = url.removeprefix("spool:///")
        if not inside(self.last):
            raise DownloadHTTPError(f"{self.last!r} is not a name inside the spool", 404)
        try:
            # A link or a pipe in the spool would let whoever fills it read other files, or make us wait for ever.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self._folder / self.last, flags)
        except OSError as e:
            raise DownloadHTTPError(f"{self.last} is not in the spool: {e.strerror}", 404) from e
        return self._chunks(descriptor)

    def _chunks(self, descriptor: int) -> Iterator[bytes]:
        with open(descriptor, "rb") as file:
            try:
                while chunk := file.read(_CHUNK):
                    yield chunk
            except OSError as e:
                raise DownloadError(f"{self.last} cannot be read: {e.strerror}") from e
