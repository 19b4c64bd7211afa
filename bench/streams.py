"""What many streams cost: memory per stream and channel, and the time per reading from 10 streams to 100,000.

The agent's own file source and engine, standard features and autoencoder as in `bench.streaming`, with one reading per
stream and pane: each reading opens panes, the most expensive case. The memory is what the process grows by between
before the first stream and after the last, everything included (names, thresholds, what numpy reserves for growth).
The time is the processor's, on one core.

    python -m bench.streams [--plot FILE.png]
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

from bench import _stream_load as load
from bench._report import record
from bench.streaming import BATCH, busy, pin

COUNTS = (10, 100, 1_000, 10_000, 100_000)
MANY, FEW, CHANNELS = 10_000, 1_000, 8
PANE_MS, WARM_UP = 30_000, 12
STATE_GOAL, SLOWER_GOAL, FLAT_GOAL = 2_000, 2.0, 2.0


def main() -> int:
    """Measure, record, draw."""
    parser = argparse.ArgumentParser(description="What many streams cost.")
    parser.add_argument("--plot", type=Path, help="draw the time per reading into this PNG file")
    plot = parser.parse_args().plot
    pin()
    state, many = grown(MANY, CHANNELS)
    _, few = grown(FEW, CHANNELS)
    met = [
        record("streams.state", round(state), "bytes/stream and channel", better="lower", goal=STATE_GOAL),
        record(
            "streams.10000x8.slowdown", round(many / few, 2), "x", better="lower", goal=SLOWER_GOAL,
            peer=f"1,000 streams x 8: {few:.2f} µs/reading; {busy()}",
        ),
    ]  # fmt: skip
    record("streams.10000x8.cost", round(many, 2), "µs/reading", better="lower")
    costs = {count: grown(count, 4)[1] for count in COUNTS}
    for count, cost in costs.items():
        record(f"streams.cost.{count}", round(cost, 2), "µs/reading", better="lower")
    growth = costs[100_000] / costs[1_000]
    met.append(record("streams.cost.100000_vs_1000", round(growth, 2), "x", better="lower", goal=FLAT_GOAL))
    if plot is not None:
        draw(costs, plot)
    return 0 if all(met) else 1


def grown(streams: int, channels: int) -> tuple[float, float]:
    """Bytes per stream and channel, and µs per reading once the windows are full."""
    rounds = max(4, 60_000 // streams)
    raw = load.bundle(channels, PANE_MS)
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as scratch:
        path = Path(scratch, "load.jsonl")
        load.write(path, streams, WARM_UP + rounds, channels, PANE_MS)
        settle(path, raw, channels)
        engine, source = load.engine(raw), load.source(path, channels)
        before = resident_bytes()
        load.run(source, engine, streams * WARM_UP, BATCH, channels)
        state = (resident_bytes() - before) / streams / channels
        part = streams * rounds // 4
        return state, min(cost(source, engine, part, channels) for _ in range(4))


def cost(source: load.TailSource, engine: load.Engine, readings: int, channels: int) -> float:
    began = time.process_time()
    load.run(source, engine, readings, BATCH, channels)
    return (time.process_time() - began) / readings * 1e6


def settle(path: Path, raw: bytes, channels: int) -> None:
    """Have done once, with another engine, what takes memory but once."""
    load.run(load.source(path, channels), load.engine(raw), 1, 1, channels)
    engine, source = load.engine(raw), load.source(path, channels)
    chunk = source.poll(BATCH, 0.0)
    for _ in range(3):  # all readings of few streams: the scratch arrays of a full batch, hardly any state
        batch = next(engine.batches(chunk, load.channels(channels)))
        engine.process(batch.take(batch.stream < 10), 0, 0, None)
    del engine, source, chunk, batch
    gc.collect()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def draw(costs: dict[int, float], path: Path) -> None:
    """The time per reading over the number of streams."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.plot(list(costs), list(costs.values()), marker="o")
    axes.set(xscale="log", xlabel="streams", ylabel="µs per reading, one core", ylim=(0, 1.3 * max(costs.values())))
    axes.set_title("JSON line → decision, a new pane with every reading")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
