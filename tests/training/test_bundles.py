from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from edgectl_agent.core.bundle import (
    Adaptation,
    AlertRule,
    Budget,
    Channel,
    FeatureSpec,
    InstantFeatures,
    PhaseFeatures,
    Scaler,
    Tail,
    Variant,
    WindowFeatures,
    decode,
    digest,
    encode,
)
from edgectl_agent.inference import Model, golden_error

from edgectl.core.errors import AdmissionError, TrustError
from edgectl.training.bundles import assemble, golden_vectors
from edgectl.training.estimators import Fitted, pick_golden_rows
from edgectl.training.export import to_onnx
from tests.training.trained import all_exports, exported, plant, small

EVERY_EXPORT = pytest.mark.parametrize(("name", "variant"), all_exports())


def parts(fitted: Fitted, variant: Variant, onnx: bytes) -> dict[str, Any]:
    names = tuple(f"c{i}" for i in range(fitted.width))
    live = plant(fitted.width).live
    return {
        "recipe": "press",
        "estimator": fitted.estimator,
        "variant": variant,
        "features": FeatureSpec(
            channels=tuple(Channel(name=n) for n in names),
            features=(InstantFeatures(channels=names, kinds=("value",)),),
            warm_up_ns=0,
        ),
        "feature_names": names,
        "scaler": Scaler(center=(0.0,) * fitted.width, scale=(1.0,) * fitted.width),
        "tail": Tail(
            base=1, base_fraction=0.98, weight=1e3, excesses=20, excess_mean=1, excess_square=2, interval_ns=10**9
        ),
        "budget": Budget(warning_per_day=1, critical_per_day=0.1),
        "rule": AlertRule(),
        "adaptation": Adaptation(),
        "onnx": onnx,
        "golden_z": live[pick_golden_rows(live, Model(onnx).score(live))],
    }


@EVERY_EXPORT
def test_a_bundle_survives_the_wire_and_passes_its_golden_vectors(name: str, variant: Variant) -> None:
    bundle = assemble(**parts(exported(name, variant)[0], variant, exported(name, variant)[1]))
    assert decode(encode(bundle)) == bundle
    assert bundle.golden.rows == 64
    assert golden_error(Model(bundle.model), bundle.golden, len(bundle.feature_names)) == 0


@EVERY_EXPORT
def test_golden_vectors_allow_for_other_kernels(name: str, variant: Variant) -> None:
    """Without graph optimisation ONNX Runtime takes other kernels, as another processor would; int8 runs in float."""
    fitted, raw = exported(name, variant)
    bundle = assemble(**parts(fitted, variant, raw))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    inputs = np.frombuffer(bundle.golden.inputs, "<f4").reshape(64, -1)
    expected = np.frombuffer(bundle.golden.scores, "<f4")
    found = session.run(["score"], {"features": inputs})[0]
    assert np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected))) < bundle.golden.tolerance / 2


@pytest.mark.parametrize("variant", ["fp16", "int8"])
def test_golden_vectors_are_the_variants_own(variant: Variant) -> None:
    fp32, other = (exported("large-autoencoder", v)[1] for v in ("fp32", variant))
    z = plant(256).live[:64]
    assert golden_error(Model(other), golden_vectors(variant, other, z), 256) == 0
    assert golden_vectors(variant, other, z).scores != golden_vectors("fp32", fp32, z).scores


def test_golden_vectors_notice_a_model_of_another_seed() -> None:
    fitted, raw = exported("autoencoder", "fp32")
    bundle = assemble(**parts(fitted, "fp32", raw))
    bent = replace(fitted, model=small("autoencoder").model)
    coefficients = [w * 1.01 for w in bent.model.coefs_]
    other = type(bent.model)()
    other.coefs_, other.intercepts_ = coefficients, bent.model.intercepts_
    assert golden_error(Model(to_onnx(replace(fitted, model=other))), bundle.golden, 12) > 1


def test_features_of_earlier_recipes_are_encoded_as_ever() -> None:
    spec = FeatureSpec(
        channels=(Channel(name="a", unit="A", low=0, high=5), Channel(name="b", optional=True, hold_ns=10**9)),
        features=(
            InstantFeatures(channels=("a", "b"), kinds=("value", "diff")),
            WindowFeatures(channels=("a",), window_ns=60 * 10**9, stats=("mean", "slope")),
            PhaseFeatures(periods=("day", "week")),
        ),
        warm_up_ns=60 * 10**9,
    )
    assert (
        hashlib.sha256(msgspec.msgpack.encode(spec)).hexdigest()
        == "ccc3961a7ae761fc113456c0a0be872b3834c9d7eca6139a3bbca33f165e861c"
    )


def test_equal_parts_give_equal_digests() -> None:
    fitted, raw = exported("pca", "int8")
    first, second = (digest(encode(assemble(**parts(fitted, "int8", raw)))) for _ in range(2))
    assert first == second


def test_a_model_that_onnx_runtime_refuses_does_not_become_a_bundle() -> None:
    fitted, raw = exported("pca", "fp32")
    with pytest.raises(AdmissionError, match="cannot load the model"):
        assemble(**{**parts(fitted, "fp32", raw), "onnx": raw[:-40]})


def test_parts_that_contradict_each_other_are_refused() -> None:
    fitted, raw = exported("pca", "fp32")
    with pytest.raises(TrustError, match="differ in length"):
        assemble(**{**parts(fitted, "fp32", raw), "feature_names": ("c0",)})


def test_scores_that_are_not_finite_are_refused() -> None:
    fitted, raw = exported("pca", "fp32")
    with pytest.raises(AdmissionError, match="not finite"):
        assemble(**{**parts(fitted, "fp32", raw), "golden_z": np.full((3, 12), 1e30, np.float32)})
