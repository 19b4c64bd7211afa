"""How sure a figure is: bootstrap over files, and exact intervals of a Poisson count.

Files and not points are drawn, since the points of one file tell the same thing many times.
"""

from __future__ import annotations

import numpy as np
from edgectl_agent.core.batch import Float64

ROUNDS = 1000
Interval = tuple[float, float]


def bootstrap(above: Float64, below: Float64, *, seed: int = 0, rounds: int = ROUNDS, level: float = 0.95) -> Interval:
    """Percentile interval of ``sum(above) / sum(below)`` over files drawn with replacement; equal seeds, equal answers.

    Args:
        above: shape (files,), what each file adds to the figure's numerator.
        below: likewise, to its denominator; a draw in which that is 0 (no labelled window came) is left out.
        seed: of the draws.
        rounds: how many draws.
        level: share of the draws that the interval holds.
    """
    random, n = np.random.default_rng(seed), len(above)
    found = []
    for _ in range(rounds):
        drawn = random.integers(0, n, n)
        if total := float(below[drawn].sum()):
            found.append(float(above[drawn].sum()) / total)
    if not found:
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def poisson(count: int, level: float = 0.95) -> Interval:
    """The rates under which `count` or fewer, and `count` or more, are not rarer than half of ``1 - level``.

    Garwood, "Fiducial Limits for the Poisson Distribution", Biometrika 1936.
    """
    from scipy.special import gammaincinv

    outside = (1 - level) / 2
    low = float(gammaincinv(count, outside)) if count else 0.0
    return low, float(gammaincinv(count + 1, 1 - outside))
