"""One-row scoring of an isolation forest: our one tree node against skl2onnx's own export and against scikit-learn.

100 trees of 256 samples over 16 features, all three in this process, in turns, so that a busy moment hits them alike.
Exits with 1 when a goal is missed:

    python -m bench.isolation_forest
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import skl2onnx
from edgectl_agent.core.batch import Float32
from edgectl_agent.inference import Model
from skl2onnx.common.data_types import FloatTensorType
from threadpoolctl import threadpool_limits

from bench._report import record
from edgectl.training.estimators import Fitted, fit
from edgectl.training.export import to_onnx

_WIDTH, _ROUNDS = 16, 6


def main() -> int:
    """Measure, check equality, record."""
    z = np.random.default_rng(0).normal(size=(4_000, _WIDTH)).astype(np.float32)
    fitted = fit("isolation-forest", z, seed=1, params={}, progress=lambda done, total: None)
    theirs = skl2onnx_export(fitted)  # before `to_onnx` registers our converter
    ours = to_onnx(fitted)
    scorers: dict[str, tuple[Callable[[Float32], object], int]] = {
        "ours": (runner(ours, "score", lean=True), 1_000),
        "agent": (Model(ours).score, 1_000),
        "skl2onnx": (runner(theirs, "score_samples", lean=False), 50),
        "scikit-learn": (fitted.model.score_samples, 20),
    }
    with threadpool_limits(1):
        expected = fitted.score(z)
        took = in_turns(scorers, z)
    for name, us in took.items():
        record(f"forest.one_row.{name}", us, "µs", better="lower")
    deviation = float(np.abs(Model(ours).score(z) - expected).max())
    met = [
        *(
            record("forest.one_row.speedup", took[peer] / took["ours"], "×", better="higher", peer=peer, goal=goal)
            for peer, goal in (("skl2onnx", 60), ("scikit-learn", 250))
        ),
        record("forest.max_deviation", deviation, "score", better="lower", peer="scikit-learn", goal=1e-5),
        record("forest.size", len(ours) / len(theirs), "share", better="lower", peer="skl2onnx", goal=0.25),
    ]
    record("forest.bytes", len(ours), "B", better="lower")
    return 0 if all(met) else 1


def skl2onnx_export(fitted: Fitted) -> bytes:
    """The forest by skl2onnx's own converter."""
    model = skl2onnx.to_onnx(
        fitted.model,
        initial_types=[("features", FloatTensorType([None, fitted.width]))],
        target_opset={"": 17, "ai.onnx.ml": 3},
        options={id(fitted.model): {"score_samples": True}},
    )
    return bytes(model.SerializeToString())


def runner(onnx: bytes, output: str, *, lean: bool) -> Callable[[Float32], object]:
    """A session called without the agent's padding: model against model.

    `lean` has the agent's memory options; they slow skl2onnx's many nodes down, so that one runs with the defaults.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = not lean
    session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    return lambda row: session.run([output], {"features": row})


def in_turns(scorers: dict[str, tuple[Callable[[Float32], object], int]], z: Float32) -> dict[str, float]:
    """µs per call of each scorer, lower decile: the rest is what other processes did to it meanwhile."""
    rows = [np.ascontiguousarray(z[i : i + 1]) for i in range(256)]
    spent: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(_ROUNDS):
        for name, (score, calls) in scorers.items():
            for i in range(calls):
                started = time.perf_counter_ns()
                score(rows[i % len(rows)])
                spent[name].append((time.perf_counter_ns() - started) / 1e3)
    return {name: float(np.quantile(times, 0.1)) for name, times in spent.items()}


if __name__ == "__main__":
    raise SystemExit(main())
