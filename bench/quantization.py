"""int8 of a 256-feature autoencoder: ours against ONNX Runtime's own dynamic and static quantization.

Size, AUC on injected anomalies, one row, a batch, and how far a row's score moves when one far row joins its batch.
docs/adr/0002-int8-is-static.md quotes it:

    python -m bench.quantization
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from edgectl_agent.core.batch import Float32
from edgectl_agent.inference import Model
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from bench._report import record
from edgectl.training import qdq
from edgectl.training.estimators import fit
from edgectl.training.export import to_onnx

_WIDTH, _ROWS, _FAULTY = 256, 6_000, 600


def main() -> int:
    """Measure, record, compare."""
    usual, live = _data(np.random.default_rng(0))
    params = {"hidden": 0, "bottleneck": 64, "epochs": 40}
    fp32 = to_onnx(fit("autoencoder", usual, seed=0, params=params, progress=lambda done, total: None))
    calibration = usual[:4_000]
    models = {
        "fp32": fp32,
        "fp16": qdq.half_storage(fp32),
        "int8": qdq.int8(fp32, calibration),
        "ort_dynamic": _by_ort(fp32, lambda a, b: quantize_dynamic(a, b, weight_type=QuantType.QInt8)),
        "ort_static": _by_ort(fp32, lambda a, b: _static(a, b, calibration)),
    }
    auc, moved = {}, {}
    for name, raw in models.items():
        model = Model(raw)
        auc[name], moved[name] = _auc(model.score(live)), _moved(model, live)
        record(f"quantization.{name}.bytes", len(raw), "B", better="lower")
        record(f"quantization.{name}.auc", auc[name], "AUC", better="higher")
        record(f"quantization.{name}.one_row", _fastest_us(model, live[:1], 2_000), "µs", better="lower")
        record(f"quantization.{name}.batch_6000", _fastest_us(model, live, 20), "µs", better="lower")
        record(f"quantization.{name}.moved_by_neighbour", moved[name], "share", better="lower")
    met = [
        record("quantization.size", len(models["int8"]) / len(fp32), "share", better="lower", peer="fp32", goal=0.35),
        record("quantization.auc_lost", auc["fp32"] - auc["int8"], "AUC", better="lower", peer="fp32", goal=0.005),
        record("quantization.moved", moved["int8"], "share", better="lower", peer="ort_dynamic", goal=0.0),
    ]
    return 0 if all(met) else 1


def _data(rng: np.random.Generator) -> tuple[Float32, Float32]:
    """Usual rows, and live ones whose first `_FAULTY` rows have a few moderately displaced channels."""
    mixing = rng.normal(size=(8, _WIDTH))
    raw = np.tanh(rng.normal(size=(2 * _ROWS, 8)) @ mixing) + 0.3 * rng.normal(size=(2 * _ROWS, _WIDTH))
    for row in raw[_ROWS : _ROWS + _FAULTY]:
        row[rng.choice(_WIDTH, 12, replace=False)] += rng.normal(size=12)
    z = ((raw - raw[:_ROWS].mean(0)) / raw[:_ROWS].std(0)).astype(np.float32)
    return z[:_ROWS], z[_ROWS:]


def _by_ort(raw: bytes, quantize: Callable[[Path, Path], None]) -> bytes:
    """ONNX Runtime's quantizers go from file to file and handle MatMul and Add better than Gemm."""
    logging.disable(logging.WARNING)
    model = onnx.load_from_string(raw)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Gemm":
            product = f"{node.output[0]}.product"
            nodes.append(onnx.helper.make_node("MatMul", node.input[:2], [product], name=product))
            nodes.append(onnx.helper.make_node("Add", [product, node.input[2]], node.output, name=node.name))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.onnx"), Path(folder, "b.onnx")
        source.write_bytes(model.SerializeToString())
        quantize(source, target)
        return target.read_bytes()


def _static(source: Path, target: Path, calibration: Float32) -> None:
    quantize_static(
        source,
        target,
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped base
    """Hands the calibration rows out in chunks."""

    def __init__(self, rows: Float32) -> None:
        self._chunks: Iterator[Float32] = iter(np.array_split(rows, 16))

    def get_next(self) -> dict[str, Float32] | None:
        chunk = next(self._chunks, None)
        return None if chunk is None else {"features": chunk}


def _auc(scores: Float32) -> float:
    rank = np.argsort(np.argsort(scores))
    return float((rank[:_FAULTY].mean() - (_FAULTY - 1) / 2) / (len(scores) - _FAULTY))


def _moved(model: Model, live: Float32) -> float:
    """Largest relative change of seven usual rows' scores when a row at 50 standard deviations joins them."""
    usual = live[-7:]
    joined = model.score(np.concatenate([usual, np.full((1, _WIDTH), 50, np.float32)]))[:7]
    alone = model.score(usual)
    return float(np.max(np.abs(joined - alone) / alone))


def _fastest_us(model: Model, x: Float32, runs: int) -> float:
    """Lower decile: the rest is what other processes did meanwhile."""
    spent = np.empty(runs)
    for i in range(runs):
        started = time.perf_counter_ns()
        model.score(x)
        spent[i] = time.perf_counter_ns() - started
    return float(np.quantile(spent, 0.1)) / 1e3


if __name__ == "__main__":
    raise SystemExit(main())
