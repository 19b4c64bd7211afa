"""Rewrites a float32 graph with smaller weights: 8-bit arithmetic for int8, half-precision storage for fp16.

Only Gemm is touched. The residual is computed in float32 and from the features as they arrived: ONNX Runtime's own
`quantize_static` feeds the subtraction too with features that were clipped to the calibrated range, and that alone
costs 2 to 4 points of AUC, because an anomaly is what lies outside the range. docs/adr/0002-int8-is-static.md has the
figures and says why scales are static and weights have 7 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from edgectl_agent.core.batch import Float32
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgectl.training.export import serialise

_WEIGHT_STEPS = 63
"""Not 127: AVX2 without VNNI adds pairs of uint8 × int8 products in 16 bits, which two full-range products overflow."""
_ACTIVATION_STEPS = 255
_USUAL_ROWS, _HEADROOM = 0.99, 1.5
"""An activation's range reaches this many times as far as the extremes of this share of rows, or to the extreme of all
rows if that is nearer: wild rows cannot stretch the range, and usual rows are not clipped."""


def int8(fp32: bytes, calibration_z: Float32) -> bytes:
    """Quantise every Gemm: uint8 inputs with one calibrated range each, int8 weights with one scale per output.

    Args:
        fp32: a model of `edgectl.training.export`.
        calibration_z: usual standardised rows, shape (n, F).
    """
    model = onnx.load_from_string(fp32)
    rewriter = _Rewriter(model, _gemm_inputs(model, calibration_z))
    for node in list(model.graph.node):
        rewriter.gemm(node) if node.op_type == "Gemm" else rewriter.keep(node)
    return serialise(rewriter.finish())


def half_storage(fp32: bytes) -> bytes:
    """Store matrices as float16 behind a Cast to float32, which ONNX Runtime folds once when it loads the model.

    Arithmetic stays in float32 everywhere. A graph of float16 operators (onnxruntime.transformers.float16) is no
    smaller; ONNX Runtime computes it in float32 on x86, and where there are float16 kernels its range ends at 65504,
    while a feature at the scaler's clip of 1e4 has a square of 1e8.
    """
    model = onnx.load_from_string(fp32)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return serialise(model)


def _gemm_inputs(model: onnx.ModelProto, z: Float32) -> dict[str, Float32]:
    """What each Gemm reads when the float32 model scores ``z``, by value name."""
    from onnxruntime import InferenceSession

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    names = sorted({n.input[0] for n in model.graph.node if n.op_type == "Gemm"} - {"features"})
    probed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(["score", *names], {"features": z})[1:]
    return {"features": z, **dict(zip(names, values, strict=True))}


class _Rewriter:
    """Copies a graph node by node and puts QuantizeLinear and DequantizeLinear before each Gemm."""

    def __init__(self, model: onnx.ModelProto, activations: dict[str, Float32]) -> None:
        self._model = model
        self._activations = activations
        self._old = {t.name: t for t in model.graph.initializer}
        self._weights: dict[str, onnx.TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._quantised: dict[str, tuple[str, float]] = {}

    def keep(self, node: onnx.NodeProto) -> None:
        self._nodes.append(node)
        self._weights.update({name: self._old[name] for name in node.input if name in self._old})

    def gemm(self, node: onnx.NodeProto) -> None:
        output_axis = 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
        value, step = self._activation(node.input[0])
        weight = numpy_helper.to_array(self._old[node.input[1]])
        steps = np.maximum(np.abs(weight).max(axis=1 - output_axis), np.float32(1e-12)) / np.float32(_WEIGHT_STEPS)
        whole = np.round(weight / np.expand_dims(steps, 1 - output_axis)).astype(np.int8)
        inputs = [value, self._constant(f"{node.name}.w", whole, steps, output_axis)]
        if len(node.input) > 2:
            bias = numpy_helper.to_array(self._old[node.input[2]])
            unit = (steps * np.float32(step)).astype(np.float32)
            limit = 2.0**30  # leaves room for the sum of products in int32
            whole = np.clip(np.round(bias.astype(np.float64) / unit), -limit, limit).astype(np.int32)
            inputs.append(self._constant(f"{node.name}.b", whole, unit, 0))
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._nodes.append(helper.make_node("Gemm", inputs, node.output, name=node.name, **attributes))

    def finish(self) -> onnx.ModelProto:
        graph = self._model.graph
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._weights.values())
        return self._model

    def _activation(self, name: str) -> tuple[str, float]:
        """Quantise and dequantise a value once, however many Gemms read it; returns the new name and the step."""
        if name not in self._quantised:
            step, zero = _affine(self._activations[name])
            scale, zero_point = self._tensor(f"{name}.s", np.float32(step)), self._tensor(f"{name}.z", np.uint8(zero))
            self._node("QuantizeLinear", [name, scale, zero_point], f"{name}.q")
            self._node("DequantizeLinear", [f"{name}.q", scale, zero_point], f"{name}.d")
            self._quantised[name] = (f"{name}.d", step)
        return self._quantised[name]

    def _constant(self, name: str, whole: NDArray[Any], steps: Float32, axis: int) -> str:
        inputs = [self._tensor(f"{name}.q", whole), self._tensor(f"{name}.s", steps)]
        inputs.append(self._tensor(f"{name}.z", np.zeros(steps.shape, whole.dtype)))
        return self._node("DequantizeLinear", inputs, name, axis=axis)

    def _tensor(self, name: str, value: Any) -> str:
        self._weights[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output


def _affine(values: Float32) -> tuple[float, int]:
    """Step and zero point that spread the usual range of ``values`` (n, k), zero included, over 0..255."""
    high, low = max(_reach(values.max(axis=1)), 0.0), -max(_reach(-values.min(axis=1)), 0.0)
    step = float(np.float32(max(high - low, 1e-12) / _ACTIVATION_STEPS))
    return step, int(np.clip(round(-low / step), 0, _ACTIVATION_STEPS))


def _reach(extremes: Float32) -> float:
    return float(min(extremes.max(), _HEADROOM * np.quantile(extremes, _USUAL_ROWS)))
