"""Turns a fitted estimator into ONNX: ``features`` float32 (n, F) → ``score`` float32 (n,).

The graphs are small on purpose (a node admits only a short list of operators) and are written by hand: skl2onnx has no
reconstruction error, and its autoencoder answers one column of n · F values. Operators by estimator:

- ``pca``: Sub, Gemm, Mul, ReduceSumSquare, Sqrt
- ``autoencoder``: Gemm, Relu, Sub, Mul, ReduceSumSquare, Sqrt
- ``kmeans``: Unsqueeze, Sub, ReduceSumSquare, Mul, ReduceMax, Neg, Sqrt
- ``robust-covariance``: Sub, Gemm, Mul, ReduceSumSquare, Sqrt
- ``isolation-forest``: ai.onnx.ml TreeEnsemble, Mul, Exp, Reshape

Where the position inside the model counts too (`Fitted.inside`), Concat joins it to the residual. Variants add Cast
(fp16) or QuantizeLinear and DequantizeLinear (int8), see `edgectl.training.quantize`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from edgectl_agent.core.bundle import Estimator
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgectl.training import trees
from edgectl.training.estimators import Fitted

OPSET = 21
"""The first with 16-bit QuantizeLinear; ONNX Runtime 1.20, the oldest that the agent accepts, knows it."""
_TREE_OPSET = 5
_IR_VERSION = 10


def to_onnx(fitted: Fitted) -> bytes:
    """Serialised ModelProto; equal estimators give equal bytes."""
    if fitted.estimator == "isolation-forest":
        return serialise(_forest(fitted))
    graph = _Graph()
    _BUILDERS[fitted.estimator](graph, fitted)
    return serialise(graph.model(fitted.width))


def serialise(model: onnx.ModelProto) -> bytes:
    """Checked bytes with the same header for every model: no version of a tool, no date, no machine."""
    model.producer_name, model.producer_version, model.doc_string = "edgectl", "", ""
    model.domain, model.model_version, model.ir_version = "", 0, _IR_VERSION
    model.graph.name, model.graph.doc_string = "score", ""
    del model.metadata_props[:]
    onnx.checker.check_model(model, full_check=False)
    return bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Nodes and weights of a graph in the making; names are those of the values that the nodes produce."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: NDArray[Any], dtype: type[np.generic] = np.float32) -> str:
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def root_mean_square(self, parts: list[tuple[str, NDArray[Any]]], width: int) -> None:
        """``sqrt(sum of squares / width)`` of values, each multiplied with its factors (a row or one number)."""
        scaled = [
            self.node(
                "Mul", [value, self.weight(f"{value}_factor", np.atleast_1d(factor) / np.sqrt(width))], f"{value}_w"
            )
            for value, factor in parts
        ]
        joined = scaled[0] if len(scaled) == 1 else self.node("Concat", scaled, "joined", axis=1)
        # not ReduceSum or ReduceMean: their sum of a row depends on the row's alignment in memory, hence on its batch
        axes = self.weight("axes", np.array([1]), np.int64)
        total = self.node("ReduceSumSquare", [joined, axes], "total", keepdims=0)
        self.node("Sqrt", [total], "score")

    def model(self, width: int) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, "score", *_signature(width), initializer=self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


def _signature(width: int) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    return (
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
    )


def _pca(graph: _Graph, fitted: Fitted) -> None:
    """Project onto the retained directions and back; one matrix serves both ways, so a graph has F · k weights."""
    model = fitted.model
    directions = graph.weight("directions", model.components_.T)
    centered = graph.node("Sub", ["features", graph.weight("mean", model.mean_)], "centered")
    code = graph.node("Gemm", [centered, directions], "code")
    inside = graph.node("Gemm", [code, directions], "inside", transB=1)
    residual = graph.node("Sub", [centered, inside], "residual")
    parts = [(residual, np.array([fitted.residual_weight]))]
    parts += [(code, fitted.code_weights)] if fitted.inside else []
    graph.root_mean_square(parts, fitted.width)


def _autoencoder(graph: _Graph, fitted: Fitted) -> None:
    layers = list(zip(fitted.model.coefs_, fitted.model.intercepts_, strict=True))
    value = "features"
    for i, (weight, bias) in enumerate(layers):
        inputs = [value, graph.weight(f"weight_{i}", weight), graph.weight(f"bias_{i}", bias)]
        value = graph.node("Gemm", inputs, f"layer_{i}")
        if i < len(layers) - 1:
            value = graph.node("Relu", [value], f"active_{i}")
    parts = [(graph.node("Sub", ["features", value], "residual"), np.ones(1))]
    parts += [("features", np.sqrt([fitted.inside]))] if fitted.inside else []
    graph.root_mean_square(parts, fitted.width)


def _kmeans(graph: _Graph, fitted: Fitted) -> None:
    """The difference to each centroid is squared, not expanded: ``|z|² - 2zc + |c|²`` loses small distances far out."""
    last, middle = graph.weight("last", np.array([2]), np.int64), graph.weight("middle", np.array([1]), np.int64)
    rows = graph.node("Unsqueeze", ["features", middle], "rows")
    apart = graph.node("Sub", [rows, graph.weight("centroids", fitted.model.cluster_centers_[None])], "apart")
    squared = graph.node("ReduceSumSquare", [apart, last], "squared", keepdims=0)
    closeness = graph.node("Mul", [squared, graph.weight("factor", np.array([-1 / fitted.width]))], "closeness")
    nearest = graph.node("ReduceMax", [closeness, middle], "nearest", keepdims=0)
    graph.node("Sqrt", [graph.node("Neg", [nearest], "distance")], "score")


def _covariance(graph: _Graph, fitted: Fitted) -> None:
    """Onto the axes of the covariance, each in units of its own deviation."""
    whitening = graph.weight("whitening", fitted.whitening)
    centered = graph.node("Sub", ["features", graph.weight("mean", fitted.model.location_)], "centered")
    graph.root_mean_square([(graph.node("Gemm", [centered, whitening], "white"), np.ones(1))], fitted.width)


_BUILDERS: Mapping[Estimator, Callable[[_Graph, Fitted], None]] = {
    "pca": _pca,
    "autoencoder": _autoencoder,
    "kmeans": _kmeans,
    "robust-covariance": _covariance,
}


def _forest(fitted: Fitted) -> onnx.ModelProto:
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    trees.register()
    model = skl2onnx.to_onnx(
        fitted.model,
        initial_types=[("features", FloatTensorType([None, fitted.width]))],
        target_opset=trees.TARGET_OPSET,
    )
    model = trees.raise_to_v5(model)
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", _TREE_OPSET)])
    inputs, outputs = _signature(fitted.width)
    model.graph.input[0].CopyFrom(inputs[0])
    model.graph.output[0].CopyFrom(outputs[0])
    return model
