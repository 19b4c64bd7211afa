"""A disk that forgets what was not synced, and processes that die between two file operations.

    with PowerCut(folder) as disk:
        ...                      # the code under test writes and calls os.fsync, os.fdatasync
    disk.cut(random.Random(1))   # the folder is now what a power cut may leave

What was synced stays. Anything else may be old, new or in between: a file without a synced name is gone or there,
appended bytes are missing from some point on, a page written in place is a mix of old and new sectors.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

SECTOR = 512


class PowerCut:
    """Follows every fsync below `folder`. Not reentrant; one at a time.

    `lying`: the disk confirms syncs of files with this suffix and does nothing. For tests of the test.
    """

    def __init__(self, folder: Path, lying: str = "none") -> None:
        self._folder, self._lying = folder, lying
        self._names: dict[Path, dict[str, int]] = {}
        self._bytes: dict[int, bytes] = {}
        self._real = (os.fsync, os.fdatasync)
        for path in [folder, *folder.rglob("*")] if folder.exists() else []:
            self._remember(path)

    def __enter__(self) -> PowerCut:
        os.fsync, os.fdatasync = self._following(self._real[0]), self._following(self._real[1])
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        os.fsync, os.fdatasync = self._real

    def _following(self, real: Callable[..., None]) -> Callable[..., None]:
        def sync(fd: int) -> None:
            real(fd)
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
            if (path == self._folder or self._folder in path.parents) and path.suffix != self._lying:
                self._remember(path)

        return sync

    def _remember(self, path: Path) -> None:
        if path.is_dir():
            self._names[path] = {p.name: p.stat().st_ino for p in path.iterdir()}
        elif path.exists():
            self._bytes[path.stat().st_ino] = path.read_bytes()

    def cut(self, rng: random.Random) -> None:
        """Leave what a power cut may leave."""
        self._cut_folder(self._folder, rng)

    def _cut_folder(self, folder: Path, rng: random.Random) -> None:
        named = self._names.get(folder, {})
        now = {p.name: p for p in folder.iterdir()}
        for name, path in now.items():
            if path.is_dir():
                self._cut_folder(path, rng)
                continue
            inode = path.stat().st_ino
            found, synced = path.read_bytes(), self._bytes.get(inode, b"")
            if named.get(name) != inode and rng.random() < 0.5:
                path.unlink()  # the new name did not make it; an older file of that name did
                if name in named:
                    path.write_bytes(self._bytes.get(named[name], b""))
            elif found != synced:
                path.write_bytes(_mixed(synced, found, rng))
        for name, inode in named.items():
            if name not in now and inode in self._bytes and rng.random() < 0.5:
                (folder / name).write_bytes(self._bytes[inode])  # the removal did not make it


def _mixed(old: bytes, new: bytes, rng: random.Random) -> bytes:
    if len(new) > len(old) and new.startswith(old):
        return new[: rng.randint(len(old), len(new))]
    if len(new) < len(old):
        return rng.choice([old, new])
    sectors = range(0, len(new), SECTOR)
    return b"".join(rng.choice([old, new])[at : at + SECTOR] for at in sectors)


def operations(work: Callable[[], object]) -> int:
    """How many file operations `work` makes in this process."""
    return _run(work, stop_at=0)


def die_at(operation: int, work: Callable[[], object]) -> None:
    """Run `work` in a child process that dies, as by SIGKILL, right before its file operation number `operation`."""
    _run(work, stop_at=operation)


_OPERATIONS = (
    "open",
    "write",
    "pwrite",
    "fsync",
    "fdatasync",
    "replace",
    "unlink",
    "link",
    "mkdir",
    "truncate",
    "ftruncate",
)


def _run(work: Callable[[], object], stop_at: int) -> int:
    """Count file operations in a child; with `stop_at` > 0 it ends before that one. Returns the count (mod 256)."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def operation(*args: object, **options: object) -> object:
                nonlocal count
                count += 1
                if count == stop_at:
                    os._exit(0)
                return real(*args, **options)

            return operation

        for name in _OPERATIONS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except BaseException:
            os._exit(255)
        os._exit(count)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code != 255, "the work failed in the child process"
    return code
