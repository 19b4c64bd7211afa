"""Appends alerts to a file for programs beside the agent: one JSON object per line.

The file may be rotated away at any time. Position: its size; if it is smaller than a position says, it was rotated, and
what the old file holds is not read again.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from edgectl_agent.actions.interface import Action, Key, key_of
from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import Alert
from edgectl_agent.core.units import iso
from edgectl_agent.linefile import Lines


class Entry(msgspec.Struct, frozen=True):
    """A line of the file. ``time`` is the alert's event time, for people."""

    time: str
    alert: Alert


class LogAction(Action):
    """See the module."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = Lines(path)

    def open(self, position: int) -> frozenset[Key]:
        keys: set[Key] = set()
        decode = msgspec.json.Decoder(Entry).decode
        self._lines.torn = False
        try:
            with self._path.open("rb") as file:
                file.seek(position if position <= os.fstat(file.fileno()).st_size else 0)
                for line in file:
                    self._lines.torn = not line.endswith(b"\n")
                    if not self._lines.torn:
                        try:
                            keys.add(key_of(decode(line).alert))
                        except UNREADABLE:
                            continue  # someone else wrote into the file
        except FileNotFoundError:
            pass
        except OSError as e:
            raise StorageError(f"{self._path} cannot be read: {e.strerror or e}") from e
        return frozenset(keys)

    def fire(self, alert: Alert) -> None:
        line = msgspec.json.encode(Entry(iso(alert.changed_ns), alert)) + b"\n"
        try:
            self._lines.append(line)
        except OSError as e:
            raise StorageError(f"{self._path} cannot be written: {e.strerror or e}") from e

    def sync(self) -> int:
        try:
            return self._lines.sync()
        except FileNotFoundError:
            return 0
        except OSError as e:
            raise StorageError(f"{self._path} cannot be synced: {e.strerror or e}") from e
