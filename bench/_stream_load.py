"""The load of the streaming benchmarks: a recipe with the standard features, its bundle, and JSON Lines in files.

Each machine is a stream that sends one reading every ten seconds, at its own moment. The window is five minutes of ten
panes, three readings each; with one in 30 s each opens panes anew, the most expensive case.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from edgectl_agent.config import TailConfig
from edgectl_agent.core.batch import Float64, StreamTable
from edgectl_agent.core.units import DAY_NS
from edgectl_agent.engine import Engine
from edgectl_agent.sources.tail import TailSource

from edgectl.generate import plant
from edgectl.training import recipe as recipes
from edgectl.training.pipeline import train
from edgectl.training.tables import Table

START_NS = 20_000 * DAY_NS
START_MS = START_NS // 1_000_000
EVERY_MS = 10_000
WARM_UP = 32
"""Rounds that fill the windows and are not measured."""
SEED = 3
_RECIPE = """\
recipe: standard
stream: machine
time: {{column: ts}}
channels: {{{channels}}}
sampling: {{every: {every}s}}
features:
  - {{of: all, instant: [value, diff]}}
  - {{of: all, window: 5m, stats: [mean, std, min, max, count, sum, slope]}}
  - {{phase: [day]}}
model: {{type: autoencoder, seed: 7}}
alerts: {{budget: {{warning: 1/10d, critical: 1/100d}}}}
"""


@functools.cache
def channels(count: int) -> tuple[str, ...]:
    """Those of the plant, and again with a number behind them."""
    names = plant.CHANNELS * (count // len(plant.CHANNELS))
    return tuple(name if i < len(plant.CHANNELS) else f"{name}_{i}" for i, name in enumerate(names))


@functools.cache
def bundle(count: int = 4, every_ms: int = EVERY_MS) -> bytes:
    """Trained on 2,880 readings of six machines with `count` channels, so far apart."""
    names, machines, readings = channels(count), tuple(f"trained-{i}" for i in range(6)), 2 * 1440
    wide = [_wide(plant.readings(SEED, machine, 0, readings, START_NS), count) for machine in machines]
    table = Table(
        streams=machines,
        stream=np.tile(np.arange(len(machines), dtype=np.int32), readings),
        event_time=np.repeat(START_NS + np.arange(readings) * (every_ms * 1_000_000), len(machines)),
        values=np.stack(wide, axis=1).reshape(-1, count),
    )
    return train(_recipe(names, every_ms), table).built[0].raw


def rounds_of(streams: int, rounds: int, count: int = 4, every_ms: int = EVERY_MS) -> Iterator[list[bytes]]:
    """One reading of every stream per round, as JSON."""
    names = channels(count)
    values = _wide(plant.readings(SEED, "live", 0, rounds, START_NS), count)
    index = np.arange(streams)
    late_ms, spread = (index * (EVERY_MS - 1) // streams).tolist(), 1 + (index % 1000)[:, None] / 1e5
    machines = [f"machine-{i:05}" for i in range(streams)]
    for i in range(rounds):
        rows = np.round(values[i] * spread, 4).tolist()
        at = START_MS + i * every_ms
        records = [
            {"ts": at + late, "machine": machine, **dict(zip(names, row, strict=True))}
            for late, machine, row in zip(late_ms, machines, rows, strict=True)
        ]
        yield list(map(msgspec.json.encode, records))


def write(path: Path, streams: int, rounds: int, count: int = 4, every_ms: int = EVERY_MS) -> None:
    """`rounds_of` as JSON Lines."""
    with path.open("wb") as file:
        for lines in rounds_of(streams, rounds, count, every_ms):
            file.write(b"\n".join([*lines, b""]))


def source(path: Path, count: int = 4) -> TailSource:
    """The agent's own reader of such a file, open."""
    names = channels(count)
    found = TailSource(
        TailConfig(
            path=str(path), stream="machine", time="ts", channels=dict(zip(names, names, strict=True)), live=False
        )
    )
    found.open(None)
    return found


def engine(raw: bytes, observe: Callable[[float], None] = lambda _: None) -> Engine:
    """The agent's own engine."""
    return Engine.load(raw, "1.0.0", "n1", StreamTable(), 1_000_000, observe)


def run(reader: TailSource, at_work: Engine, readings: int, size: int, count: int = 4) -> None:
    """What the worker does with `readings` readings of a file, in batches of at most `size`."""
    names = channels(count)
    while readings > 0:
        chunk = reader.poll(min(size, readings), 0.0)
        readings -= len(chunk)
        for batch in at_work.batches(chunk, names):
            at_work.process(batch, chunk.accepted_ns, chunk.accepted_ns, None)


def _wide(values: Float64, count: int) -> Float64:
    return np.concatenate([values + 0.1 * i for i in range(count // values.shape[1])], axis=1)


def _recipe(names: tuple[str, ...], every_ms: int) -> recipes.Recipe:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "recipe.yaml")
        path.write_text(_RECIPE.format(channels=", ".join(f"{name}: {{}}" for name in names), every=every_ms // 1000))
        return recipes.load(path)
