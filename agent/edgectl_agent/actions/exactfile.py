"""Opens the file that a path names, and no other: no link on the way, no second name, no device or pipe."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_exact(path: Path, flags: int, mode: int) -> int:
    """As `os.open`, for an absolute path. Raises `OSError`.

    Folder by folder, each opened from the one before: who swaps one for a link in between gains nothing.
    """
    folder = os.open("/", _FOLDER)
    try:
        for name in path.parts[1:-1]:
            above, folder = folder, _enter(folder, name)
            os.close(above)
        return _plain(os.open(path.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=folder))
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise OSError("a symbolic link stands in its way → name the real path, under allow: too") from e
        raise
    finally:
        os.close(folder)


def _enter(folder: int, name: str) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except NotADirectoryError:  # what Linux says of a link there, too
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        raise


def _plain(descriptor: int) -> int:
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    raise OSError("expected a file with one name, found a pipe, a device or a hard link")
