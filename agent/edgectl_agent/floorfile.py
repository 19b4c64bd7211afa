"""``trust/floor.json``: what this node must never go below, on stable storage."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgectl_agent.core.desired import Floor
from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.durable import write_file

msgspec.json.Decoder(Floor)  # its table must not be built in two threads at once (see core.messages)


class FloorFile:
    """Reads and replaces the one `Floor` of a node."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Floor:
        """The floor; an empty one before the first update.

        Raises:
            StorageError: there, but not readable. Updates stay refused then, because without a floor an old assignment
                would pass; what runs keeps running.
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Floor)
        except FileNotFoundError:
            return Floor()
        except (OSError, *UNREADABLE) as e:
            raise StorageError(
                f"{self._path}: cannot be read: {e}", reason="floor-damaged", hint="enrol the node again"
            ) from e

    def write(self, floor: Floor) -> None:
        """Replace it. Raises `StorageError`."""
        write_file(self._path, msgspec.json.format(msgspec.json.encode(floor)), 0o600)
