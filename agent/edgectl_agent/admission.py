"""Whether an authentic bundle may run on this node; called in the verifying child, whose parent limits it."""

from __future__ import annotations

import math

from edgectl_agent.core import online, onnx_graph
from edgectl_agent.core.bundle import Bundle
from edgectl_agent.core.errors import AdmissionError


def admit(bundle: Bundle) -> float:
    """Look into the model's graph, load it, and compare its scores with the golden vectors.

    Returns:
        The largest deviation from the golden scores in units of the tolerance, at most 1.

    Raises:
        AdmissionError: an operator or limit of `core.onnx_graph`; ONNX Runtime refuses the model or runs out of the
            child's memory; scores deviate.
        TrustError: the model is not ONNX.
    """
    tolerance = bundle.golden.tolerance
    if not 0 < tolerance < math.inf:
        raise AdmissionError(f"golden vectors have tolerance {tolerance}, expected a positive number", reason="golden")
    try:
        error = online.golden_error(bundle) if bundle.estimator == "online" else _error_of_model(bundle)
    except MemoryError as e:
        raise AdmissionError("model needs more memory than allowed", reason="memory") from e
    if not error <= 1:
        raise AdmissionError(
            f"model deviates from its golden vectors by {error:.3g} times the tolerance on this node", reason="golden"
        )
    return error


def _error_of_model(bundle: Bundle) -> float:
    onnx_graph.check(bundle.model)
    # Only now: the import costs 0.2 s and 30 MB, which a refused model should not.
    from edgectl_agent.inference import Model, golden_error

    return golden_error(Model(bundle.model), bundle.golden, len(bundle.feature_names))
