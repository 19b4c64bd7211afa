"""Fits the detectors: standardised features in, an estimator whose score is higher for stranger rows out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgectl_agent.core.batch import Float32, Float64, Int64
from edgectl_agent.core.bundle import Estimator

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Param:
    """One number that a recipe may set under ``model``; ``low`` and ``high`` are inclusive."""

    kind: type[int] | type[float]
    low: float
    high: float
    meaning: str


PARAMS: Mapping[Estimator, Mapping[str, Param]] = {
    "pca": {
        "explained": Param(float, 0.01, 0.999999, "share of the variance that the retained subspace explains"),
        "components": Param(int, 1, 100_000, "size of the retained subspace, instead of `explained`"),
    },
    "isolation-forest": {
        "trees": Param(int, 1, 2_000, "number of trees"),
        "samples": Param(int, 2, 65_536, "rows that each tree sees"),
    },
    "autoencoder": {
        "hidden": Param(int, 0, 4_096, "width of the layers around the bottleneck; 0 for none"),
        "bottleneck": Param(int, 1, 4_096, "width of the innermost layer"),
        "epochs": Param(int, 1, 10_000, "passes over the data at most"),
        "batch": Param(int, 8, 65_536, "rows per step"),
        "learning_rate": Param(float, 1e-6, 1.0, "step size of Adam"),
    },
}


@dataclass(frozen=True)
class Fitted:
    """A trained estimator of ``width`` features; `model` is scikit-learn's own object."""

    estimator: Estimator
    model: Any
    width: int

    def score(self, z: Float32) -> Float64:
        """Scores by scikit-learn: the reference that the exported graph must reproduce. Shape (n,)."""
        raise NotImplementedError


def fit(kind: Estimator, z: Float32, *, seed: int, params: Mapping[str, int | float], progress: Progress) -> Fitted:
    """Train on standardised features ``z`` (n, F) with one BLAS thread; equal inputs give equal models.

    ``progress(done, total)`` is called after each unit of work; KeyboardInterrupt passes through.

    Raises:
        ConfigError: an unknown or impossible parameter, too few rows.
    """
    raise NotImplementedError


def pick_golden_rows(z: Float32, scores: Float32, rows: int = 64) -> Int64:
    """Indexes of at most `rows` distinct rows, evenly spaced by rank of score: lowest and highest included."""
    raise NotImplementedError
