"""What two recipes over one source share, and what they would save if they shared their windows as well.

1,000 streams of four channels, standard features and an autoencoder; the source is decoded once for all its recipes, as
on a node. By processor time, in one run. docs/adr/0014 says what follows from it.

    python -m bench.sharing
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

from edgectl_agent.config import Batching
from edgectl_agent.core import bundle as bundles
from edgectl_agent.core.features import FeatureBuilder

from bench import _stream_load as load
from bench._report import record

STREAMS, ROUNDS = 1_000, 60
BATCH = Batching().max


def main() -> int:
    raw = load.bundle()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "load.jsonl")
        load.write(path, STREAMS, load.WARM_UP + ROUNDS)
        spent = measured(raw, path)
    decode, features, engine = (1e6 * seconds / (STREAMS * ROUNDS) for seconds in spent)
    both = decode + 2 * engine
    record("sharing.decode", round(decode, 2), "µs", better="lower")
    record("sharing.features", round(features, 2), "µs", better="lower")
    record("sharing.one_recipe", round(decode + engine, 2), "µs", better="lower")
    record("sharing.two_recipes", round(both, 2), "µs", better="lower", peer="decoded once")
    record("sharing.windows_would_save", round(100 * features / both, 1), "%", better="lower", peer="of two recipes")
    return 0


def measured(raw: bytes, path: Path) -> tuple[float, float, float]:
    """Seconds of decoding, of the features alone, and of a whole engine (features, model, thresholds)."""
    source, engine = load.source(path), load.engine(raw)
    builder = FeatureBuilder(bundles.decode(raw).features)
    spent, read = [0.0, 0.0, 0.0], 0
    while read < STREAMS * (load.WARM_UP + ROUNDS):
        at = time.thread_time()
        chunk = source.poll(BATCH, 0.0)
        decoded = time.thread_time()
        (batch,) = engine.batches(chunk, load.channels(4))
        began = time.thread_time()
        builder.push(batch)
        built = time.thread_time()
        engine.process(batch, chunk.accepted_ns, chunk.accepted_ns, None)
        if read >= STREAMS * load.WARM_UP:
            for i, seconds in enumerate((decoded - at, built - began, time.thread_time() - built)):
                spent[i] += seconds
        read += len(chunk)
    return spent[0], spent[1], spent[2]


if __name__ == "__main__":
    sys.exit(main())
