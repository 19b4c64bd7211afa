"""How fast something is on a machine that others use, too."""

from __future__ import annotations

import time
from collections.abc import Callable


def best(run: Callable[[], int], rounds: int) -> float:
    """What `run` says that it has done, per second of thread time, which other work on the machine does not count
    against: the highest of some rounds."""
    found = 0.0
    for _ in range(rounds):
        began = time.thread_time()
        n = run()
        found = max(found, n / (time.thread_time() - began))
    return found
