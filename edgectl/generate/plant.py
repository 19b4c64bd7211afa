"""A plant that never was: machines with daily rhythm, correlated channels, and faults that are known.

Every machine follows a load that rises and falls with the day and wanders; current and temperature follow the load, the
temperature with its inertia, vibration follows speed, and pressure gives way under load. Readings depend on the seed,
the machine's name and the reading's index alone, so any stretch can be made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, get_args

import msgspec
import numpy as np
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.units import DAY_NS, SECOND_NS, iso

from edgectl.core.evaluation import WATCHED, Period

CHANNELS = ("vib_rms", "temp", "current", "pressure")
UNITS = {"vib_rms": "mm/s", "temp": "degC", "current": "A", "pressure": "bar"}
STEP_NS = 60 * SECOND_NS
"""One reading per machine and minute."""

Kind = Literal["spike", "bearing", "leak", "stuck"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One labelled fault of a machine: readings ``first`` to ``first + count - 1``, counted from the plant's start."""

    machine: str
    kind: Kind
    first: int
    count: int = 1

    def covers(self, index: int) -> bool:
        return self.first <= index < self.first + self.count


def readings(seed: int, machine: str, first: int, count: int, start_ns: int) -> Float64:
    """Normal readings of one machine.

    Args:
        seed: of the whole plant.
        machine: its name.
        first: index of the first reading.
        count: how many.
        start_ns: event time of reading 0.

    Returns:
        shape (count, 4), in the order of `CHANNELS`.
    """
    trait = np.random.default_rng(_seed(seed, machine))
    phase, pace = trait.uniform(0, 2 * np.pi, 3), trait.uniform(90, 400, 3)
    offset = trait.normal(0, 1, 4)
    index = np.arange(first, first + count)
    day = 2 * np.pi * ((start_ns + index * STEP_NS) % DAY_NS) / DAY_NS
    wander = np.sin(index[:, None] / pace + phase).sum(axis=1) / 3
    load = 0.6 - 0.3 * np.cos(day - 0.5) + 0.06 * wander
    warmth = 0.6 - 0.3 * np.cos(day - 0.9) + 0.06 * np.sin(index[:, None] / pace + phase - 0.3).sum(axis=1) / 3
    noise = np.stack([_noise(seed, machine, int(i)) for i in index]) if count else np.empty((0, 4))
    return np.stack(
        [
            1.2 + 0.15 * offset[0] + 1.1 * load + 0.06 * noise[:, 0],
            38 + 1.5 * offset[1] + 22 * warmth + 0.25 * noise[:, 1],
            4 + 0.3 * offset[2] + 11 * load + 0.2 * noise[:, 2],
            6.4 + 0.05 * offset[3] - 0.5 * load + 0.03 * noise[:, 3],
        ],
        axis=1,
    )


def with_faults(values: Float64, machine: str, first: int, faults: Iterable[Fault]) -> Float64:
    """A copy of normal readings, from index `first` on, with the machine's faults in them."""
    values = values.copy()
    index = np.arange(first, first + len(values))
    for fault in faults:
        inside = (index >= fault.first) & (index < fault.first + fault.count)
        if fault.machine != machine or not inside.any():
            continue
        progress = (index[inside] - fault.first + 1) / fault.count
        if fault.kind == "spike":
            values[inside] += (2.5, 0.0, 6.0, -0.6)
        elif fault.kind == "bearing":  # vibration grows, friction heats
            values[inside, 0] += 0.4 + 3.0 * progress
            values[inside, 1] += 12.0 * progress
        elif fault.kind == "leak":
            values[inside, 3] -= 1.2
        else:
            values[inside] = values[np.flatnonzero(inside)[0]]
    return values


def rows(
    seed: int, machines: Iterable[str], first: int, count: int, start_ns: int, faults: Iterable[Fault] = ()
) -> Iterator[Mapping[str, str | float]]:
    """Readings of several machines as records ``{ts, machine, vib_rms, …}``, by time."""
    machines, faults = tuple(machines), tuple(faults)
    values = {m: with_faults(readings(seed, m, first, count, start_ns), m, first, faults) for m in machines}
    for i in range(count):
        ts = iso(start_ns + (first + i) * STEP_NS)
        for machine in machines:
            numbers = (round(float(v), 4) for v in values[machine][i])
            yield {"ts": ts, "machine": machine, **dict(zip(CHANNELS, numbers, strict=True))}


LASTS: dict[Kind, int] = {"spike": 1, "bearing": 60, "leak": 40, "stuck": 40}
"""Readings that a planned fault lasts."""
WARM_UP = 15
"""Readings until the recipe's windows are full."""


def planned(seed: int, machines: Iterable[str], first: int, count: int, apart: int = 360) -> tuple[Fault, ...]:
    """Faults of each kind in turn on each machine, about `apart` readings from the end of one to the next."""
    faults: list[Fault] = []
    for n, machine in enumerate(machines):
        random = np.random.default_rng(_seed(seed, "faults", machine, first))
        at, k = first + WARM_UP + int(random.integers(apart // 2, apart)), n
        while at + max(LASTS.values()) < first + count:
            kind = KINDS[k % len(KINDS)]
            faults.append(Fault(machine=machine, kind=kind, first=at, count=LASTS[kind]))
            at, k = at + LASTS[kind] + int(random.integers(apart * 3 // 4, apart * 5 // 4)), k + 1
    return tuple(faults)


def labels(machines: Iterable[str], first: int, count: int, start_ns: int, faults: Iterable[Fault]) -> list[Period]:
    """The faults, and that every machine was watched after its warm-up."""

    def at(index: int) -> int:
        return start_ns + index * STEP_NS

    found = [Period(at(f.first), at(f.first + f.count - 1), f.machine, f.kind) for f in faults]
    return [*found, *(Period(at(first + WARM_UP), at(first + count), machine, WATCHED) for machine in machines)]


def _seed(seed: int, *parts: object) -> int:
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


_BLOCK = 256


def _noise(seed: int, machine: str, index: int) -> Float64:
    """Four standard normal numbers of one reading."""
    block = _blocks.get((seed, machine, index // _BLOCK))
    if block is None:
        if len(_blocks) > 4096:
            _blocks.clear()
        rng = np.random.default_rng(_seed(seed, machine, index // _BLOCK))
        block = _blocks[seed, machine, index // _BLOCK] = rng.normal(size=(_BLOCK, 4))
    row: Float64 = block[index % _BLOCK]
    return row


_blocks: dict[tuple[int, str, int], Float64] = {}
