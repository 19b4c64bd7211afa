"""How sure a figure is: bootstrap over files, and exact intervals of a Poisson count.

Files and not points are drawn, since the points of one file tell the same thing many times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
ROUNDS = 1000
Interval = tuple[float, float]


def bootstrap(
    parts: Sequence[T],
    figure: Callable[[Sequence[T]], float],
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of `figure` over files drawn with replacement; equal seeds give equal intervals.

    Args:
        parts: what each file contributes.
        figure: of any selection of files; where it is NaN (no labelled window was drawn) the draw is left out.
        seed: of the draws.
        rounds: how many draws.
        level: share of the draws that the interval holds.
    """
    random = np.random.default_rng(seed)
    found = [figure([parts[i] for i in random.integers(0, len(parts), len(parts))]) for _ in range(rounds)]
    some = np.array([one for one in found if not np.isnan(one)])
    if not len(some):
        return float("nan"), float("nan")
    low, high = np.quantile(some, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def poisson(count: int, level: float = 0.95) -> Interval:
    """The rates under which `count` or fewer, and `count` or more, are not rarer than half of ``1 - level``.

    Garwood, "Fiducial Limits for the Poisson Distribution", Biometrika 1936.
    """
    from scipy.special import gammaincinv

    outside = (1 - level) / 2
    low = float(gammaincinv(count, outside)) if count else 0.0
    return low, float(gammaincinv(count + 1, 1 - outside))
