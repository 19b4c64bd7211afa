"""Smaller variants of a model, and the decision whether each one is worth shipping.

A variant must be smaller, must raise the same alerts on held-out data, and must not be much slower. Agreement is over
alert onsets, never over readings: a model that never alerts agrees on nearly all of those.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from edgectl_agent.core.batch import Float32
from edgectl_agent.core.bundle import Estimator, Variant
from edgectl_agent.inference import Model

from edgectl.training import qdq
from edgectl.training.estimators import Fitted

Onset: TypeAlias = tuple[str, int]
"""Stream and event time (ns) at which an alert begins."""

MIN_ONSET_F1 = 0.98
ALERT_RATIO = (0.9, 1.1)
MAX_SIZE_RATIO = 0.9
"""A variant that saves less is not worth a second file to sign, ship and explain."""
_SLOWER, _SLOWER_US = 2.0, 50.0
"""Latency on a shared machine is noise up to this factor and this much on top."""
_OVER_LIMIT = 1.2
_CALIBRATION_ROWS = 4096


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
    if estimator == "online" and variant != "fp32":
        return f"it learns on the node and has no weights to store as {variant}"
    if estimator == "isolation-forest" and variant != "fp32":
        return f"trees compare and add, they have no matrices to store as {variant}; fewer trees make them smaller"
    if estimator == "kmeans" and variant == "int8":
        return "distances to centroids are differences, and an 8-bit difference has lost what is small"
    return ""


def build_variants(
    fp32: bytes, fitted: Fitted, calibration_z: Float32, wanted: tuple[Variant, ...]
) -> tuple[VariantBuild, ...]:
    """fp32 first (always: it is the reference), then the wanted ones that `why_not` does not exclude."""
    builds = [VariantBuild("fp32", fp32)]
    if "fp16" in wanted and not why_not(fitted.estimator, "fp16"):
        builds.append(VariantBuild("fp16", qdq.half_storage(fp32)))
    if "int8" in wanted and not why_not(fitted.estimator, "int8"):
        stride = -(-len(calibration_z) // _CALIBRATION_ROWS)
        builds.append(VariantBuild("int8", qdq.int8(fp32, np.ascontiguousarray(calibration_z[::stride]))))
    return tuple(builds)


def measure_latency(
    onnx: bytes, z: Float32, runs: int = 2_000, clock_ns: Callable[[], int] = time.thread_time_ns
) -> tuple[float, float]:
    """(p50, p99) in µs of scoring one row of ``z`` with the node's own runtime, after a warm-up.

    CPU time of this thread, which does all the work: how busy the machine is says nothing about the model.
    """
    model = Model(onnx)
    rows = [np.ascontiguousarray(z[i % len(z)][None, :]) for i in range(min(runs, 256))]
    for row in rows:
        model.score(row)
    spent = np.empty(runs)
    for i in range(runs):
        started = clock_ns()
        model.score(rows[i % len(rows)])
        spent[i] = clock_ns() - started
    p50, p99 = np.percentile(spent, [50, 99]) / 1e3
    return float(p50), float(p99)


def onset_f1(onsets_a: Sequence[Onset], onsets_b: Sequence[Onset], tolerance_ns: int) -> float:
    """F1 of one-to-one matches within ``tolerance_ns`` on the same stream; NaN when both are empty.

    Symmetric. Pairing the earliest onsets first finds the most pairs that are possible.
    """
    if not onsets_a and not onsets_b:
        return math.nan
    times: tuple[dict[str, list[int]], dict[str, list[int]]] = (defaultdict(list), defaultdict(list))
    for side, onsets in zip(times, (onsets_a, onsets_b), strict=True):
        for stream, at in sorted(onsets):
            side[stream].append(at)
    pairs = sum(_pairs(a, times[1].get(stream, []), tolerance_ns) for stream, a in times[0].items())
    return 2 * pairs / (len(onsets_a) + len(onsets_b))


def _pairs(a: list[int], b: list[int], tolerance_ns: int) -> int:
    i = j = pairs = 0
    while i < len(a) and j < len(b):
        if abs(a[i] - b[j]) <= tolerance_ns:
            i, j, pairs = i + 1, j + 1, pairs + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return pairs


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
    """Keep a variant? And the sentence that says why, with its numbers.

    Args:
        size: ONNX bytes, as `fp32_size` and the recipe's `max_size` are.
        onset_f1: against fp32 on held-out data; NaN when neither raised an alert.
        alert_ratio: alerts of this variant per alert of fp32.
        p99_us: one row; a veto only beyond a margin, since a shared machine is noisy.
        max_p99_us: the recipe's limit.
    """
    if max_size is not None and size > max_size:
        return False, f"{_kb(size)} is more than the recipe's {_kb(max_size)}"
    if max_p99_us is not None and p99_us > _OVER_LIMIT * max_p99_us:
        return False, f"p99 {p99_us:.0f} µs is above the recipe's {max_p99_us:.0f} µs"
    if variant == "fp32":
        return True, f"{_kb(size)}, p99 {p99_us:.0f} µs: the reference"
    share = f"{_kb(size)} is {size / fp32_size:.0%} of fp32's {_kb(fp32_size)}"
    if size > MAX_SIZE_RATIO * fp32_size:
        return False, f"{share}: too little is saved"
    if not math.isfinite(onset_f1):
        return False, "no alert on the held-out data: nothing shows that it agrees with fp32"
    if onset_f1 < MIN_ONSET_F1:
        return False, f"onset F1 {onset_f1:.3f} against fp32 is below {MIN_ONSET_F1}"
    if not ALERT_RATIO[0] <= alert_ratio <= ALERT_RATIO[1]:
        return False, f"{alert_ratio:.2f} alerts per alert of fp32 is outside {ALERT_RATIO[0]} to {ALERT_RATIO[1]}"
    if p99_us > _SLOWER * fp32_p99_us + _SLOWER_US:
        return False, f"p99 {p99_us:.0f} µs is far above fp32's {fp32_p99_us:.0f} µs"
    return True, f"{share}, onset F1 {onset_f1:.3f}, {alert_ratio:.2f} alerts per alert of fp32"


def _kb(size: int) -> str:
    return f"{size / 1000:.1f} kB"
