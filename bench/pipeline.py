"""A node's own cost per reading: features against a plain-Python loop with deques, and the whole detector.

The shipped `plant` recipe, trained here: 4 channels, values, differences, means and deviations over 10 minutes, time of
day. Readings come once a minute, so that each opens a pane (the windows' most expensive case), and once a second. The
peer keeps running sums per stream and channel and does one reading at a time; its results are checked against ours
first. µs of processor time per reading, lower decile.

    python -m bench.pipeline
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from edgectl_agent.core import bundle as bundles
from edgectl_agent.core.batch import Batch, StreamTable
from edgectl_agent.core.detector import Detector
from edgectl_agent.core.features import FeatureBuilder
from edgectl_agent.core.units import DAY_NS, SECOND_NS
from edgectl_agent.inference import Model

from bench._report import record
from edgectl.generate import plant
from edgectl.training import recipe as recipes
from edgectl.training.pipeline import train
from edgectl.training.tables import Table

STREAMS = 1_000
MINUTE_NS = 60 * SECOND_NS
START_NS = 20_000 * DAY_NS
SEED = 3


class Deques:
    """What `plant` asks for, one reading at a time, with the pane granularity of our windows."""

    def __init__(self) -> None:
        self._streams: dict[int, list[Rolling]] = {}

    def push(self, stream: int, at_ns: int, values: tuple[float, ...]) -> list[float]:
        channels = self._streams.get(stream)
        if channels is None:
            channels = self._streams[stream] = [Rolling() for _ in values]
        instant, window = [], []
        for channel, value in zip(channels, values, strict=True):
            instant += [value, value - channel.last]
            window += channel.push(at_ns // MINUTE_NS, value)
        angle = 2 * math.pi * (at_ns % DAY_NS // MINUTE_NS) / 1440
        return [*instant, *window, math.sin(angle), math.cos(angle)]


class Rolling:
    """Mean and deviation of the last ten minutes by running sums about the first value."""

    def __init__(self) -> None:
        self.last = math.nan
        self._held: deque[tuple[int, float]] = deque()
        self._sum = self._square = self._reference = 0.0

    def push(self, minute: int, value: float) -> tuple[float, float]:
        if not self._held:
            self._reference = value
        x = value - self._reference
        held = self._held
        held.append((minute, x))
        self._sum += x
        self._square += x * x
        while held[0][0] <= minute - 10:
            _, old = held.popleft()
            self._sum -= old
            self._square -= old * old
        self.last = value
        mean = self._sum / len(held)
        return self._reference + mean, math.sqrt(max(self._square / len(held) - mean * mean, 0.0))


def main() -> int:
    """Check equality, measure, record."""
    bundle = bundles.decode(trained())
    for every_ns in (MINUTE_NS, SECOND_NS):
        check_equal(FeatureBuilder(bundle.features), every_ns)
    for name, every_ns in (("pane_each", MINUTE_NS), ("second_each", SECOND_NS)):
        shapes = {
            "1000_streams": rounds(STREAMS, 60, every_ns),
            "long_stream": long(60_000, 2_048, every_ns),
            "batch_of_one": long(1_500, 1, every_ns),
        }
        for shape, batches in shapes.items():
            compare(f"pipeline.{shape}.{name}", bundle, batches)
    return 0


def trained() -> bytes:
    """A bundle of the `plant` recipe from two days of six machines."""
    machines, minutes = tuple(f"machine-{i}" for i in range(6)), 2 * 1440
    values = [plant.readings(SEED, machine, 0, minutes, START_NS) for machine in machines]
    table = Table(
        streams=machines,
        stream=np.tile(np.arange(len(machines), dtype=np.int32), minutes),
        event_time=np.repeat(START_NS + np.arange(minutes) * plant.STEP_NS, len(machines)),
        values=np.stack(values, axis=1).reshape(-1, len(plant.CHANNELS)),
    )
    return train(recipes.find("plant", None), table).built[0].raw


def rounds(streams: int, count: int, every_ns: int) -> list[Batch]:
    """One reading of every stream per batch."""
    values = plant.readings(SEED, "live", 0, count, START_NS)
    index = np.arange(streams, dtype=np.int32)
    spread = 1 + index[:, None] / 1e5
    return [Batch(index, np.full(streams, START_NS + i * every_ns), values[i] * spread) for i in range(count)]


def long(count: int, size: int, every_ns: int) -> list[Batch]:
    """One stream in batches of `size`."""
    values = plant.readings(SEED, "live", 0, count, START_NS)
    time_ns = START_NS + np.arange(count) * every_ns
    parts = [slice(at, min(at + size, count)) for at in range(0, count, size)]
    return [Batch(np.zeros(len(time_ns[p]), np.int32), time_ns[p], values[p]) for p in parts]


def check_equal(builder: FeatureBuilder, every_ns: int) -> None:
    """Both give the same features, but for what running sums lose."""
    peer = Deques()
    for batch in rounds(5, 1_300, every_ns):
        ours = builder.push(batch).x
        theirs = np.array([peer.push(*reading) for reading in readings(batch)])
        if not np.allclose(ours, theirs, rtol=0, atol=1e-6, equal_nan=True):
            raise SystemExit(f"features differ by up to {np.nanmax(np.abs(ours - theirs))} in {builder.names}")


def readings(batch: Batch) -> list[tuple[int, int, tuple[float, ...]]]:
    """As a loop would receive them."""
    return list(zip(batch.stream.tolist(), batch.event_time.tolist(), map(tuple, batch.values.tolist()), strict=True))


def compare(name: str, bundle: bundles.Bundle, batches: list[Batch]) -> None:
    """Features against the loop, then all that a node does with a batch."""
    builder, peer, model = FeatureBuilder(bundle.features), Deques(), Model(bundle.model)
    streams = StreamTable([str(i) for i in range(STREAMS)])
    detector = Detector(bundle, node="n1", version="1.0.0", digest="0" * 64, streams=streams, score=model.score)
    loops = [readings(batch) for batch in batches]
    n = len(batches[0])
    features = cost(lambda i: builder.push(batches[i]), len(batches), n)
    loop = cost(lambda i: [peer.push(*reading) for reading in loops[i]], len(batches), n)
    whole = cost(lambda i: detector.process(batches[i], 0, 0), len(batches), n)
    against = f"plain-Python deques: {loop:.2f} µs, {loop / features:.2f}x"
    record(f"{name}.features", round(features, 3), "µs/reading", better="lower", peer=against)
    record(f"{name}.detector", round(whole, 3), "µs/reading", better="lower")


def cost(run: Callable[[int], object], batches: int, readings: int) -> float:
    """µs per reading once the windows are full, lower decile: the rest is what other work on the machine adds."""
    spent = []
    for i in range(batches):
        began = time.thread_time_ns()
        run(i)
        spent.append((time.thread_time_ns() - began) / 1e3 / readings)
    return float(np.quantile(spent[batches // 3 : -1], 0.1))


if __name__ == "__main__":
    sys.exit(main())
