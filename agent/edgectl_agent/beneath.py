"""Files below a folder that others may write to as well: no link leads out of it, whenever it was put there.

The spool is such a folder: whoever uploads over SSH writes there. A path is walked part by part, each opened in the
descriptor of the one before and never through a link; to check a path first and to open it later would leave time to
swap a folder for a link in between. The folder itself may be a link: it lies where only the agent's user writes.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO

PART = ".part"
"""Ending of files in the making."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Nor a wait for whoever writes into a pipe."""
_DEEPEST = 16
"""How many folders `Beneath.remove` goes down; no file of a fleet lies deeper."""


class UnsafePath(OSError):
    """There is something else than a folder or file of our own on the way; ``strerror`` is a sentence about it."""


def inside(name: str) -> bool:
    """Whether `name` is that of a file in a folder: parts separated by slashes, none of them empty or dots."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255 for part in parts)


class Beneath:
    """The files below `root`; their names are relative to it. Every method raises `UnsafePath` and other `OSError`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def folder(self, name: str, make: bool = False) -> Iterator[int]:
        """The descriptor of the folder that `name` lies in; `make` creates what is missing of it."""
        if not inside(name):
            raise UnsafePath(errno.EINVAL, f"{name[:200]!r} is not a name inside {self.root}")
        if make:
            self.root.mkdir(parents=True, exist_ok=True)
        at = os.open(self.root, _FOLDER)
        try:
            for part in name.split("/")[:-1]:
                below = _step(at, part, make)
                os.close(at)
                at = below
            yield at
        except OSError as e:
            if not os.path.isabs(str(e.filename or "")):
                e.filename = str(self.root / name)
            raise
        finally:
            os.close(at)

    def open(self, name: str) -> BufferedReader:
        """The file, to be read."""
        with self.folder(name) as at:
            return os.fdopen(open_in(at, name.split("/")[-1], os.O_RDONLY), "rb")

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def exists(self, name: str) -> bool:
        """Whether `name` is a file that can be read."""
        try:
            self.open(name).close()
        except OSError:
            return False
        return True

    @contextmanager
    def replacing(self, name: str) -> Iterator[IO[bytes]]:
        """A new file to write to, which gets `name` when the block ends well; otherwise that stays as it was."""
        last = name.split("/")[-1]
        part = f".{last}.{secrets.token_hex(4)}{PART}"
        with self.folder(name, make=True) as at:
            try:
                with os.fdopen(open_in(at, part, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                    yield file
                os.replace(part, last, src_dir_fd=at, dst_dir_fd=at)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=at)

    def remove(self, doomed: Callable[[str, os.stat_result], bool]) -> None:
        """Delete the files of which `doomed` says so, by their name and state. What cannot be deleted stays."""
        with suppress(OSError):
            root = os.open(self.root, _FOLDER)
            try:
                for path, folders, names, at in os.fwalk(".", dir_fd=root):  # it follows no links
                    if path.count("/") >= _DEEPEST:
                        folders.clear()
                    for name in names:
                        _remove(at, name, f"{path}/{name}".removeprefix("./"), doomed)
            finally:
                os.close(root)


def open_in(folder: int, name: str, flags: int, mode: int = 0o666) -> int:
    """Open a plain file, and no link to one, in the folder with the descriptor `folder`; ``O_CREAT`` makes it.

    Raises:
        UnsafePath: there is something else, or a file to be written that has another name elsewhere.
        OSError: it cannot be opened.
    """
    try:
        file = os.open(name, flags | _NO_LINK, mode, dir_fd=folder)
    except OSError as e:
        raise _said(e, folder, name, "file") from None
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and (found.st_nlink == 1 or not flags & (os.O_WRONLY | os.O_RDWR)):
        return file
    os.close(file)
    what = "has another name elsewhere" if stat.S_ISREG(found.st_mode) else "is not a plain file"
    raise UnsafePath(errno.EPERM, f"{name} {what}")


def _step(folder: int, part: str, make: bool) -> int:
    """The descriptor of the folder `part` in `folder`."""
    try:
        if make:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=folder)
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as e:
        raise _said(e, folder, part, "folder") from None


def _said(error: OSError, folder: int, part: str, expected: str) -> OSError:
    """`error`, or that `part` is a link if that is why: the kernel says of it what it says of a file. What is found to
    be as expected now was something else when it was opened: somebody exchanges it."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        with suppress(OSError):
            mode = os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                return UnsafePath(errno.ELOOP, f"{part} is a link, expected a {expected}")
            if error.errno == errno.ELOOP or stat.S_ISDIR(mode):
                return UnsafePath(errno.ELOOP, f"{part} was a link when it was opened, expected a {expected}")
    return error


def _remove(folder: int, name: str, path: str, doomed: Callable[[str, os.stat_result], bool]) -> None:
    with suppress(OSError):
        if doomed(path, os.stat(name, dir_fd=folder, follow_symlinks=False)):
            os.unlink(name, dir_fd=folder)
