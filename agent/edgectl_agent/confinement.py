"""What a process that handles hostile bytes may use, and whom it outlives: nobody."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

MiB = 2**20
PROGRAM_BYTES = 180 * MiB
"""Address space of an interpreter that has loaded what verifying takes."""
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl


@dataclass(frozen=True)
class Limits:
    """What the verifying child may use.

    Attributes:
        memory_bytes: address space, which is well above resident memory (180 MB and 80 MB for a small model). A forked
            child starts with the agent's, and may add as much to it as a program of its own may to `PROGRAM_BYTES`.
        cpu_s: processor time.
        wall_s: time until it is killed.
    """

    memory_bytes: int = 1024 * MiB
    cpu_s: int = 60
    wall_s: float = 120.0


def confine(limits: Limits, parent: int) -> None:
    """Limit this process, should its parent be unable to end it; it ends with the process `parent` that began it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a restarted agent must find the staging folder its own
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(int(limits.wall_s) + 1)


def mapped_bytes() -> int:
    """Address space of this process."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    return pages * resource.getpagesize()
