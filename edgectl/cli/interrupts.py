"""Ctrl-C in long computations: whatever it hits, the command ends as interrupted.

Python raises KeyboardInterrupt wherever the program is, which may be within a library's own error handling: a C module
that is being imported turns it into "initialization failed", a callback swallows it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """While the block runs, remember Ctrl-C; yields a check that raises `KeyboardInterrupt` if it came.

    An error that leaves the block after Ctrl-C is its consequence and becomes `KeyboardInterrupt`.
    """
    came = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield check
    except Exception as e:
        if came:
            raise KeyboardInterrupt from e
        raise
    finally:
        signal.signal(signal.SIGINT, before)
