"""The files that one growing file leaves behind when it is rotated: which they are, in order, and where a `Mark` lies.

A rotated file has the name of the file and a number (``f.1``, ``f.2.gz``: the higher, the older) or a date
(``f-20260314``, ``f.2026-03-14``, ``f-20260314.jsonl``), as logrotate and most writers name them. Of ``f.1`` and
``f.1.gz`` only the first counts: the other is being written from it.

A renamed file is known by device and inode as long as its beginning, and the line before the mark, are still the same:
inodes are used again. A copy or a compressed file is known by its beginning, among those that were last written when
the marked file was, or later.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgectl_agent.sources.interface import Position

HEAD_BYTES = 1024
"""Of a file's beginning that identify it."""
LAST_BYTES = 256
_GZIP_BLOCK = 64 * 1024
_COARSE_NS = 2 * 10**9
"""Copying and compressing keep a file's time only roughly."""
_ROTATED = r"(?:\.(?P<number>\d{1,4})|[.-](?P<date>\d{5,}[\dT:._-]*|\d{4}-[\dT:._-]+))"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file, and by what the file is known again.

    Attributes:
        device, inode: of the file.
        offset: behind the last line taken.
        head_bytes, head: how much of the beginning was looked at, at most `HEAD_BYTES`, and its digest.
        last_bytes, last: likewise, of the end of the last line taken.
        written_ns: when the file had last been written.
        events: of a log: how many were taken, from all files.
    """

    device: int = 0
    inode: int = 0
    offset: int = 0
    head_bytes: int = 0
    head: str = ""
    last_bytes: int = 0
    last: str = ""
    written_ns: int = 0
    events: int = 0

    @property
    def position(self) -> Position:
        return {name: getattr(self, name) for name in self.__slots__}

    @staticmethod
    def of(position: Position) -> Mark:
        """The mark that `position` was made of; what it lacks is nothing."""
        known = {name: value for name, value in position.items() if name in Mark.__slots__}
        return Mark(**known)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Generation:
    """One of the files, as it was when it was looked for."""

    path: Path
    device: int
    inode: int
    size: int
    written_ns: int
    current: bool
    """It has the configured name; always the newest."""

    @property
    def packed(self) -> bool:
        return not self.current and self.path.suffix == ".gz"

    def is_same_file(self, mark: Mark) -> bool:
        return (self.device, self.inode) == (mark.device, mark.inode)


def digest(data: bytes) -> str:
    """What stands for `data` in a `Mark`."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def beginning(descriptor: int, size: int, packed: bool) -> bytes:
    """At most `size` bytes of a file's beginning, unpacked. Raises OSError, zlib.error."""
    if not packed:
        return os.pread(descriptor, size, 0)
    return zlib.decompressobj(31).decompress(os.pread(descriptor, _GZIP_BLOCK, 0), size)


def generations(path: Path) -> list[Generation]:
    """The file at `path` and those that it was before, the oldest first. Raises OSError."""
    shapes = [re.compile(re.escape(path.name) + _ROTATED + r"(?P<gz>\.gz)?")]
    if path.suffix:
        shapes.append(re.compile(re.escape(path.stem) + _ROTATED + re.escape(path.suffix) + r"(?P<gz>\.gz)?"))
    names = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
    found: list[tuple[tuple[int, int, str], str]] = []
    for name in names:
        match = next(filter(None, (shape.fullmatch(name) for shape in shapes)), None)
        if match and not (match["gz"] and name.removesuffix(".gz") in names):
            found.append(((1, 0, match["date"]) if match["date"] else (0, -int(match["number"]), ""), name))
    rotated = [_look(path.parent / name, current=False) for _, name in sorted(found)]
    now = _look(path, current=True)
    if now is None:
        return [one for one in rotated if one]
    same = (now.device, now.inode)  # the configured path may be a link to the newest
    return [one for one in rotated if one and (one.device, one.inode) != same] + [now]


def find(mark: Mark, among: Sequence[Generation]) -> int | None:
    """Which file the mark lies in; None if it is gone, or if nothing of it was read by which it could be known."""
    if not mark.offset:
        return None
    renamed = (i for i, one in enumerate(among) if one.is_same_file(mark) and _holds(mark, one))
    same = next(renamed, None)
    if same is not None or not mark.head_bytes:
        return same
    for i, one in enumerate(among):
        if not one.current and one.written_ns >= mark.written_ns - _COARSE_NS and _holds(mark, one):
            return i
    return None


def following(mark: Mark, among: Sequence[Generation]) -> list[Generation]:
    """The files to read after the one that the mark lies in, the oldest first.

    If that is gone, or nothing was read of it, it is those that were written later, and always the current one.
    """
    at = find(mark, among)
    if at is not None:
        return list(among[at + 1 :])
    return [one for one in among if one.current or (one.written_ns > mark.written_ns and not one.is_same_file(mark))]


def _look(path: Path, current: bool) -> Generation | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if not current and not stat.S_ISREG(status.st_mode):
        return None
    return Generation(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, current)


def _holds(mark: Mark, one: Generation) -> bool:
    """Whether the file begins as the marked one, and has the same line before the mark if that is cheap to see."""
    if not one.packed and one.size < mark.offset:
        return False
    try:
        descriptor = os.open(one.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if digest(beginning(descriptor, mark.head_bytes, one.packed)) != mark.head and mark.head_bytes:
            return False
        if one.packed or not mark.last_bytes:
            return True
        last = os.pread(descriptor, mark.last_bytes, mark.offset - 1 - mark.last_bytes)
        return digest(last) == mark.last
    except (OSError, zlib.error):
        return False
    finally:
        os.close(descriptor)
