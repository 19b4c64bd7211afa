"""A child that starts as a copy of this process: what is loaded already costs it neither time nor memory.

Only a thread that forks lives on in the child. A lock that another thread held at that moment stays held there, and
whoever wants it waits for ever. So a child that says nothing within `FIRST_WORD_S` is given up, and what it does after
that may only use libraries that were at rest when it was forked: see ``at_rest`` of `run`.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import selectors
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from edgectl_agent.checked import write_all
from edgectl_agent.confinement import PROGRAM_BYTES, Limits, confine, mapped_bytes

FIRST_WORD_S = 15.0
_CHUNK = 1 << 16

Write = Callable[[bytes], None]
AtRest = Callable[[Callable[[], int]], int]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a child ended: negative `status` is the signal's number, None: it was killed because its time was up."""

    status: int | None
    out: bytes
    err: bytes


def run(work: Callable[[Write], None], limits: Limits, at_rest: AtRest) -> Ended:
    """Fork a child that calls `work` with what writes to us, and wait for its end.

    The child has none of our descriptors, signal handlers and threads, is held to `limits`, and ends with this process.

    Args:
        work: what the child does; an exception is the last line of its `err` and its status 1.
        limits: what it may use, on top of what this process uses now.
        at_rest: calls what it is given while no other thread is inside of a library that `work` uses, in a thread
            that lives as long as this process: the child ends with it.

    Raises:
        OSError: there is no child.
    """
    out, err = os.pipe(), os.pipe()
    try:
        pid = at_rest(lambda: _fork(work, limits, out[1], err[1]))
    finally:
        os.close(out[1])
        os.close(err[1])
    try:
        said, late = _listen(out[0], err[0], limits.wall_s)
    finally:
        os.close(out[0])
        os.close(err[0])
        os.kill(pid, signal.SIGKILL)  # no harm to one that ended: it is not reaped yet
        _, status = os.waitpid(pid, 0)
    return Ended(None if late else os.waitstatus_to_exitcode(status), *said)


def _fork(work: Callable[[Write], None], limits: Limits, out: int, err: int) -> int:
    memory = max(limits.memory_bytes - PROGRAM_BYTES + mapped_bytes(), 0)
    more, parent = dataclasses.replace(limits, memory_bytes=memory), os.getpid()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # our handlers are not the child's
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of locks that other threads may hold; the module's docstring says how that ends well.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _child(work, more, parent, out, err)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _child(work: Callable[[Write], None], limits: Limits, parent: int, out: int, err: int) -> NoReturn:
    """Never returns: what is above on the stack is the parent's business."""
    status = 1
    try:
        os.setsid()  # a Ctrl-C in the agent's terminal is the agent's to handle
        _only_pipes(out, err)
        _no_handlers()
        confine(limits, parent)
        gc.disable()  # it would touch, and so copy, every page that has an object of the parent's
        logging.disable()
        work(lambda said: write_all(1, said))
        status = 0
    except BaseException as e:
        with suppress(BaseException):
            write_all(2, f"{type(e).__name__}: {e}\n".encode(errors="replace"))
    finally:
        os._exit(status)


def _only_pipes(out: int, err: int) -> None:
    """Standard input is empty, output and error are the pipes, and everything else is closed."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with suppress(OSError):  # that of the listing itself
                os.close(int(name))


def _no_handlers() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _listen(out: int, err: int, wall_s: float) -> tuple[tuple[bytes, bytes], bool]:
    """What the child says until it has closed both pipes, and whether it was too late."""
    said = {out: bytearray(), err: bytearray()}
    started = time.monotonic()
    with selectors.DefaultSelector() as ready:
        for pipe in said:
            ready.register(pipe, selectors.EVENT_READ)
        while ready.get_map():
            left_s = started + (wall_s if said[out] else min(wall_s, FIRST_WORD_S)) - time.monotonic()
            if left_s <= 0:
                return (bytes(said[out]), bytes(said[err])), True
            for key, _ in ready.select(left_s):
                part = os.read(key.fd, _CHUNK)
                said[key.fd] += part
                if not part:
                    ready.unregister(key.fd)
    return (bytes(said[out]), bytes(said[err])), False
