"""Smaller variants of a model, and the decision whether each one is worth shipping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgectl.training.estimators import Fitted
from edgectl_agent.core.batch import Float32
from edgectl_agent.core.bundle import Estimator, Variant

Onset = tuple[str, int]
"""Stream and event time (ns) at which an alert begins."""


@dataclass(frozen=True)
class VariantBuild:
    """One variant's ONNX bytes."""

    variant: Variant
    onnx: bytes


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One variant's numbers on held-out data, and what was decided. ``bytes`` is the ONNX size."""

    variant: Variant
    bytes: int
    p50_us: float
    p99_us: float
    onset_f1: float
    alert_ratio: float
    kept: bool
    why: str


def why_not(estimator: Estimator, variant: Variant) -> str:
    """Why this variant of this estimator is never built; empty if it can be."""
    raise NotImplementedError


def build_variants(
    fp32: bytes, fitted: Fitted, calibration_z: Float32, wanted: tuple[Variant, ...]
) -> tuple[VariantBuild, ...]:
    """fp32 first (always: it is the reference), then the wanted ones that `why_not` does not exclude."""
    raise NotImplementedError


def measure_latency(onnx: bytes, z: Float32, runs: int = 2_000) -> tuple[float, float]:
    """(p50, p99) in µs of scoring one row with the node's own runtime."""
    raise NotImplementedError


def onset_f1(onsets_a: Sequence[Onset], onsets_b: Sequence[Onset], tolerance_ns: int) -> float:
    """F1 of one-to-one matches within ``tolerance_ns`` on the same stream; NaN when both are empty."""
    raise NotImplementedError


def decide(
    variant: Variant,
    *,
    size: int,
    fp32_size: int,
    onset_f1: float,
    alert_ratio: float,
    p99_us: float,
    fp32_p99_us: float,
    max_size: int | None = None,
    max_p99_us: float | None = None,
) -> tuple[bool, str]:
    """Keep a variant? And the sentence that says why, with its numbers."""
    raise NotImplementedError
