"""How many readings per second this machine takes with a bundle, how long one alone takes, and how near that is to the
limit: msgspec decodes the same lines and ONNX Runtime scores rows in full batches, and nothing else is done.

The node's own code runs: decoder, windows, model, thresholds. One thread, no files, no network; the warm-up of the
recipe is left out so that each reading is scored, and no score is high enough for an alert, which is how nodes spend
their time.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from edgectl_agent.config import Batching
from edgectl_agent.core import bundle as bundles
from edgectl_agent.core.batch import StreamTable
from edgectl_agent.engine import Engine
from edgectl_agent.inference import Model
from edgectl_agent.sources.decode import JsonDecoder
from edgectl_agent.sources.interface import Chunk

from edgectl.measuring import load

_WARM_UP_ROUNDS = 12
_UNREACHED = 1e12
"""A base level of thresholds that no score exceeds."""
_LEAST = 3
_LONE = 400
Tick = Callable[[float], None]


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. Times per reading are processor time, those of a lone reading the clock's."""

    recipe: str
    variant: str
    bundle: str
    streams: int
    channels: int
    features: int
    readings_per_s: float
    reading_us: float
    limit_us: float
    share_of_limit: float
    lone_p50_us: float
    lone_p99_us: float
    model_us: float
    """Median of a bare call of the model with one row."""
    state_bytes: int
    """Of the windows, per stream."""
    cores: int
    load: float
    """The machine's load average of the last minute: what else ran."""


def measure(raw: bytes, streams: int, for_s: float, tick: Tick) -> Speed:
    """Measure a bundle for about `for_s` seconds; ``tick(share)`` is called as it gets on.

    Raises:
        TrustError: the bytes are no bundle; as `AdmissionError`: this machine does not run it as it must.
    """
    bundle = bundles.decode(raw)
    spec = msgspec.structs.replace(bundle.features, warm_up_ns=0, gap_after_ns=0)
    tail = msgspec.structs.replace(bundle.tail, base=_UNREACHED)
    raw_open = bundles.encode(msgspec.structs.replace(bundle, features=spec, tail=tail))
    engine = Engine.load(raw_open, "0.0.0", "bench", StreamTable(), streams, lambda _: None)
    runner = _Runner(engine, bundle)
    lines = itertools.chain.from_iterable(load.rounds(bundle, streams))
    runner.take(list(itertools.islice(lines, streams * _WARM_UP_ROUNDS)))
    reading_us, limit_us = _throughput(runner, _Limit(bundle), lines, for_s, tick)
    lone, bare = _lone(runner, Model(bundle.model), len(bundle.feature_names), lines)
    tick(1.0)
    p50, p99 = np.quantile(lone, [0.5, 0.99]).tolist()
    return Speed(
        recipe=bundle.recipe,
        variant=bundle.variant,
        bundle=bundles.digest(raw),
        streams=streams,
        channels=len(spec.channels),
        features=len(bundle.feature_names),
        readings_per_s=round(1e6 / reading_us),
        reading_us=round(reading_us, 3),
        limit_us=round(limit_us, 3),
        share_of_limit=round(limit_us / reading_us, 3),
        lone_p50_us=round(p50, 1),
        lone_p99_us=round(p99, 1),
        model_us=round(bare, 1),
        state_bytes=engine.detector.bytes_per_stream,
        cores=os.cpu_count() or 1,
        load=round(os.getloadavg()[0], 1),
    )


class _Runner:
    """Lines through decoder and engine, as the agent's worker passes them."""

    def __init__(self, engine: Engine, bundle: bundles.Bundle) -> None:
        self._engine, self._fields = engine, load.fields(bundle)
        self._decoder = JsonDecoder(self._fields)
        self._size = Batching().max

    def take(self, lines: list[bytes]) -> None:
        channels, categories = tuple(self._fields.channels), tuple(self._fields.categories)
        for at in range(0, len(lines), self._size):
            found = self._decoder.decode(lines[at : at + self._size])
            chunk = Chunk(found.streams, found.event_time, found.values, {}, 0, texts=found.texts)
            for batch in self._engine.batches(chunk, channels, categories):
                self._engine.process(batch, 0, 0, None)


class _Limit:
    """Decoding and the model, and nothing else."""

    def __init__(self, bundle: bundles.Bundle) -> None:
        spec = bundle.features
        values = msgspec.defstruct("Values", [(f"c{i}", float) for i in range(len(spec.channels))], gc=False)
        texts = msgspec.defstruct("Texts", [(f"c{i}", str) for i in range(len(spec.categories))], gc=False)
        row = [("time", int), ("stream", str), ("v", values), ("k", texts)]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Row", row, gc=False)).decode
        self._model, self._size = Model(bundle.model), Batching().max
        width = len(bundle.feature_names)
        self._rows = np.random.default_rng(1).normal(size=(self._size, width)).astype(np.float32)

    def take(self, lines: list[bytes]) -> None:
        for at in range(0, len(lines), self._size):
            some = lines[at : at + self._size]
            list(map(self._decode, some))
            self._model.score(self._rows[: len(some)])


def _throughput(
    runner: _Runner, limit: _Limit, lines: Iterator[bytes], for_s: float, tick: Tick
) -> tuple[float, float]:
    """µs of processor time per reading, of the node's code and of the limit, in turns; the lowest of each."""
    ours: list[float] = []
    bound: list[float] = []
    began = time.monotonic()
    while (spent := time.monotonic() - began) < for_s or len(ours) < _LEAST:
        some = list(itertools.islice(lines, 4 * Batching().max))
        ours.append(_cost(runner.take, some))
        bound.append(_cost(limit.take, some))
        tick(min(spent / for_s, 0.95) if for_s else 0.95)
    return min(ours), min(bound)


def _cost(take: Callable[[list[bytes]], None], lines: list[bytes]) -> float:
    began = time.process_time()
    take(lines)
    return (time.process_time() - began) / len(lines) * 1e6


def _lone(runner: _Runner, model: Model, width: int, lines: Iterator[bytes]) -> tuple[list[float], float]:
    """µs of one reading at a time, from its line to the decision; and the median of the bare model."""
    spent, bare = [], []
    row = np.zeros((1, width), np.float32)
    for line in list(itertools.islice(lines, _LONE)):
        began = time.perf_counter()
        runner.take([line])
        spent.append((time.perf_counter() - began) * 1e6)
    for _ in range(_LONE):
        began = time.perf_counter()
        model.score(row)
        bare.append((time.perf_counter() - began) * 1e6)
    return spent, statistics.median(bare)


def render(speed: Speed) -> str:
    """For people."""
    return "\n".join(
        [
            f"{speed.recipe} {speed.variant} · {speed.streams:,} streams x {speed.channels} channels · "
            f"{speed.features} features · load {speed.load:g} on {speed.cores} cores",
            f"THROUGHPUT    {speed.readings_per_s:,.0f} readings/s on one core ({speed.reading_us:.2f} µs each)",
            f"LIMIT         {speed.share_of_limit:.0%} of decoding and the model alone ({speed.limit_us:.2f} µs)",
            f"LONE READING  p50 {speed.lone_p50_us:,.0f} µs · p99 {speed.lone_p99_us:,.0f} µs · "
            f"bare model {speed.model_us:.0f} µs",
            f"STATE         {speed.state_bytes:,} bytes of windows per stream",
        ]
    )
