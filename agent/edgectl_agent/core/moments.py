"""Cells of readings, and the moments that they are merged by; as planes, shape (fields, channels, n).

Cells merge by the pairwise update of Chan, Golub & LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
Sample Variances", 1979, formula 2.1. Merging with an empty one gives the other to the last bit.
"""

from __future__ import annotations

import numpy as np

from edgectl_agent.core.arrays import planes
from edgectl_agent.core.batch import Float64

COUNT, SUM, SQUARE, T1, T2, TX, REFERENCE, MIN, MAX = range(9)
ADDED = 6
"""The first so many fields of a cell are sums."""
CELL = np.array([0, 0, 0, 0, 0, 0, 0, np.inf, -np.inf])
"""The cell of no value."""
N, MEAN, T_MEAN, M2, TT, TT_X, LOW, HIGH = range(8)
NOTHING = np.array([0, 0, 0, 0, 0, 0, np.inf, -np.inf])
"""`Moments` of no value, in the order of state: means together and sums of squares together merge in fewer steps."""
MOMENTS = [N, MEAN, M2, LOW, HIGH, T_MEAN, TT, TT_X]
"""Where state has each field of `Moments`."""


def planes_of(rows: Float64, channels: int) -> Float64:
    """Rows of state, shape (m, fields * c) → (fields, c, m)."""
    found = planes(rows.shape[1] // channels, channels, len(rows))
    found[:] = rows.T.reshape(found.shape)
    return found


def rows_of(moments: Float64) -> Float64:
    """Planes of shape (fields, c, m) → rows of state, (m, fields * c)."""
    fields, channels, m = moments.shape
    return moments.reshape(fields * channels, m).T


def moments_of(cells: Float64) -> Float64:
    """Moments of cells, shape (fields, c, n), with times from the pane's begin."""
    s1, t1 = cells[SUM], cells[T1]
    found = planes(len(NOTHING), *cells.shape[1:])
    some = np.maximum(cells[COUNT], 1.0)
    x_mean, t_mean = s1 / some, np.divide(t1, some, out=found[T_MEAN])
    found[N], found[LOW], found[HIGH] = cells[COUNT], cells[MIN], cells[MAX]
    np.add(cells[REFERENCE], x_mean, out=found[MEAN])  # of an empty cell both are 0
    np.subtract(cells[SQUARE], s1 * x_mean, out=found[M2])
    np.subtract(cells[T2], t1 * t_mean, out=found[TT])
    np.subtract(cells[TX], t1 * x_mean, out=found[TT_X])
    for field in (M2, TT):
        np.maximum(found[field], 0.0, out=found[field])
    return found


def merge(into: Float64, later: Float64) -> None:
    """Add `later`; both have the shape (fields, c, n). Merging with an empty one gives the other to the last bit."""
    n = into[N] + later[N]
    share = later[N] / np.maximum(n, 1.0)
    weight = into[N] * share
    means, squares = slice(MEAN, T_MEAN + 1), slice(M2, TT_X + 1)
    distance = later[means] - into[means]
    products = planes(3, *n.shape)
    np.multiply(distance, distance, out=products[:2])
    np.multiply(distance[1], distance[0], out=products[2])
    products *= weight
    distance *= share
    into[N] = n
    into[means] += distance
    into[squares] += later[squares]
    into[squares] += products
    np.minimum(into[LOW], later[LOW], out=into[LOW])
    np.maximum(into[HIGH], later[HIGH], out=into[HIGH])


def shift(moments: Float64, seconds: Float64 | float) -> None:
    """Count their times from so much earlier."""
    np.add(moments[T_MEAN], seconds, out=moments[T_MEAN], where=moments[N] > 0)
