"""Small labelled series for the tests of evaluations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgectl.evaluation.series import Series, Window

MINUTE_NS = 60 * 10**9


def series(
    values: Sequence[float], windows: Sequence[tuple[int, int]] = (), begin: int = 0, name: str = "one",
    every_ns: int = MINUTE_NS,
) -> Series:  # fmt: skip
    """One channel, a reading every minute."""
    column = np.array(values, np.float64)[:, None]
    return Series(
        name=name, channels=("value",), time=np.arange(len(column)) * every_ns, values=column, begin=begin,
        windows=tuple(Window(*one) for one in windows),
    )  # fmt: skip
