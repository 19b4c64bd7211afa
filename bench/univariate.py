"""What the detector without training costs: per reading in batches of many streams, on one long stream, in memory.

Noise with a daily rhythm, in batches of a reading of each of 1,000 streams, and 1,000 readings of one. The time is the
thread's on one core, the lowest of some rounds.

    python -m bench.univariate
"""

from __future__ import annotations

import sys

import numpy as np
from edgectl_agent.core.bundle import Records
from edgectl_agent.core.univariate import Univariate

from bench._clock import best
from bench._report import record

STREAMS, BATCH, BATCHES, ROUNDS, WARM = 1_000, 1_000, 20, 8, 300
MANY_GOAL, ONE_GOAL, STATE_GOAL = 3.0, 5.0, 2_000
STEP_S = 60.0


def main() -> int:
    """Measure and record."""
    many, one = cost(np.arange(STREAMS)), cost(np.zeros(BATCH, np.int64))
    met = [
        record("univariate.1000_streams", round(many, 3), "µs/reading", better="lower", goal=MANY_GOAL),
        record("univariate.one_stream", round(one, 3), "µs/reading", better="lower", goal=ONE_GOAL),
        record("univariate.state", fresh().bytes_per_series, "bytes/stream and channel", better="lower",
               goal=STATE_GOAL),
    ]  # fmt: skip
    return 0 if all(met) else 1


def fresh() -> Univariate:
    return Univariate(Records(), 0.1, 0.01)


def cost(series: np.ndarray) -> float:
    """µs per reading of batches that bring these series' readings."""
    rng, detector, sent = np.random.default_rng(1), fresh(), 0
    longest = int(np.bincount(series).max())

    def run() -> int:
        nonlocal sent
        for _ in range(BATCHES):
            number = sent + (np.arange(len(series)) if longest > 1 else np.zeros(len(series)))
            time_s = number * STEP_S
            value = 10 * np.sin(time_s / 86400 * 2 * np.pi) + rng.normal(size=len(series))
            detector.push(series, time_s, value)
            sent += longest
        return BATCHES * len(series)

    while sent < WARM:
        run()
    return 1e6 / best(run, ROUNDS)


if __name__ == "__main__":
    sys.exit(main())
