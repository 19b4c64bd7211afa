"""A folder that a web server on this machine serves, or a mounted share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgectl.files import replace
from edgectl.publishing.interface import Place, PlaceError

MODE = 0o644
"""Web servers run as somebody else."""


class FolderPlace(Place):
    """A local folder; it is made if it is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = str(folder)

    def sizes(self) -> Mapping[str, int] | None:
        try:
            files = [path for part in ("metadata", "targets") for path in (self._folder / part).rglob("*")]
            return {p.relative_to(self._folder).as_posix(): p.stat().st_size for p in files if p.is_file()}
        except OSError as e:
            raise self._error("cannot be read", e) from e

    def size(self, name: str) -> int | None:
        try:
            return (self._folder / name).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as e:
            raise self._error(f"{name} cannot be read", e) from e

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise self._error(f"{name} cannot be read", e) from e

    def write(self, name: str, content: Path, after: bytes | None = None) -> None:
        del after  # a rename cannot compare; the caller reads once more before it
        try:
            replace(self._folder / name, content, MODE, exact=True)
        except OSError as e:
            raise self._error(f"{name} cannot be written", e) from e

    def delete(self, name: str) -> None:
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as e:
            raise self._error(f"{name} cannot be removed", e) from e

    def _error(self, what: str, e: OSError) -> PlaceError:
        return PlaceError(f"{self.where}: {what}: {(e.strerror or str(e)).lower()}", hint="mend it, then publish again")
