from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edgectl_agent.core.batch import Float32
from edgectl_agent.core.bundle import Variant
from edgectl_agent.inference import Model
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgectl.training.estimators import Fitted
from edgectl.training.quantize import Onset, build_variants, decide, measure_latency, onset_f1, why_not
from tests.training.trained import VARIANTS, Plant, large_autoencoder, plant, small, variants

TOLERANCE_NS = 20
"""One reading per ns in these tests; a fault lasts 20 readings."""


def onsets(model: bytes, data: Plant) -> list[Onset]:
    """Where the score passes its own 99.95 % quantile of usual rows, after a fault's length of quiet."""
    runner = Model(model)
    high = runner.score(data.live) > np.quantile(runner.score(data.train), 0.9995)
    at = np.flatnonzero(high)
    quiet_before = np.diff(at, prepend=-TOLERANCE_NS - 1) > TOLERANCE_NS
    return [("s", t) for t in at[quiet_before].tolist()]


def judge(fitted: Fitted, variant: Variant) -> tuple[bool, str, float]:
    """The real decision over a real model and its data: kept, why, size in shares of fp32."""
    built, data = variants(fitted), plant(fitted.width)
    reference, candidate = onsets(built["fp32"], data), onsets(built[variant], data)
    assert len(reference) >= len(data.faults), "the comparison needs alerts"
    kept, why = decide(
        variant,
        size=len(built[variant]),
        fp32_size=len(built["fp32"]),
        onset_f1=onset_f1(reference, candidate, TOLERANCE_NS),
        alert_ratio=len(candidate) / len(reference),
        p99_us=measure_latency(built[variant], data.live, runs=300)[1],
        fp32_p99_us=measure_latency(built["fp32"], data.live, runs=300)[1] + 1e4,  # a busy machine must not decide here
    )
    return kept, why, len(built[variant]) / len(built["fp32"])


def test_int8_of_a_large_autoencoder_is_kept() -> None:
    kept, why, share = judge(large_autoencoder(), "int8")
    assert len(variants(large_autoencoder())["fp32"]) > 100_000
    assert share < 0.33
    assert kept, why
    assert "of fp32's 13" in why


def test_int8_of_a_tiny_autoencoder_is_refused_because_it_is_larger() -> None:
    kept, why, share = judge(small("autoencoder"), "int8")
    assert share > 1
    assert not kept
    assert "too little is saved" in why


def test_fp16_of_a_large_autoencoder_is_kept() -> None:
    kept, why, share = judge(large_autoencoder(), "fp16")
    assert share < 0.52
    assert kept, why


def test_int8_ranks_anomalies_as_well_as_fp32() -> None:
    """Even rows whose anomalies lie far outside the calibrated range: the subtraction sees them unclipped."""
    data, built = plant(256), variants(large_autoencoder())
    faulty = np.zeros(len(data.live), bool)
    for at in data.faults:
        faulty[at : at + 20] = True
    subtle = data.live.copy()
    subtle[faulty] = data.train[: faulty.sum()] + (data.live[faulty] - data.train[: faulty.sum()]) * np.float32(0.15)
    fp32, int8 = (auc(Model(built[v]).score(subtle), faulty) for v in ("fp32", "int8"))
    assert 0.6 < fp32 < 0.999
    assert int8 > fp32 - 0.003


def auc(scores: Float32, positive: Any) -> float:
    rank = np.argsort(np.argsort(scores))
    n = int(positive.sum())
    return float((rank[positive].mean() - (n - 1) / 2) / (len(scores) - n))


def test_int8_quantises_every_gemm_and_nothing_else() -> None:
    graph = onnx.load_from_string(variants(large_autoencoder())["int8"]).graph
    made = {output: node for node in graph.node for output in node.output}
    gemms = [n for n in graph.node if n.op_type == "Gemm"]
    assert len(gemms) == 2
    for gemm in gemms:
        assert {made[i].op_type for i in gemm.input} == {"DequantizeLinear"}
        assert made[made[gemm.input[0]].input[0]].op_type == "QuantizeLinear"
    [residual] = [n for n in graph.node if n.op_type == "Sub"]
    assert residual.input[0] == "features"


def test_int8_weights_have_seven_bits() -> None:
    graph = onnx.load_from_string(variants(large_autoencoder())["int8"]).graph
    weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert max(np.abs(w.astype(int)).max() for w in weights) == 63


def test_a_few_wild_calibration_rows_do_not_spoil_int8() -> None:
    fitted, data = large_autoencoder(), plant(256)
    wild = data.train.copy()
    wild[::500, 0] = 1e4
    fp32 = variants(fitted)["fp32"]
    [_, spoilt] = build_variants(fp32, fitted, wild, ("int8",))
    expected, found = Model(fp32).score(data.live), Model(spoilt.onnx).score(data.live)
    assert np.median(np.abs(found - expected) / expected) < 0.02


def test_trees_have_fp32_only_and_a_reason() -> None:
    assert [*variants(small("isolation-forest"))] == ["fp32"]
    assert "no matrices" in why_not("isolation-forest", "int8")
    assert "no matrices" in why_not("isolation-forest", "fp16")
    assert why_not("isolation-forest", "fp32") == why_not("pca", "int8") == ""


def test_only_wanted_variants_are_built_and_fp32_always_is() -> None:
    fitted = small("pca")
    fp32 = variants(fitted)["fp32"]
    assert [b.variant for b in build_variants(fp32, fitted, plant(12).train, ("int8",))] == ["fp32", "int8"]
    assert [b.variant for b in build_variants(fp32, fitted, plant(12).train, ("fp16", "fp32"))] == ["fp32", "fp16"]


def test_dynamic_quantization_makes_a_score_depend_on_its_batch_and_ours_does_not() -> None:
    """The demonstration of docs/adr/0002: one far row in the batch changes its neighbours' dynamic scores."""
    data, built = plant(256), variants(large_autoencoder())
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "dynamic.onnx")
        source.write_bytes(as_matmul(built["fp32"]))
        quantize_dynamic(source, target, weight_type=QuantType.QInt8)
        dynamic = Model(target.read_bytes())
    usual, far = data.live[:7], np.full((1, 256), 50, np.float32)
    together = np.concatenate([usual, far])
    assert relative(dynamic.score(usual), dynamic.score(together)[:7]) > 0.01
    ours = Model(built["int8"])
    assert relative(ours.score(usual), ours.score(together)[:7]) == 0


def as_matmul(raw: bytes) -> bytes:
    """The same model with MatMul and Add, which is what dynamic quantization handles."""
    model = onnx.load_from_string(raw)
    nodes = []
    for n in model.graph.node:
        if n.op_type == "Gemm":
            product = f"{n.output[0]}.p"
            nodes.append(onnx.helper.make_node("MatMul", n.input[:2], [product]))
            nodes.append(onnx.helper.make_node("Add", [product, n.input[2]], n.output))
        else:
            nodes.append(n)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def relative(a: Float32, b: Float32) -> float:
    return float(np.max(np.abs(a - b) / np.abs(b)))


FINE: dict[str, Any] = {
    "size": 30_000,
    "fp32_size": 100_000,
    "onset_f1": 1.0,
    "alert_ratio": 1.0,
    "p99_us": 20.0,
    "fp32_p99_us": 20.0,
}


@pytest.mark.parametrize(
    ("change", "kept", "why"),
    [
        ({}, True, "30.0 kB is 30% of fp32's 100.0 kB, onset F1 1.000, 1.00 alerts per alert of fp32"),
        ({"size": 90_001}, False, "too little is saved"),
        ({"size": 90_000}, True, "90%"),
        ({"onset_f1": 0.979}, False, "onset F1 0.979 against fp32 is below 0.98"),
        ({"onset_f1": 0.98}, True, "0.980"),
        ({"onset_f1": math.nan}, False, "no alert on the held-out data"),
        ({"alert_ratio": 0.89}, False, "0.89 alerts per alert of fp32 is outside 0.9 to 1.1"),
        ({"alert_ratio": 1.11}, False, "1.11 alerts per alert"),
        ({"alert_ratio": math.nan}, False, "nan alerts per alert"),
        ({"p99_us": 89.0}, True, "30%"),
        ({"p99_us": 91.0}, False, "p99 91 µs is far above fp32's 20 µs"),
        ({"max_size": 20_000}, False, "30.0 kB is more than the recipe's 20.0 kB"),
        ({"max_p99_us": 19.0}, True, "30%"),
        ({"max_p99_us": 10.0}, False, "p99 20 µs is above the recipe's 10 µs"),
    ],
)
def test_a_variant_is_kept_by_size_and_alerts_and_latency_only_vetoes(
    change: dict[str, Any], kept: bool, why: str
) -> None:
    decision, reason = decide("int8", **{**FINE, **change})
    assert decision is kept
    assert why in reason


def test_fp32_is_kept_unless_the_recipe_forbids_it() -> None:
    assert decide("fp32", **{**FINE, "size": 100_000, "onset_f1": math.nan})[0]
    assert not decide("fp32", **{**FINE, "size": 100_000}, max_size=99_999)[0]


onset_lists = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 60)), max_size=12)


@given(onset_lists, onset_lists, st.integers(0, 10))
def test_onset_f1_is_symmetric_and_ignores_order(a: list[Onset], b: list[Onset], tolerance: int) -> None:
    f1 = onset_f1(a, b, tolerance)
    again = onset_f1(b[::-1], a[::-1], tolerance)
    assert (math.isnan(f1) and math.isnan(again) and not a and not b) or (f1 == again and 0 <= f1 <= 1)


@given(onset_lists.filter(bool), st.integers(0, 5))
def test_onsets_moved_by_at_most_the_tolerance_agree_wholly(a: list[Onset], by: int) -> None:
    assert onset_f1(a, [(stream, at + by) for stream, at in a], by) == 1.0


@given(onset_lists, onset_lists, st.integers(0, 8))
def test_onset_f1_finds_the_largest_pairing(a: list[Onset], b: list[Onset], tolerance: int) -> None:
    if not a and not b:
        return
    partner: dict[int, int] = {}

    def place(i: int, seen: set[int]) -> bool:
        for j, (stream, at) in enumerate(b):
            if j in seen or stream != a[i][0] or abs(at - a[i][1]) > tolerance:
                continue
            seen.add(j)
            if j not in partner or place(partner[j], seen):
                partner[j] = i
                return True
        return False

    pairs = sum(place(i, set()) for i in range(len(a)))
    assert onset_f1(a, b, tolerance) == pytest.approx(2 * pairs / (len(a) + len(b)))


def test_a_model_that_never_alerts_does_not_agree() -> None:
    assert onset_f1([("s", 5)], [], 10) == 0
    assert onset_f1([("s", 5)], [("t", 5)], 10) == 0


def test_latency_comes_from_the_clock_it_is_given() -> None:
    ticks = iter(range(0, 10**9, 7_000))
    raw = variants(small("pca"))["fp32"]
    assert measure_latency(raw, plant(12).live, runs=50, clock_ns=lambda: next(ticks)) == (7.0, 7.0)


def test_a_model_with_matrices_has_all_variants() -> None:
    assert set(variants(small("pca"))) == set(VARIANTS)
