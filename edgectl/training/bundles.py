"""Puts a trained variant, its preprocessing and its golden vectors into the bundle that nodes fetch."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from edgectl_agent.core.batch import Float32
from edgectl_agent.core.bundle import (
    Adaptation,
    AlertRule,
    Budget,
    Bundle,
    Estimator,
    FeatureSpec,
    Golden,
    Scaler,
    Smoothing,
    Tail,
    Variant,
    decode,
    encode,
)
from edgectl_agent.inference import Model, golden_error

from edgectl.core.errors import AdmissionError

TOLERANCE: Mapping[Variant, float] = {"fp32": 1e-4, "fp16": 1e-4, "int8": 1e-2}
"""What another processor's kernels may change in a score, with a margin. Float sums differ in the last bits; an 8-bit
activation that lies on the edge between two steps may take the other one."""


def golden_vectors(variant: Variant, onnx: bytes, z: Float32) -> Golden:
    """The scores that this variant gives to the rows ``z`` in ONNX Runtime, with the variant's tolerance.

    Raises:
        AdmissionError: ONNX Runtime refuses the model, or a score is not finite.
    """
    z = np.ascontiguousarray(z, "<f4")
    scores = Model(onnx).score(z).astype("<f4")
    if not np.isfinite(scores).all():
        raise AdmissionError(f"the {variant} model gives scores that are not finite", reason="golden")
    return Golden(rows=len(z), inputs=z.tobytes(), scores=scores.tobytes(), tolerance=TOLERANCE[variant])


def assemble(
    *,
    recipe: str,
    estimator: Estimator,
    variant: Variant,
    features: FeatureSpec,
    feature_names: tuple[str, ...],
    scaler: Scaler,
    tail: Tail,
    budget: Budget,
    rule: AlertRule,
    adaptation: Adaptation,
    onnx: bytes,
    golden_z: Float32,
    smoothing: Smoothing | msgspec.UnsetType = msgspec.UNSET,
) -> Bundle:
    """The bundle of one variant; it is decoded again and scored once, so what is returned is known to work.

    Args:
        golden_z: standardised rows chosen by `pick_golden_rows`.

    Raises:
        AdmissionError: ONNX Runtime refuses the model, or scores are not finite.
        TrustError: the parts contradict each other, or the bundle is too large.
    """
    bundle = Bundle(
        recipe=recipe,
        estimator=estimator,
        variant=variant,
        features=features,
        feature_names=feature_names,
        scaler=scaler,
        tail=tail,
        budget=budget,
        rule=rule,
        adaptation=adaptation,
        golden=golden_vectors(variant, onnx, golden_z),
        model=onnx,
        smoothing=smoothing,
    )
    read = decode(encode(bundle))
    error = golden_error(Model(read.model), read.golden, len(read.feature_names))
    if not error <= 1:
        raise AdmissionError(
            f"the {variant} model misses its own golden vectors by {error:.3g} tolerances", reason="golden"
        )
    return read
