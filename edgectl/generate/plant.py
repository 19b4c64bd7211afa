"""A plant that never was: machines with daily rhythm, correlated channels, and faults that are known.

Every machine follows a load that rises and falls with the day and wanders; current and temperature follow the load, the
temperature with its inertia, vibration follows speed, and pressure gives way under load. Readings depend on the seed,
the machine's name and the reading's index alone, so any stretch can be made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec
import numpy as np
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.units import DAY_NS, SECOND_NS, iso

CHANNELS = ("vib_rms", "temp", "current", "pressure")
UNITS = {"vib_rms": "mm/s", "temp": "degC", "current": "A", "pressure": "bar"}
STEP_NS = 60 * SECOND_NS
"""One reading per machine and minute."""

Kind = Literal["spike", "bearing", "leak", "stuck"]


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


def plan_faults(seed: int, machines: Sequence[str], start_ns: int, end_ns: int, count: int) -> tuple[Fault, ...]:
    """`count` faults, kinds and machines in turn, one in each of `count` equal stretches of the time."""
    random = np.random.default_rng(seed)
    stretch = (end_ns - start_ns) // max(count, 1)
    faults = []
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        length = min(round(_DURATION_S[kind] * SECOND_NS), stretch // 2)
        begin = start_ns + i * stretch + int(random.integers(0, max(stretch - length, 1)))
        faults.append(Fault(machines[int(random.integers(len(machines)))], kind, begin, begin + length))
    return tuple(faults)


def write_json_lines(path: Path, made: Readings) -> None:
    """Append readings, one object per line: ``{"ts", "machine", "vib_rms", "temp", "current", "pressure"}``."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(_json_lines(made))


def write_csv(path: Path, made: Readings) -> None:
    """Write readings with a header: ``ts,machine,vib_rms,temp,current,pressure``."""
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join(("ts", "machine", *CHANNELS)) + "\n")
        for machine, time, values in zip(made.machines, made.event_time, made.values, strict=True):
            file.write(f"{iso(int(time))},{machine},{','.join(f'{v:.4f}' for v in values)}\n")


def write_labels(path: Path, faults: Sequence[Fault]) -> None:
    """Write what was wrong and when: ``machine,kind,start,end,strength``."""
    rows = [f"{f.machine},{f.kind},{iso(f.start_ns)},{iso(f.end_ns)},{f.strength:g}" for f in faults]
    path.write_text("\n".join(["machine,kind,start,end,strength", *rows]) + "\n", encoding="utf-8")


class LiveWriter:
    """Appends a plant's readings to a file as their time comes, with faults on demand.

    It has no clock: the caller says how far event time has come, and so at which speed. `break_machine` takes effect
    with the next reading. Another writer of the same seed continues the same plant.
    """

    def __init__(self, path: Path, seed: int, machines: Sequence[str], start_ns: int, step_ns: int) -> None:
        self._path, self._seed, self._machines, self._step_ns = path, seed, tuple(machines), step_ns
        self._next_ns = start_ns
        self._faults: list[Fault] = []

    @property
    def next_ns(self) -> int:
        """Event time of the next reading."""
        return self._next_ns

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Every fault so far, as `write_labels` takes them."""
        return tuple(self._faults)

    def advance(self, until_ns: int) -> int:
        """Append all readings up to and including `until_ns`; returns how many."""
        n = max(0, (until_ns - self._next_ns) // self._step_ns + 1)
        if n:
            made = readings(self._seed, self._machines, self._next_ns, self._step_ns, n, self._faults)
            write_json_lines(self._path, made)
            self._next_ns += n * self._step_ns
        return n * len(self._machines)

    def break_machine(self, machine: str, kind: Kind, duration_ns: int, strength: float = 1.0) -> Fault:
        """From the next reading on, for `duration_ns` of event time."""
        if machine not in self._machines:
            raise ValueError(f"no machine {machine!r}, there are {', '.join(self._machines)}")
        fault = Fault(machine, kind, self._next_ns, self._next_ns + duration_ns, strength)
        self._faults.append(fault)
        return fault


def _json_lines(made: Readings) -> list[str]:
    lines = []
    for machine, time, values in zip(made.machines, made.event_time, made.values, strict=True):
        row = {"ts": iso(int(time)), "machine": str(machine), **dict(zip(CHANNELS, map(float, values), strict=True))}
        lines.append(json.dumps(row) + "\n")
    return lines


def _healthy(seed: int, machine: str, times: Int64) -> Float64:
    """Shape (n, 4). Temperature follows the load ten minutes late."""
    own = np.random.default_rng([seed, *machine.encode()])
    offset = 1 + 0.08 * own.standard_normal(len(CHANNELS))
    periods_s, phases = own.uniform(600, 9000, _WAVES), own.uniform(0, 2 * np.pi, _WAVES)
    load = np.stack([_load(times - lag * SECOND_NS, periods_s, phases) for lag in (0, 600, 0, 60)], axis=1)
    key = np.uint64(own.integers(2**63))
    noise = np.stack([_normal(times, key + np.uint64(i)) for i in range(len(CHANNELS))], axis=1)
    return np.asarray(_USUAL * offset + _BY_LOAD * load + _NOISE * noise, np.float64)


def _load(times: Int64, periods_s: Float64, phases: Float64) -> Float64:
    """0 at night to about 1 in the middle of the day, with slow waves on top."""
    day = 0.5 - 0.5 * np.cos(2 * np.pi * (times % DAY_NS) / DAY_NS)
    seconds = times / SECOND_NS
    waves = sum(np.sin(2 * np.pi * seconds / p + f) for p, f in zip(periods_s, phases, strict=True))
    return np.asarray(day**0.7 + 0.06 * waves, np.float64)


def _broken(fault: Fault, times: Int64, values: Float64, frozen: Float64) -> Float64:
    """`values` of shape (n, 4) with the fault in them; slow faults grow over their first fifth.

    ``frozen`` is what a stuck sensor goes on saying.
    """
    values = values.copy()
    share = (times - fault.start_ns) / max(fault.end_ns - fault.start_ns, 1)
    grown = fault.strength * np.minimum(share * 5, 1.0)
    vib, temp, current, pressure = range(len(CHANNELS))
    if fault.kind == "bearing":
        values[:, vib] += 2.5 * grown
        values[:, temp] += 4.0 * grown
    elif fault.kind == "overheating":
        values[:, temp] += 15.0 * grown
        values[:, current] += 4.0 * grown
    elif fault.kind == "leak":
        values[:, pressure] -= 1.2 * grown
    elif fault.kind == "stuck-sensor":
        values[:, vib] = frozen[vib]
    else:
        values[:, vib] += 6.0 * fault.strength
        values[:, current] += 20.0 * fault.strength
    return values


def _normal(times: Int64, key: np.uint64) -> Float64:
    """Standard normal noise that depends on the instant and `key` alone (splitmix64, then Box-Muller)."""
    with np.errstate(over="ignore"):
        first, second = (_uniform(times.astype(np.uint64) * np.uint64(2) + np.uint64(i), key) for i in (0, 1))
    return np.asarray(np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second), np.float64)


def _uniform(x: NDArray[np.uint64], key: np.uint64) -> Float64:
    """In (0, 1]. Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", 2014, figure 16."""
    z = (x ^ key) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.asarray(((z >> np.uint64(11)).astype(np.float64) + 1) / 2**53, np.float64)
