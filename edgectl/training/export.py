"""Turns a fitted estimator into ONNX: ``features`` float32 (n, F) → ``score`` float32 (n,).

The graphs are small on purpose (a node admits only a short list of operators) and are written by hand: skl2onnx has no
reconstruction error, and its autoencoder answers one column of n · F values. Operators by estimator:

- ``pca``: Sub, Gemm, Mul, ReduceMean
- ``autoencoder``: Gemm, Relu, Sub, Mul, ReduceMean
- ``isolation-forest``: ai.onnx.ml TreeEnsemble, Mul, Exp, Reshape

Variants add Cast (fp16) or QuantizeLinear and DequantizeLinear (int8), see `edgectl.training.quantize`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
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
    (_pca if fitted.estimator == "pca" else _autoencoder)(graph, fitted.model)
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

    def mean_square(self, residual: str) -> None:
        square = self.node("Mul", [residual, residual], "square")
        axes = self.weight("axes", np.array([1]), np.int64)
        self.node("ReduceMean", [square, axes], "score", keepdims=0)

    def model(self, width: int) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, "score", *_signature(width), initializer=self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


def _signature(width: int) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    return (
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
    )


def _pca(graph: _Graph, model: Any) -> None:
    """Project onto the retained directions and back; one matrix serves both ways, so a graph has F · k weights."""
    directions = graph.weight("directions", model.components_.T)
    centered = graph.node("Sub", ["features", graph.weight("mean", model.mean_)], "centered")
    code = graph.node("Gemm", [centered, directions], "code")
    inside = graph.node("Gemm", [code, directions], "inside", transB=1)
    graph.mean_square(graph.node("Sub", [centered, inside], "residual"))


def _autoencoder(graph: _Graph, model: Any) -> None:
    layers = list(zip(model.coefs_, model.intercepts_, strict=True))
    value = "features"
    for i, (weight, bias) in enumerate(layers):
        inputs = [value, graph.weight(f"weight_{i}", weight), graph.weight(f"bias_{i}", bias)]
        value = graph.node("Gemm", inputs, f"layer_{i}")
        if i < len(layers) - 1:
            value = graph.node("Relu", [value], f"active_{i}")
    graph.mean_square(graph.node("Sub", ["features", value], "residual"))


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
