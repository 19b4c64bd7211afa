"""Word from the kernel that an open file was written to, truncated, renamed or deleted: inotify.

Only for file systems of this machine's own. Elsewhere (NFS, FUSE, overlays) others write without the kernel's knowing;
there, and where inotify is not to be had, the file must be looked at.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_OWN = ("ext2", "ext3", "ext4", "xfs", "f2fs", "tmpfs")
_MASK = 0x2 | 0x4 | 0x400 | 0x800
"""IN_MODIFY, IN_ATTRIB (which a deletion is, too, while the file is open), IN_DELETE_SELF, IN_MOVE_SELF."""


class Notices:
    """About one file; `close` gives the descriptor back."""

    def __init__(self, descriptor: int) -> None:
        """Raises `OSError` where there are none for this open file."""
        if _file_system(os.fstat(descriptor).st_dev) not in _OWN:
            raise OSError("not a file system that tells")
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        """Readable while there is word that was not cleared."""
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        path = f"/proc/self/fd/{descriptor}".encode()
        if libc.inotify_add_watch(self.descriptor, path, _MASK) < 0:
            self.close()
            raise OSError(ctypes.get_errno(), "inotify_add_watch")

    def clear(self) -> None:
        """Forget what came until now: look at the file after it, not before."""
        with suppress(OSError):  # nothing came
            os.read(self.descriptor, 4096)

    def close(self) -> None:
        with suppress(OSError):
            os.close(self.descriptor)


def _file_system(device: int) -> str:
    """Type of the mounted file system with this number; empty if it is not known."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            if before.split()[2:3] == [number]:
                return after.split()[0]
    return ""
