"""Connections that are used again: one per way to a machine, a bounded number of idle ones, the oldest closed first.

Each connection is one socket and one thread. At any time a process holds at most `IDLE` idle ones, those in use (as
many as ``--forks`` says), and one for each jump host of these.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from edgectl.connectors.ssh_link import Link, LinkError
from edgectl.connectors.ssh_target import Target

IDLE = 64
IDLE_S = 60.0
GONE_S = 1.0
"""How long the thread of a connection that was closed is waited for: until then it counts as one."""
DOWN_S = 15.0
"""A jump host that could not be reached is not tried again so soon: 200 nodes behind it would each wait for it."""

Open = Callable[[Target, Link | None], Link]


@dataclass
class _Slot:
    opening: threading.Lock = field(default_factory=threading.Lock)
    link: Link | None = None
    users: int = 0
    used_at: float = 0.0
    failed_at: float = 0.0
    failure: LinkError | None = None


class Pool:
    """Thread-safe."""

    def __init__(self, idle: int = IDLE, idle_s: float = IDLE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle, self._idle_s, self._clock = idle, idle_s, clock
        self._lock = threading.Lock()
        self._slots: dict[Target, _Slot] = {}

    @contextmanager
    def link(self, target: Target, open: Open) -> Iterator[Link]:  # noqa: A002 - what it does
        """A connection that stands when the block begins. Raises `LinkError`."""
        with self._lock:
            slot = self._slots.setdefault(target, _Slot())
            slot.users += 1
        try:
            yield self._standing(target, slot, open)
        finally:
            with self._lock:
                slot.users -= 1
                slot.used_at = self._clock()
            self._thin_out()

    def close(self) -> None:
        """Close what nobody uses."""
        self._thin_out(keep=0)

    @property
    def open_links(self) -> int:
        with self._lock:
            return sum(slot.link is not None and slot.link.alive for slot in self._slots.values())

    def _standing(self, target: Target, slot: _Slot, open: Open) -> Link:  # noqa: A002
        asked_at = self._clock()
        with slot.opening:
            if slot.link is not None and slot.link.alive:
                return slot.link
            if slot.failure is not None and slot.failed_at >= asked_at:  # it failed while we waited for our turn
                raise slot.failure
            if slot.link is not None:
                self._drop(target, slot.link)
                slot.link = None
            try:
                slot.link, slot.failure = self._opened(target, open), None
            except LinkError as e:
                slot.failure, slot.failed_at = e, self._clock()
                raise
            return slot.link

    def _opened(self, target: Target, open: Open) -> Link:  # noqa: A002
        if target.before is None:
            return open(target, None)
        beneath = self._beneath(target.before, open)
        try:
            return open(target, beneath)
        except BaseException:
            self._give_back(target.before)
            raise

    def _beneath(self, target: Target, open: Open) -> Link:  # noqa: A002
        """The jump host's connection, held for as long as the one over it stands."""
        with self._lock:
            slot = self._slots.setdefault(target, _Slot())
            slot.users += 1
            down = slot.failure if self._clock() - slot.failed_at < DOWN_S else None
        try:
            if down is not None:
                raise down
            return self._standing(target, slot, open)
        except BaseException:
            self._give_back(target)
            raise

    def _give_back(self, target: Target) -> None:
        with self._lock:
            slot = self._slots[target]
            slot.users -= 1
            slot.used_at = self._clock()

    def _drop(self, target: Target, link: Link) -> None:
        link.close()
        link.join(GONE_S)
        if target.before is not None:
            self._give_back(target.before)

    def _thin_out(self, keep: int | None = None) -> None:
        """Close idle connections: dead ones, those of `IDLE_S` ago, and the longest unused beyond `keep`."""
        while True:
            with self._lock:
                found = self._superfluous(self._idle if keep is None else keep)
                for target, _ in found:
                    del self._slots[target]
            if not found:
                return
            for target, slot in found:  # a jump host's turn comes in the next round, when nothing runs over it
                if slot.link is not None:
                    self._drop(target, slot.link)

    def _superfluous(self, keep: int) -> list[tuple[Target, _Slot]]:
        now = self._clock()
        idle = sorted(
            ((t, s) for t, s in self._slots.items() if not s.users), key=lambda pair: pair[1].used_at, reverse=True
        )
        stale = [(t, s) for t, s in idle[:keep] if self._over(s, now)]
        return stale + idle[keep:]

    def _over(self, slot: _Slot, now: float) -> bool:
        if slot.link is None:  # kept for a while: it remembers that a jump host is down
            return slot.failure is None or now - slot.failed_at >= DOWN_S
        return not slot.link.alive or now - slot.used_at >= self._idle_s
