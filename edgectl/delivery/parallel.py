"""Does one thing with many nodes at a time, and ends in order when it is interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The work was asked to stop between two steps; nothing is wrong with the node."""


def each(
    nodes: Iterable[str],
    work: Callable[[str], T],
    *,
    forks: int,
    stop: threading.Event,
    done: Callable[[str, T], None] | None = None,
) -> dict[str, T]:
    """Call ``work(node)`` in up to `forks` threads, and ``done(node, result)`` in the caller's.

    The first exception (a Ctrl-C too) sets `stop`, waits for the calls under way and is raised; nothing new is begun.
    """
    results: dict[str, T] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(max_workers=max(1, forks), thread_name_prefix="node") as pool:
        waiting: dict[Future[T], str] = {pool.submit(_unless, stop, work, node): node for node in nodes}
        while waiting:
            try:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    node = waiting.pop(future)
                    results[node] = future.result()
                    if done is not None:
                        done(node, results[node])
            except Stopped as e:
                failure = failure or e
            except BaseException as e:
                failure = e if failure is None or isinstance(failure, Stopped) else failure
                stop.set()
                for future in waiting:
                    future.cancel()
                waiting = {future: node for future, node in waiting.items() if not future.cancelled()}
    if failure is not None:
        raise failure
    return results


def _unless(stop: threading.Event, work: Callable[[str], T], node: str) -> T:
    if stop.is_set():
        raise Stopped
    return work(node)
