"""What the parts of the receiver share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgectl.core.errors import ConfigError
from edgectl.hub.answers import Busy
from edgectl.inventory.agent_config import Columns
from edgectl.store.store import Store
from edgectl.workspace import Workspace

MOST_WAITING = 256


def _no_recipes(name: str) -> Columns:
    raise ConfigError(f"the receiver knows no recipe {name}")


@dataclass
class Hub:
    """The open store, the folder of the signed repository, and the clock.

    A part works at the store inside `at_work`, in a thread (`starlette.concurrency.run_in_threadpool`), never on the
    event loop.
    """

    fleet: str
    store: Store
    repository: Path
    forks: int = 8
    clock_ns: Callable[[], int] = time.time_ns
    workspace: Workspace | None = None
    """Where there is one, machines may enrol."""
    columns: Callable[[str], Columns] = _no_recipes
    """Recipe → where its data has what it needs: for the agent.yaml of nodes that enrol."""
    _turns: threading.Semaphore = field(init=False)
    _places: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._turns = threading.Semaphore(self.forks)
        self._places = threading.Semaphore(MOST_WAITING)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Be one of `forks` that use the store, when it is our turn. Raises `Busy` if too many wait already."""
        if not self._places.acquire(blocking=False):
            raise Busy(f"{MOST_WAITING} requests wait for the store")
        try:
            with self._turns:
                yield
        finally:
            self._places.release()
