from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from functools import cache

import numpy as np
import onnx
import pytest
from edgectl_agent.core import onnx_graph
from edgectl_agent.core.batch import Float32
from edgectl_agent.core.bundle import Estimator, Variant
from edgectl_agent.inference import Model
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.training.estimators import fit
from edgectl.training.export import to_onnx
from edgectl.training.quantize import build_variants
from tests.training.trained import KINDS, VARIANTS, all_exports, exported, plant, small

EVERY_EXPORT = pytest.mark.parametrize(("name", "variant"), all_exports())


@cache
def loaded(name: str, variant: Variant) -> tuple[Model, Float32, Float32]:
    """The model in the node's runtime, rows to score, and their scores in one batch."""
    fitted, raw = exported(name, variant)
    model, rows = Model(raw), plant(fitted.width).live[:600].copy()
    rows[17] = 1e4  # as far out as the scaler's clip lets a value go
    return model, rows, model.score(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_scores_as_scikit_learn_does(kind: Estimator) -> None:
    x = plant(12).live
    expected = small(kind).score(x)
    found = Model(to_onnx(small(kind))).score(x)
    assert np.abs(found - expected).max() < 1e-5 * max(1.0, expected.max())


@EVERY_EXPORT
def test_every_export_maps_features_to_one_finite_score_per_row(name: str, variant: Variant) -> None:
    _, rows, scores = loaded(name, variant)
    assert scores.shape == (len(rows),)
    assert np.isfinite(scores).all()
    if name != "isolation-forest":
        assert scores[17] == scores.max()


@EVERY_EXPORT
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 600), max_size=40), st.integers(0, 599))
def test_a_rows_score_is_the_same_in_any_batch(name: str, variant: Variant, cuts: list[int], start: int) -> None:
    model, rows, whole = loaded(name, variant)
    bounds = sorted({0, start, *cuts, len(rows)})
    parts = [model.score(rows[a:b]) for a, b in itertools.pairwise(bounds)]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("width", [*range(2, 20), 33, 61, 127])
@pytest.mark.parametrize("kind", KINDS)
def test_no_number_of_features_makes_a_score_depend_on_its_batch(kind: Estimator, width: int) -> None:
    """Rows of most widths start at addresses that no vector register is aligned to."""
    rows = plant(width, rows=400).live
    params: dict[str, int | float] = {"inside": 0.5} if kind in ("pca", "autoencoder") else {}
    params |= {"trees": 5} if kind == "isolation-forest" else {"epochs": 2} if kind == "autoencoder" else {}
    fitted = fit(kind, plant(width, rows=400).train, seed=0, params=params, progress=lambda done, total: None)
    for build in build_variants(to_onnx(fitted), fitted, rows, VARIANTS):
        model = Model(build.onnx)
        whole = model.score(rows)
        for size in (1, 3, 8, 13, 50):
            parts = [model.score(rows[at : at + size]) for at in range(0, 200, size)]
            assert np.array_equal(np.concatenate(parts)[:200], whole[:200])


@EVERY_EXPORT
def test_bytes_hold_no_date_no_tool_version_and_no_outside_data(name: str, variant: Variant) -> None:
    model = onnx.load_from_string(exported(name, variant)[1])
    assert (model.producer_name, model.producer_version, model.doc_string) == ("edgectl", "", "")
    assert not model.metadata_props
    assert not model.functions
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in model.graph.initializer)


@EVERY_EXPORT
def test_weights_that_no_node_reads_are_not_shipped(name: str, variant: Variant) -> None:
    graph = onnx.load_from_string(exported(name, variant)[1]).graph
    assert {t.name for t in graph.initializer} <= {value for node in graph.node for value in node.input}


def operators(name: str, variant: Variant) -> set[str]:
    return {n.op_type for n in onnx.load_from_string(exported(name, variant)[1]).graph.node}


def test_graphs_hold_only_the_operators_that_the_module_names() -> None:
    pca = {"Sub", "Gemm", "Mul", "ReduceSumSquare", "Sqrt"}
    autoencoder = pca | {"Relu"}
    extra: dict[Variant, set[str]] = {"fp32": set(), "fp16": {"Cast"}, "int8": {"QuantizeLinear", "DequantizeLinear"}}
    for variant, more in extra.items():
        assert operators("pca", variant) == pca | more
        assert operators("autoencoder", variant) == autoencoder | more
        assert operators("robust-covariance", variant) == pca | more
    kmeans = {"Unsqueeze", "Sub", "ReduceSumSquare", "Mul", "ReduceMax", "Neg", "Sqrt"}
    assert operators("kmeans", "fp32") == operators("kmeans", "fp16") - {"Cast"} == kmeans
    assert operators("isolation-forest", "fp32") == {"TreeEnsemble", "Mul", "Exp", "Reshape"}


TRAIN = """
import hashlib, sys
from tests.training.trained import all_exports, exported
for name, variant in all_exports():
    print(name, variant, hashlib.sha256(exported(name, variant)[1]).hexdigest())
"""


def test_two_processes_train_to_the_same_bytes() -> None:
    runs = [subprocess.Popen([sys.executable, "-c", TRAIN], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (run.communicate(timeout=120)[0] for run in runs)
    here = [f"{n} {v} {hashlib.sha256(exported(n, v)[1]).hexdigest()}" for n, v in all_exports()]
    assert first.splitlines() == second.splitlines() == here


@EVERY_EXPORT
def test_a_node_admits_every_export(name: str, variant: Variant) -> None:
    summary = onnx_graph.check(exported(name, variant)[1])
    assert summary.nodes < 50
    assert summary.domains <= {"", "ai.onnx.ml"}
