"""A history → features and their scaling, as training sees them: by the node's own code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.bundle import FeatureSpec, Scaler
from edgectl_agent.core.features import FeatureBuilder, Int8
from edgectl_agent.core.join import unjoined
from edgectl_agent.core.reorder import arranged

from edgectl.training.replay import CHUNK
from edgectl.training.tables import Table

_LEAST_SHARE_OF_STD = 0.5
"""Lower bound of a feature's scale in standard deviations: the middle half of a feature that mostly rests says nothing
about how far it moves when it does."""


def features_of(
    spec: FeatureSpec, table: Table, tell: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Float64, Int8]:
    """Features of all readings, in batches of bounded size, and each reading's status."""
    builder = FeatureBuilder(spec)
    n = len(table)
    x, status = np.empty((n, len(builder.names))), np.empty(n, np.int8)
    batches = (table.batch(slice(at, at + CHUNK)) for at in range(0, n, CHUNK))
    done = 0
    for batch, place in arranged(unjoined(spec), batches):
        rows = builder.push(batch)
        x[place], status[place] = rows.x, rows.status
        done += len(batch)
        tell(done, n)
    return x, status


def fit_scaler(x: Float64, clip: float | None = None) -> Scaler:
    """Median and spread of each feature, in float64.

    The spread is the interquartile range as a normal distribution's deviation, or half the standard deviation if that
    is more; of a constant feature, a tenth of its value, or 1.

    Args:
        x: shape (n, F), NaN = missing.
        clip: how many spreads a feature counts at most; None for the format's default.
    """
    centers, scales = [], []
    for column in x.T:
        some = column[~np.isnan(column)]
        low, center, high = np.percentile(some, [25, 50, 75]) if len(some) else (0.0, 0.0, 0.0)
        spread = float(some.std()) if len(some) else 0.0
        if spread <= 1e-12 * max(1.0, abs(center)):
            scale = abs(center) / 10 or 1.0
        else:
            scale = max((high - low) / 1.349, _LEAST_SHARE_OF_STD * spread)
        centers.append(float(center))
        scales.append(float(scale))
    limit = {} if clip is None else {"clip": clip}
    return Scaler(center=tuple(centers), scale=tuple(scales), **limit)
