"""What a node's file system holds, path by path, and what changed between two looks at it.

A node's root is an overlay: whatever differs from this machine's own / is in the overlay's upper folder, so that a look
costs only what the node itself wrote.

    before = look(node.upper, node.root)
    ...
    assert changes(before, look(node.upper, node.root)) == {}
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

OPAQUE = "trusted.overlay.opaque"
WHOLE = ("run", "tmp", "dev/shm")
"""File systems of their own, not in the upper folder."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or link. Folders have neither size nor content."""

    mode: str
    owner: str
    size: int = 0
    content: str = ""
    """SHA-256 of a file, target of a link."""


Snapshot = Mapping[str, Entry | None]
"""Path from the root → what is there; None where the node has deleted something."""


def look(upper: Path, root: Path, skip: tuple[str, ...] = ()) -> dict[str, Entry | None]:
    """Everything below `root` that the node may have touched, but nothing below the folders `skip`."""
    names = {*_touched(upper, ""), *(name for part in WHOLE for name in _walk(root / part, part))}
    return {name: entry(root / name) for name in sorted(names) if not _below(name, skip)}


def changes(before: Snapshot, after: Snapshot, lower: Path = Path("/")) -> dict[str, tuple[Entry | None, Entry | None]]:
    """Path → what was there and what is there now, where the two differ; None for nothing."""
    found = {}
    for name in sorted({*before, *after}):
        pair = tuple(_at(side, name, lower) for side in (before, after))
        if pair[0] != pair[1]:
            found[name] = (pair[0], pair[1])
    return found


def entry(path: Path) -> Entry | None:
    """What is at `path`; None for nothing."""
    try:
        found = path.lstat()
        content = ""
        if stat.S_ISREG(found.st_mode):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        elif stat.S_ISLNK(found.st_mode):
            content = str(path.readlink())
    except (FileNotFoundError, NotADirectoryError):
        return None
    size = found.st_size if stat.S_ISREG(found.st_mode) else 0
    return Entry(stat.filemode(found.st_mode), f"{found.st_uid}:{found.st_gid}", size, content)


def _at(side: Snapshot, name: str, lower: Path) -> Entry | None:
    if name in side or name.startswith(tuple(f"{part}/" for part in WHOLE)):
        return side.get(name)
    if any(side.get(str(parent), ...) is None for parent in Path(name).parents):
        return None  # gone with the folder that it was in
    return entry(lower / name)  # untouched at that time


def _below(name: str, folders: tuple[str, ...]) -> bool:
    return any(name == folder or name.startswith(f"{folder}/") for folder in folders)


def _walk(folder: Path, name: str) -> Iterator[str]:
    for base, folders, files in os.walk(folder):
        inside = Path(name, Path(base).relative_to(folder))
        for found in (*folders, *files):
            yield str(inside / found)


def _touched(upper: Path, name: str) -> Iterator[str]:
    """Names in the upper folder, and those that an opaque folder hides."""
    for found in os.scandir(upper / name):
        inside = f"{name}/{found.name}" if name else found.name
        if inside in WHOLE:
            continue
        yield inside
        if found.is_dir(follow_symlinks=False):
            if OPAQUE in os.listxattr(found.path):
                yield from _walk(Path("/", inside), inside)
            yield from _touched(upper, inside)
