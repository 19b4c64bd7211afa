from __future__ import annotations

import numpy as np
import onnx
import pytest
import skl2onnx
from edgectl_agent.core.batch import Float32
from edgectl_agent.inference import Model
from hypothesis import given, settings
from hypothesis import strategies as st
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import IsolationForest

from edgectl.training import trees
from edgectl.training.estimators import Fitted
from edgectl.training.export import to_onnx
from tests.training.trained import plant, small


def by_skl2onnx(forest: IsolationForest, width: int) -> onnx.ModelProto:
    trees.register()
    types = [("features", FloatTensorType([None, width]))]
    model: onnx.ModelProto = skl2onnx.to_onnx(forest, initial_types=types, target_opset=trees.TARGET_OPSET)
    return model


def error(forest: IsolationForest, x: Float32) -> float:
    score = Model(to_onnx(Fitted("isolation-forest", forest, x.shape[1]))).score(x)
    return float(np.abs(score + forest.score_samples(x)).max())


def test_skl2onnx_gives_one_tree_node_and_three_scalar_ones() -> None:
    model = by_skl2onnx(small("isolation-forest").model, 12)
    assert [n.op_type for n in model.graph.node] == ["TreeEnsembleRegressor", "Mul", "Exp", "Reshape"]
    x = plant(12).live
    assert np.abs(Model(model.SerializeToString()).score(x) - small("isolation-forest").score(x)).max() < 5e-7


def test_version_5_gives_the_same_bits_in_less_than_half_of_the_bytes() -> None:
    model = by_skl2onnx(small("isolation-forest").model, 12)
    raised = to_onnx(small("isolation-forest"))
    x = plant(12).live
    assert np.array_equal(Model(model.SerializeToString()).score(x), Model(raised).score(x))
    assert len(raised) < 0.4 * model.ByteSize()


@pytest.mark.parametrize("n", [32, 256, 3000])
def test_scores_are_those_of_scikit_learn(n: int) -> None:
    x = plant(12).live
    assert error(IsolationForest(n_estimators=100, max_samples=min(n, 256), random_state=n).fit(x[:n]), x) < 5e-7


def test_trees_that_are_a_single_leaf_score_like_scikit_learn() -> None:
    x = np.zeros((1000, 2), np.float32)
    x[::100] = np.random.default_rng(0).normal(size=(10, 2))
    forest = IsolationForest(n_estimators=50, max_samples=16, random_state=0).fit(x)
    leaves = [t.tree_.node_count for t in forest.estimators_]
    assert 1 in leaves
    assert max(leaves) > 1
    assert error(forest, np.concatenate([x, 3 * x])) < 5e-7
    assert (
        error(IsolationForest(n_estimators=3, random_state=0).fit(np.ones((40, 3), np.float32)), x[:, [0, 0, 1]]) < 5e-7
    )


def test_trees_over_some_of_the_columns_read_the_right_ones() -> None:
    x = plant(12).live
    assert error(IsolationForest(n_estimators=40, max_features=5, random_state=0).fit(x), x) < 5e-7


def test_rows_exactly_on_a_threshold_take_scikit_learns_side() -> None:
    """Integers as data: thresholds fall between, and rounded ones may fall on, representable values."""
    rng = np.random.default_rng(0)
    x = (16_777_216 + 2 * rng.integers(0, 40, size=(2000, 3))).astype(np.float32)  # float32 has steps of 2 here
    assert error(IsolationForest(n_estimators=100, random_state=0).fit(x), x) < 5e-7


@given(st.floats(-1e30, 1e30), st.integers(-3, 3))
def test_a_float32_threshold_splits_float32_values_as_the_float64_one_does(threshold: float, steps: int) -> None:
    rounded = trees.float32_at_most(np.array([threshold]))[0]
    x = np.float32(threshold)
    for _ in range(abs(steps)):
        x = np.nextafter(x, np.float32(np.copysign(np.inf, steps)))
    assert (x <= rounded) == (float(x) <= threshold)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 400), st.integers(1, 4), st.integers(0, 2**31 - 1))
def test_any_small_forest_scores_like_scikit_learn(rows: int, width: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-3, 4, size=(rows, width)).astype(np.float32)
    assert error(IsolationForest(n_estimators=5, max_samples=min(rows, 64), random_state=seed).fit(x), x) < 1e-6


def test_the_path_length_of_small_leaves_is_exact() -> None:
    assert trees.average_path_length(np.array([0, 1, 2])).tolist() == [0.0, 0.0, 1.0]
    assert trees.average_path_length(np.array([256]))[0] == pytest.approx(10.2448, abs=1e-4)
