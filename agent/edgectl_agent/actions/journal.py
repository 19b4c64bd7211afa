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
        self._path, self._lock = path, threading.Lock()
        self._lines = Lines(path, make=False)  # one that was taken away is written anew with all that is known
        self._newest: dict[Key, Line] = {}
        self._count = 0
        self._unread = ""
        """Why what earlier lives did is not known."""

    def open(self) -> tuple[Line, ...]:
        """The newest line of each key, in the order of the keys; intents have their alert. Raises `StorageError`."""
        raw = self._read()
        self._lines.torn = bool(raw) and not raw.endswith(b"\n")
        decode = msgspec.json.Decoder(Line).decode
        for text in raw.splitlines():
            with suppress(*UNREADABLE):
                self._take(decode(text))
            self._count += 1
        return tuple(self._newest.values())

    def _read(self) -> bytes:
        try:
            try:
                return self._path.read_bytes()
            except FileNotFoundError:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.touch(0o640)
                sync_folder(self._path.parent)
                return b""
            except OSError as e:
                self._unread = f"{self._path} cannot be read: {e.strerror or e} → mend it and restart the agent"
                raise
        except OSError as e:
            raise StorageError(self._unread or f"{self._path} cannot be written: {e.strerror or e}") from e

    def __contains__(self, key: Key) -> bool:
        return key in self._newest

    def add(self, line: Line, durable: bool = False) -> None:
        """Append a line. Raises `StorageError`; the key is known all the same, and what is known stays bounded.

        Where earlier lines are there but could not be read, nothing can be added: nobody knows what was done already.
        """
        if self._unread:
            raise StorageError(self._unread)
        with self._lock:
            self._take(line)
            self._count += 1
            try:
                self._lines.append(msgspec.json.encode(line) + b"\n")
            except FileNotFoundError:
                self._compact()
            except OSError as e:
                raise StorageError(f"{self._path} cannot be written: {e.strerror or e}") from e
            finally:
                if self._count > _MOST_LINES:
                    with suppress(StorageError):  # the line is where it is; the next try comes in time
                        self._compact()
        if durable:
            self.sync()

    def step(self, key: Key) -> str:
        """The newest of `key`; empty if there is none."""
        line = self._newest.get(key)
        return line.step if line else ""

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
        self._newest, self._count = {line.key: line for line in lines}, len(lines)
        write_file(self._path, b"".join(msgspec.json.encode(line) + b"\n" for line in lines), 0o640)
        self._lines.torn = False
