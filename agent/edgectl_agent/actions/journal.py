"""What an action meant to do, began and did: a file of lines, so that a killed agent does nothing twice.

Of an effect there is an ``intent`` line when it is handed over, ``begun`` (on stable storage) just before it is tried,
and its outcome. A line without a partner tells the next life: an intent that was not begun may still be tried; one that
was begun is ``unknown``, and is never tried again. A decision not to act is one line with its outcome.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from edgectl_agent.actions.interface import Key
from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import Alert
from edgectl_agent.durable import sync_folder, write_file
from edgectl_agent.linefile import Lines

INTENT, BEGUN = "intent", "begun"
MOST_KEPT = 10_000
"""Effects, and as many decisions not to act, that are remembered: a replay goes back to the last snapshot."""
_MOST_LINES = 5 * MOST_KEPT


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. `fired`: it is about an effect, and no decision not to act."""

    key: Key
    step: str
    at_ns: int
    stream: str = ""
    fired: bool = False
    alert: Alert | None = None
    detail: str = ""


class Journal:
    """Every method but `open` may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines, self._lock = path, Lines(path), threading.Lock()
        self._newest: dict[Key, Line] = {}
        self._count = 0

    def open(self) -> tuple[Line, ...]:
        """The newest line of each key, in the order of the keys; intents have their alert. Raises `StorageError`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._path.exists():
                self._path.touch(0o640)
                sync_folder(self._path.parent)
            raw = self._path.read_bytes()
        except OSError as e:
            raise StorageError(f"{self._path} cannot be read: {e.strerror or e}") from e
        self._lines.torn = bool(raw) and not raw.endswith(b"\n")
        decode = msgspec.json.Decoder(Line).decode
        for text in raw.splitlines():
            with suppress(*UNREADABLE):
                self._take(decode(text))
            self._count += 1
        return tuple(self._newest.values())

    def __contains__(self, key: Key) -> bool:
        return key in self._newest

    def add(self, line: Line, durable: bool = False) -> None:
        """Append a line. Raises `StorageError`; the key is known all the same."""
        with self._lock:
            self._take(line)
            try:
                self._lines.append(msgspec.json.encode(line) + b"\n")
            except OSError as e:
                raise StorageError(f"{self._path} cannot be written: {e.strerror or e}") from e
            self._count += 1
            if self._count > _MOST_LINES:
                self._compact()
        if durable:
            self.sync()

    def sync(self) -> None:
        """Put on stable storage what was added; whoever adds meanwhile does not wait. Raises `StorageError`.

        A file that somebody took away is written anew: else no snapshot could be stored until something acts.
        """
        try:
            self._lines.sync()
        except FileNotFoundError:
            with self._lock:
                self._compact()
        except OSError as e:
            raise StorageError(f"{self._path} cannot be synced: {e.strerror or e}") from e

    def _take(self, line: Line) -> None:
        before = self._newest.get(line.key)
        if before is not None and before.fired and not line.fired:
            line = msgspec.structs.replace(line, fired=True)
        if line.step == BEGUN or line.step == INTENT:
            line = msgspec.structs.replace(line, fired=True)
        self._newest[line.key] = line

    def _compact(self) -> None:
        kept: dict[bool, list[Line]] = {True: [], False: []}
        for line in self._newest.values():
            kept[line.fired].append(line)
        open_ = [x for x in kept[True][:-MOST_KEPT] if x.step in (INTENT, BEGUN)]
        lines = open_ + kept[True][-MOST_KEPT:] + kept[False][-MOST_KEPT:]
        write_file(self._path, b"".join(msgspec.json.encode(line) + b"\n" for line in lines), 0o640)
        self._newest, self._count, self._lines.torn = {line.key: line for line in lines}, len(lines), False
