"""An isolation forest as exactly one tree node: the converter that skl2onnx uses after `register`.

skl2onnx's own converter asks each tree for a leaf, then looks up depth and leaf size: 27 nodes per tree. Both are
constants of the leaf, so one regression ensemble whose leaf weight is ``depth + c(leaf size)`` sums the same path
lengths, and three scalar operators turn the sum into a score. With the public skl2onnx API::

    register()
    skl2onnx.to_onnx(forest, initial_types=[("features", FloatTensorType([None, 4]))], target_opset=TARGET_OPSET)

`raise_to_v5` then rewrites the node as TreeEnsemble of ai.onnx.ml 5, which skl2onnx refuses to write and which needs
about a quarter of the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from edgectl_agent.core.batch import Float32, Float64, Int64
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

TARGET_OPSET = {"": 17, "ai.onnx.ml": 3}
"""skl2onnx refuses a newer ai.onnx.ml for trees."""
_ALIAS = "EdgectlIsolationForest"
_EULER = float(np.euler_gamma)


def register() -> None:
    """Make skl2onnx convert IsolationForest into one tree node with the single output ``score`` = ``-score_samples``.

    Changes skl2onnx's registry for the whole process; calling it again changes nothing.
    """
    from skl2onnx import update_registered_converter
    from sklearn.ensemble import IsolationForest

    update_registered_converter(IsolationForest, _ALIAS, _shape, _convert, parser=_parse)


def float32_at_most(thresholds: Float64) -> Float32:
    """Round to float32 towards minus infinity.

    scikit-learn compares float32 ``x <= t`` with a float64 threshold. Rounded down, the comparison in float32 has the
    same result for every float32 ``x``; rounded to nearest it can differ where ``x`` lies between the two.
    """
    near = thresholds.astype(np.float32)
    return np.where(near.astype(np.float64) > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


def average_path_length(sizes: NDArray[np.integer[Any]]) -> Float64:
    """``c(n)``: mean path of an unsuccessful search in a binary search tree of ``n`` keys (Liu et al., eq. 1)."""
    n = np.maximum(sizes.astype(np.float64), 2.0)
    full = 2.0 * (np.log(n - 1.0) + _EULER) - 2.0 * (n - 1.0) / n
    return np.where(sizes <= 1, 0.0, np.where(sizes == 2, 1.0, full))


@dataclass(frozen=True)
class _Tree:
    """One tree as arrays over its nodes; ``left`` is -1 at leaves, ``weight`` is 0 at splits."""

    left: Int64
    right: Int64
    feature: Int64
    split: Float32
    weight: Float32


def _tree(estimator: Any, columns: Int64) -> _Tree:
    tree = estimator.tree_
    left = np.asarray(tree.children_left, np.int64)
    leaf = left < 0
    depth = np.asarray(tree.compute_node_depths(), np.float64) - 1.0  # scikit-learn counts the root as 1
    weight = depth + average_path_length(np.asarray(tree.n_node_samples))
    return _Tree(
        left=left,
        right=np.asarray(tree.children_right, np.int64),
        feature=np.where(leaf, 0, columns[np.where(leaf, 0, tree.feature)]),
        split=np.where(leaf, np.float32(0), float32_at_most(np.asarray(tree.threshold, np.float64))),
        weight=np.where(leaf, weight, 0.0).astype(np.float32),
    )


def _parse(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    from skl2onnx.common.data_types import FloatTensorType

    operator = scope.declare_local_operator(_ALIAS, model)
    operator.inputs = inputs
    operator.outputs.append(scope.declare_local_variable("score", FloatTensorType([None])))
    return operator.outputs


def _shape(operator: Any) -> None:
    from skl2onnx.common.data_types import FloatTensorType

    operator.outputs[0].type = FloatTensorType([operator.inputs[0].type.shape[0]])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    forest = operator.raw_operator
    path = scope.get_unique_variable_name("path_length")
    container.add_node(
        "TreeEnsembleRegressor",
        operator.inputs[0].full_name,
        path,
        op_domain="ai.onnx.ml",
        op_version=3,
        name=scope.get_unique_operator_name("forest"),
        **_regressor_attributes(forest),
    )
    # score = 2 ** -(sum / (trees * c(samples))) = exp(sum * rate)
    whole = len(forest.estimators_) * float(average_path_length(np.array([forest.max_samples_]))[0])
    rate, flat = scope.get_unique_variable_name("rate"), scope.get_unique_variable_name("flat")
    container.add_initializer(rate, TensorProto.FLOAT, [], [-np.log(2.0) / whole])
    container.add_initializer(flat, TensorProto.INT64, [1], [-1])
    exponent, column = scope.get_unique_variable_name("exponent"), scope.get_unique_variable_name("column")
    container.add_node("Mul", [path, rate], exponent, op_version=14, name=scope.get_unique_operator_name("scale"))
    container.add_node("Exp", exponent, column, op_version=13, name=scope.get_unique_operator_name("exp"))
    container.add_node(
        "Reshape",
        [column, flat],
        operator.outputs[0].full_name,
        op_version=14,
        name=scope.get_unique_operator_name("flatten"),
    )


def _regressor_attributes(forest: Any) -> dict[str, Any]:
    """Attributes of TreeEnsembleRegressor (ai.onnx.ml 3); the order of nodes within a tree is scikit-learn's."""
    trees = _trees(forest)
    sizes = [len(t.left) for t in trees]
    leaf = np.concatenate([t.left < 0 for t in trees])
    tree_ids = np.repeat(np.arange(len(trees)), sizes)
    node_ids = np.concatenate([np.arange(n) for n in sizes])
    left, right = (np.concatenate([getattr(t, side) for t in trees]) for side in ("left", "right"))
    return {
        "n_targets": 1,
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "nodes_treeids": tree_ids.tolist(),
        "nodes_nodeids": node_ids.tolist(),
        "nodes_featureids": np.concatenate([t.feature for t in trees]).tolist(),
        "nodes_values": np.concatenate([t.split for t in trees]).tolist(),
        "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        "nodes_truenodeids": np.where(leaf, 0, left).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, right).tolist(),
        "target_treeids": tree_ids[leaf].tolist(),
        "target_nodeids": node_ids[leaf].tolist(),
        "target_ids": [0] * int(leaf.sum()),
        "target_weights": np.concatenate([t.weight for t in trees])[leaf].tolist(),
    }


def _trees(forest: Any) -> list[_Tree]:
    pairs = zip(forest.estimators_, forest.estimators_features_, strict=True)
    return [_tree(e, np.asarray(columns, np.int64)) for e, columns in pairs]


def raise_to_v5(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite the one TreeEnsembleRegressor that `register`'s converter made as TreeEnsemble of ai.onnx.ml 5.

    Leaves with equal weight are stored once. The graph is otherwise unchanged; the result needs opset 20 or later.
    """
    raised = onnx.ModelProto()
    raised.CopyFrom(model)
    [node] = [n for n in raised.graph.node if n.op_type == "TreeEnsembleRegressor"]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    tree = helper.make_node("TreeEnsemble", node.input, node.output, name=node.name, domain=node.domain,
                            **_v5_attributes(attributes))  # fmt: skip
    node.CopyFrom(tree)
    return raised


def _v5_attributes(old: dict[str, Any]) -> dict[str, Any]:
    """Splits and leaves are numbered apart, over all trees; a tree of one leaf becomes a split with two equal ends."""
    tree_ids = np.asarray(old["nodes_treeids"])
    starts = np.searchsorted(tree_ids, np.arange(tree_ids[-1] + 1))
    leaf = np.array([mode == b"LEAF" for mode in old["nodes_modes"]])
    lone = leaf & np.isin(np.arange(len(leaf)), starts)
    split = ~leaf | lone
    split_id = np.cumsum(split) - 1
    weights, leaf_id = np.unique(np.asarray(old["target_weights"], np.float32), return_inverse=True)
    leaf_of = np.zeros(len(leaf), np.int64)
    leaf_of[leaf] = leaf_id

    ends: dict[str, NDArray[np.bool_]] = {}
    ids: dict[str, Int64] = {}
    for side in ("true", "false"):
        child = np.asarray(old[f"nodes_{side}nodeids"]) + starts[tree_ids]
        child = np.where(lone, np.arange(len(leaf)), child)[split]
        ends[side] = leaf[child]
        ids[side] = np.where(leaf[child], leaf_of[child], split_id[child])
    splits = np.asarray(old["nodes_values"], np.float32)[split]
    return {
        "n_targets": 1,
        "aggregate_function": 1,  # SUM
        "post_transform": 0,  # NONE
        "tree_roots": split_id[starts].tolist(),
        "nodes_featureids": np.asarray(old["nodes_featureids"])[split].tolist(),
        "nodes_splits": numpy_helper.from_array(splits, "nodes_splits"),
        "nodes_modes": numpy_helper.from_array(np.zeros(len(splits), np.uint8), "nodes_modes"),  # BRANCH_LEQ
        "nodes_truenodeids": ids["true"].tolist(),
        "nodes_falsenodeids": ids["false"].tolist(),
        "nodes_trueleafs": ends["true"].astype(np.int64).tolist(),
        "nodes_falseleafs": ends["false"].astype(np.int64).tolist(),
        "leaf_targetids": [0] * len(weights),
        "leaf_weights": numpy_helper.from_array(weights, "leaf_weights"),
    }
