"""What many cards cost with the recipe `transactions`: bytes and time per record from 1,000 cards to 100,000.

The engine alone, on records as a decoder gives them: one record per card and day, in batches of 10,000, so that each
opens new panes. The time is the processor's, on one core, behind the warm-up; the bytes are what a process of its own
grows by and what it held at its peak.

    python -m bench.cards
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
from edgectl_agent.core.batch import StreamTable
from edgectl_agent.core.units import DAY_NS, SECOND_NS
from edgectl_agent.engine import Engine
from edgectl_agent.sources.interface import Chunk

from bench._report import record
from bench.streaming import pin

COUNTS = (1_000, 10_000, 100_000)
BATCH = 10_000
WARM_UP_DAYS, DAYS = 15, 3
START_NS = 1_767_225_600 * SECOND_NS


def main() -> int:
    """Measure and record."""
    pin()
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as scratch:
        raw = trained(Path(scratch))
    spawn = multiprocessing.get_context("spawn")
    for cards in COUNTS:
        with ProcessPoolExecutor(1, mp_context=spawn) as alone:
            cost_us, grown, peak = alone.submit(measured, raw, cards).result()
        record(f"cards.cost.{cards}", round(cost_us, 2), "µs/record", better="lower")
        record(f"cards.state.{cards}", round(grown / cards), "bytes/card", better="lower")
        record(f"cards.peak.{cards}", round(peak / 1e6), "MB", better="lower")
    return 0


def trained(folder: Path) -> bytes:
    """The shipped recipe, trained on a small bank."""
    from edgectl.generate.transactions import Bank
    from edgectl.training.pipeline import train
    from edgectl.training.recipe import find
    from edgectl.training.tables import read

    path, recipe = folder / "bank.jsonl", find("transactions", None)
    path.write_text("".join(json.dumps(row) + "\n" for row in Bank(1, 40, START_NS).records(0, 45)))
    return train(recipe, read([path], recipe)).built[0].raw


def measured(raw: bytes, cards: int) -> tuple[float, int, int]:
    """(µs per record, bytes that the cards take, bytes at the peak) of this process."""
    engine = Engine.load(raw, "1", "n1", StreamTable(), cards, lambda seconds: None)
    names = tuple(f"card-{i:06d}" for i in range(cards))
    run(engine, names[:10], 0)
    before = _memory("VmRSS")
    for day in range(WARM_UP_DAYS):
        run(engine, names, day)
    grown = _memory("VmRSS") - before
    spent = [run(engine, names, WARM_UP_DAYS + day) for day in range(DAYS)]
    if not engine.inferences:
        raise RuntimeError("no record was scored")
    return min(spent) / cards * 1e6, grown, _memory("VmHWM")


def run(engine: Engine, names: tuple[str, ...], day: int) -> float:
    """One day: each card's record, in batches. Returns the processor's seconds within the engine."""
    random, spent = np.random.default_rng(day), 0.0
    for at in range(0, len(names), BATCH):
        some = names[at : at + BATCH]
        time_ns = START_NS + day * DAY_NS + np.arange(at, at + len(some)) * (DAY_NS // len(names))
        shops = tuple(f"shop-{shop}" for shop in random.integers(0, 5_000, len(some)).tolist())
        amounts = random.lognormal(3.0, 0.8, (len(some), 1))
        chunk = Chunk(some, time_ns, amounts, {}, 0, texts=(shops, ("FR",) * len(some)))
        began = time.process_time()
        for batch in engine.batches(chunk, ("amount",), ("merchant", "country")):
            engine.process(batch, 0, 0, None)
        spent += time.process_time() - began
    return spent


def _memory(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{what}:"))


if __name__ == "__main__":
    sys.exit(main())
