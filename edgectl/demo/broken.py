"""A model that went bad between training and shipping: intact file, right digest, validly signed, wrong answers."""

from __future__ import annotations

import msgspec
import numpy as np
from edgectl_agent.core.bundle import decode, encode

from edgectl.registry.interface import Draft, Registry


def add_damaged_copy(registry: Registry, recipe: str, created: str) -> str:
    """Register the newest release of `recipe` once more with damaged weights; returns the new version."""
    entry = registry.entry(recipe)
    raw = registry.bundles(entry)
    reference = entry.release.variants[0]
    draft = Draft(
        recipe=recipe,
        bundles={reference.variant: damaged(raw[reference.sha256])},
        p99_us={reference.variant: reference.p99_us or 0.0},
        created=created,
        report=entry.report,
    )
    return registry.add(draft).release.version


def damaged(raw: bytes) -> bytes:
    """The bundle with every float weight of its model tripled; the golden vectors stay, and will tell."""
    import onnx
    from onnx import numpy_helper

    bundle = decode(raw)
    model = onnx.load_model_from_string(bundle.model)
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32:
            weight.CopyFrom(numpy_helper.from_array(values * np.float32(3), weight.name))
    return encode(msgspec.structs.replace(bundle, model=model.SerializeToString()))
