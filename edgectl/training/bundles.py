"""Puts a trained variant, its preprocessing and its golden vectors into the bundle that nodes fetch."""

from __future__ import annotations

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
    Tail,
    Variant,
)


def golden_vectors(variant: Variant, onnx: bytes, z: Float32) -> Golden:
    """The scores that this variant gives to the rows ``z`` in ONNX Runtime, with the variant's tolerance."""
    raise NotImplementedError


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
) -> Bundle:
    """The bundle of one variant; it is decoded again and scored once, so what is returned is known to work.

    Args:
        golden_z: standardised rows chosen by `pick_golden_rows`.

    Raises:
        AdmissionError: ONNX Runtime refuses the model.
    """
    raise NotImplementedError
