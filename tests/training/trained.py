"""Real data and models for the tests of training: a plant whose channels follow a few hidden causes, with faults."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
from edgectl_agent.core.batch import Float32, Int64
from edgectl_agent.core.bundle import Estimator, Variant

from edgectl.training.estimators import Fitted, fit
from edgectl.training.export import to_onnx
from edgectl.training.quantize import build_variants, why_not

KINDS: tuple[Estimator, ...] = ("pca", "isolation-forest", "autoencoder", "kmeans", "robust-covariance")
VARIANTS: tuple[Variant, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Plant:
    """Standardised rows: ``train`` is usual, ``live`` has one fault of 20 rows at each index of ``faults``."""

    train: Float32
    live: Float32
    faults: Int64


@cache
def plant(width: int, rows: int = 6_000, seed: int = 0) -> Plant:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(max(2, width // 30), width))
    raw = np.tanh(rng.normal(size=(2 * rows, len(mixing))) @ mixing) + 0.3 * rng.normal(size=(2 * rows, width))
    z = ((raw - raw[:rows].mean(0)) / raw[:rows].std(0)).astype(np.float32)
    live, faults = z[rows:].copy(), np.arange(50, rows - 50, 100)
    for at in faults:
        broken = rng.choice(width, max(2, width // 10), replace=False)
        live[at : at + 20, broken] += rng.choice([-6, 6], len(broken)).astype(np.float32)
    return Plant(z[:rows], live, faults)


_INSIDE: dict[str, Estimator] = {"pca-inside": "pca", "autoencoder-inside": "autoencoder"}
SMALL: dict[Estimator, dict[str, int | float]] = {
    "pca": {},
    "isolation-forest": {"trees": 30, "samples": 128},
    "autoencoder": {"epochs": 15},
    "kmeans": {"clusters": 8},
    "robust-covariance": {},
}
LARGE: dict[str, int | float] = {"hidden": 0, "bottleneck": 64, "epochs": 30}


@cache
def small(kind: Estimator) -> Fitted:
    """A model of 12 features."""
    return fit(kind, plant(12).train, seed=3, params=SMALL[kind], progress=lambda done, total: None)


@cache
def large_autoencoder() -> Fitted:
    """A model of 256 features, 130 kB."""
    return fit("autoencoder", plant(256).train, seed=3, params=LARGE, progress=lambda done, total: None)


@cache
def with_inside(kind: Estimator) -> Fitted:
    """As `small`, and the position inside the model counts too."""
    return fit(kind, plant(12).train, seed=3, params={**SMALL[kind], "inside": 0.3}, progress=lambda done, total: None)


@cache
def variants(fitted: Fitted) -> dict[Variant, bytes]:
    builds = build_variants(to_onnx(fitted), fitted, plant(fitted.width).train, VARIANTS)
    return {b.variant: b.onnx for b in builds}


def all_exports() -> list[tuple[str, Variant]]:
    """(model name, variant) of everything that training can export; `exported` gives the bytes."""
    pairs: list[tuple[str, Variant]] = [(kind, variant) for kind in KINDS for variant in VARIANTS]
    pairs = [(kind, variant) for kind, variant in pairs if not why_not(cast(Estimator, kind), variant)]
    return [*pairs, *((name, variant) for name in ("large-autoencoder", *_INSIDE) for variant in VARIANTS)]


def exported(name: str, variant: Variant) -> tuple[Fitted, bytes]:
    if name == "large-autoencoder":
        fitted = large_autoencoder()
    else:
        fitted = with_inside(_INSIDE[name]) if name in _INSIDE else small(cast(Estimator, name))
    return fitted, variants(fitted)[variant]
