"""Turns a fitted estimator into ONNX: ``features`` float32 (n, F) → ``score`` float32 (n,)."""

from __future__ import annotations

from edgectl.training.estimators import Fitted


def to_onnx(fitted: Fitted) -> bytes:
    """Serialised ModelProto; equal estimators give equal bytes."""
    raise NotImplementedError
