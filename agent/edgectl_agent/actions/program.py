"""The content of a program that was checked, held where nobody can change it any more.

What is read, hashed and executed are the same bytes: a sealed file in memory. A path, and even an open file, could be
written to between the check and the execution.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from edgectl_agent.actions.interface import EffectFailed

MOST_BYTES = 256 << 20
_PIECE = 1 << 20
_MFD_EXEC = 0x10
"""Linux 6.3; see memfd_create(2). Python has no name for it yet."""
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@contextmanager
def sealed(path: str, allowed: Collection[str]) -> Iterator[int]:
    """A descriptor to execute as ``/proc/self/fd/N``: the program `path`, if its SHA-256 is among `allowed`.

    A script's interpreter reads it from there as well, so a child needs the descriptor, and ``$0`` is its name.

    Raises:
        EffectFailed: it cannot be read or executed, is another, or this kernel executes nothing from memory.
    """
    try:
        copy = _memory(os.path.basename(path))
    except OSError as e:
        raise EffectFailed(f"{path} cannot be held in memory to check it: {e.strerror or e}") from e
    try:
        try:
            found = _copy(path, copy)
            fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as e:
            raise EffectFailed(f"{path} cannot be read: {e.strerror or e}") from e
        if found not in allowed:
            raise EffectFailed(f"{path} is not the program that is allowed: its SHA-256 is {found[:12]}…")
        yield copy
    finally:
        os.close(copy)


def _copy(path: str, copy: int) -> str:
    """The SHA-256 of what was copied. Raises `OSError`, `EffectFailed`."""
    digest, size = hashlib.sha256(), 0
    program = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold us up
    try:
        if not stat.S_ISREG(os.fstat(program).st_mode) or not os.access(f"/proc/self/fd/{program}", os.X_OK):
            raise EffectFailed(f"{path} cannot be run: it is no executable file")
        while piece := os.read(program, _PIECE):
            size += len(piece)
            if size > MOST_BYTES:
                raise EffectFailed(f"{path} has more than the {MOST_BYTES >> 20} MiB that are checked")
            digest.update(piece)
            while piece:
                piece = piece[os.write(copy, piece) :]
    finally:
        os.close(program)
    return digest.hexdigest()


def _memory(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name[:200], flags | _MFD_EXEC)
    except OSError:  # an older kernel: it may be executed in any case
        return os.memfd_create(name[:200], flags)
