"""The demo's plant, live: a process that appends readings to one file per node until it is ended.

``python -m edgectl.demo.feed FOLDER`` reads ``FOLDER/feed.json`` (`Settings`), appends to ``FOLDER/<node>.jsonl``,
takes orders for faults from ``FOLDER/orders.jsonl`` and writes what it did, with times, to ``FOLDER/faults.jsonl``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.units import iso

from edgectl.demo.latency import Fault
from edgectl.generate import plant

_BLOCK = 240
_LONGEST_S = 12 * 3600
"""A forgotten demo ends by itself."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to write where, and how fast."""

    seed: int
    start_ns: int
    first: int
    """Index of the first live reading; the ones before are the history that the models were trained on."""
    per_second: float
    """Readings per machine and second of real time; a reading is a minute of the plant's time."""
    nodes: dict[str, tuple[str, ...]]
    """Node → its machines."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Faults to come: one per machine in turn, `apart` readings between them, `rounds` times over."""

    kind: plant.Kind
    machines: tuple[str, ...]
    count: int = 1
    rounds: int = 1
    apart: int = 1
    slack: int = 0
    """Readings after a fault's end in which its onset still counts as found."""


def planned(order: Order, first: int) -> tuple[plant.Fault, ...]:
    """The faults of an order that is taken at reading `first`."""
    places = [(r, m) for r in range(order.rounds) for m in order.machines]
    return tuple(
        plant.Fault(machine=machine, kind=order.kind, first=first + i * order.apart, count=order.count)
        for i, (_, machine) in enumerate(places)
    )


class Feed:
    """Writes one reading of every machine per `tick`."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        self._index = settings.first
        self._faults: list[plant.Fault] = []
        self._orders_read = 0
        self._blocks: dict[tuple[str, int], Float64] = {}
        self._node_of = {m: node for node, machines in settings.nodes.items() for m in machines}

    def tick(self) -> None:
        self._take_orders()
        ts = iso(self._settings.start_ns + self._index * plant.STEP_NS)
        for node, machines in self._settings.nodes.items():
            lines = []
            for machine in machines:
                values = map(float, self._values(machine))
                record = {"ts": ts, "machine": machine, **dict(zip(plant.CHANNELS, values, strict=True))}
                lines.append(msgspec.json.encode(record) + b"\n")
            with (self._folder / f"{node}.jsonl").open("ab") as file:
                file.write(b"".join(lines))
        self._index += 1

    def _values(self, machine: str) -> Float64:
        start = self._index - self._index % _BLOCK
        block = self._blocks.get((machine, start))
        if block is None:
            self._blocks = {key: value for key, value in self._blocks.items() if key[1] == start}
            block = plant.readings(self._settings.seed, machine, start, _BLOCK, self._settings.start_ns)
            self._blocks[machine, start] = block
        faults = [f for f in self._faults if f.machine == machine and f.covers(self._index)]
        if faults:
            block = plant.with_faults(block, machine, start, faults)
        row: Float64 = block[self._index - start]
        return row

    def _take_orders(self) -> None:
        orders = self._folder / "orders.jsonl"
        lines = orders.read_bytes().splitlines() if orders.exists() else []
        for line in lines[self._orders_read :]:
            order = msgspec.json.decode(line, type=Order)
            faults = planned(order, self._index + 1)
            self._faults += faults
            with (self._folder / "faults.jsonl").open("ab") as file:
                file.write(b"".join(msgspec.json.encode(self._label(f, order.slack)) + b"\n" for f in faults))
        self._orders_read = len(lines)

    def _label(self, fault: plant.Fault, slack: int) -> Fault:
        at = self._settings.start_ns + fault.first * plant.STEP_NS
        return Fault(
            node=self._node_of[fault.machine],
            stream=fault.machine,
            kind=fault.kind,
            event_ns=at,
            until_ns=at + (fault.count - 1 + slack) * plant.STEP_NS,
        )


def main(folder: Path) -> None:
    """Write at the configured pace; a late tick is made up for."""
    settings = msgspec.json.decode((folder / "feed.json").read_bytes(), type=Settings)
    feed, begin, ticks = Feed(folder, settings), time.monotonic(), 0
    while time.monotonic() - begin < _LONGEST_S:
        feed.tick()
        ticks += 1
        time.sleep(max(0.0, begin + ticks / settings.per_second - time.monotonic()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
