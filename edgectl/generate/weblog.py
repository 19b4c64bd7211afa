"""The log of a web service that never was: several hosts, a daily rhythm, stack traces, and faults that are known.

Each host writes a line for every request, now and then one of its own workers and of the health check every ten
seconds; a few requests fail with a stack trace. What a minute of a host holds depends on the seed, the host and the
minute alone, so any stretch can be made again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np
from edgectl_agent.core.units import DAY_NS, SECOND_NS, event_time_ns, iso

from edgectl.core.evaluation import WATCHED, Period

MINUTE_NS = 60 * SECOND_NS
Kind = Literal["errors", "new-message", "silence", "shift"]
KINDS: tuple[Kind, ...] = ("errors", "new-message", "silence", "shift")
LASTS = {"errors": 10, "new-message": 10, "silence": 15, "shift": 90}
"""Minutes that a fault of a kind lasts."""
BIRTH_NS = event_time_ns("2026-03-02T00:00:00Z")
WARM_UP = 60
"""Minutes after the beginning of a log in which nobody expects an alert."""
_PATHS = ("/api/orders", "/api/items", "/api/users", "/api/cart", "/login")
_WEIGHTS = (0.34, 0.3, 0.14, 0.16, 0.06)
_PER_MINUTE = 12.0
"""Requests of a host at the mean of the day."""
_TRACE = "\n".join(
    (
        "java.net.SocketTimeoutException: Read timed out",
        "\tat com.acme.shop.Db.query(Db.java:118)",
        "\tat com.acme.shop.Orders.load(Orders.java:57)",
        "\tat com.acme.shop.Worker.run(Worker.java:31)",
    )
)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One labelled fault of a host: minutes ``first`` to ``first + count - 1``, counted from the log's start."""

    host: str
    kind: Kind
    first: int
    count: int

    def progress(self, minute: int) -> float | None:
        """From above 0 to 1 within the fault, None outside."""
        done = (minute - self.first + 1) / self.count
        return done if 0 < done <= 1 else None


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One service; its life begins at `start_ns`, and minutes count from there."""

    seed: int
    hosts: tuple[str, ...]
    start_ns: int = BIRTH_NS

    def planned(self, first: int, minutes: int, apart: int = 180) -> tuple[Fault, ...]:
        """Faults of each kind in turn on each host, about `apart` minutes from the end of one to the next."""
        faults: list[Fault] = []
        for n, host in enumerate(self.hosts):
            random = np.random.default_rng(_seed(self.seed, "faults", host, first))
            at, k = first + WARM_UP + int(random.integers(apart // 2, apart)), n
            while at + max(LASTS.values()) + 30 < first + minutes:
                kind = KINDS[k % len(KINDS)]
                faults.append(Fault(host=host, kind=kind, first=at, count=LASTS[kind]))
                at, k = at + LASTS[kind] + int(random.integers(apart * 3 // 4, apart * 5 // 4)), k + 1
        return tuple(faults)

    def labels(self, first: int, minutes: int, faults: Iterable[Fault]) -> list[Period]:
        """The faults, and that every host was watched after its warm-up."""
        found = [Period(self._at(f.first), self._at(f.first + f.count), f.host, f.kind) for f in faults]
        watched = (self._at(first + WARM_UP), self._at(first + minutes))
        return [*found, *(Period(*watched, host, WATCHED) for host in self.hosts)]

    def lines(self, first: int, count: int, faults: Iterable[Fault] = ()) -> Iterator[str]:
        """Events of minutes ``first`` to ``first + count - 1``, by time, each with its line feed."""
        faults = tuple(faults)
        for minute in range(first, first + count):
            begin_ns = self._at(minute)
            events = [event for host in self.hosts for event in _minute(self.seed, host, minute, begin_ns, faults)]
            for _, text in sorted(events):
                yield f"{text}\n"

    def hours(self, first: int, count: int, faults: Iterable[Fault], tick: Callable[[], None]) -> Iterator[str]:
        """As `lines`, in hours; calls `tick` after each."""
        faults = tuple(faults)
        for hour in range(first, first + count):
            yield from self.lines(hour * 60, 60, faults)
            tick()

    @staticmethod
    def time_of(event: str) -> int:
        """ns, of one that `lines` gave."""
        return event_time_ns(event.split(" ", 1)[0])

    def _at(self, minute: int) -> int:
        return self.start_ns + minute * MINUTE_NS


def _minute(seed: int, host: str, minute: int, begin_ns: int, faults: Sequence[Fault]) -> Iterator[tuple[int, str]]:
    """(event time, text) of one host's minute."""
    random = np.random.default_rng(_seed(seed, host, minute))
    active = {f.kind: p for f in faults if f.host == host and (p := f.progress(minute)) is not None}
    day = 2 * math.pi * (begin_ns % DAY_NS) / DAY_NS
    requests = int(random.poisson(_PER_MINUTE * (1 - 0.4 * math.cos(day - 0.4))))

    prefix = iso(begin_ns)[:17]

    def told(offset_ms: int, level: str, text: str) -> tuple[int, str]:
        at = begin_ns + offset_ms * 10**6
        seconds, ms = divmod(offset_ms, 1000)
        return at, f"{prefix}{seconds:02d}.{ms:03d}Z {host} {level} {text}"

    offsets, chosen = random.integers(59_990, size=requests), random.choice(len(_PATHS), size=requests, p=_WEIGHTS)
    took, ids = random.lognormal(3.4, 0.5, requests), random.integers(10**6, size=requests)
    luck = random.random((2, requests))
    fails, misses = 0.5 if "errors" in active else 0.02, 0.03 + 0.5 * active.get("shift", 0.0)
    for i in range(requests):
        at, number = int(offsets[i]), int(ids[i])
        if luck[0, i] < fails:
            yield told(at, "ERROR", f"request {number:06d} failed after {took[i]:.0f}ms\n{_TRACE}")
            continue
        visitor = f"user={number % 5000} ip=10.0.{number % 256}.7"
        yield told(at, "INFO", f"GET {_PATHS[chosen[i]]} 200 {took[i]:.0f}ms {visitor}")
        if luck[1, i] < misses:
            yield told(at + 1, "WARN", f"cache miss for key item:{number:x}9, reading from database")
    if "silence" not in active:
        for beat in range(6):
            yield told(beat * 10_000 + 17, "INFO", f"health check ok, {random.integers(20, 60)} connections")
    if minute % 5 == 0:
        yield told(30_500, "INFO", f"worker pool resized to {random.integers(4, 16)} threads")
    if random.random() < 0.1:
        yield told(45_250, "DEBUG", f"gc pause {random.integers(5, 90)}ms, heap {random.integers(200, 900)}M")
    if "new-message" in active:
        for _ in range(3):
            at = int(random.integers(60_000))
            yield told(at, "WARN", f"certificate of upstream payments-{random.integers(9)} expires in 0 days")


def _seed(seed: int, *parts: object) -> int:
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
