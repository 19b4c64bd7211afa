"""Small real bundles, good and hostile: the model is the squared distance of standardised features from zero.

    raw = encode(make_bundle(seed=1, recipe="press"))
    release = make_release("press", "1.0.0", 1, raw)

Every bundle but the hostile kinds loads in ONNX Runtime and passes its golden vectors. `seed` changes the digest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from edgectl_agent.core.bundle import (
    Adaptation,
    AlertRule,
    Budget,
    Bundle,
    Channel,
    FeatureSpec,
    Golden,
    InstantFeatures,
    Scaler,
    Tail,
    Variant,
    WindowFeatures,
    decode,
    digest,
)
from edgectl_agent.core.messages import BundleRef, Release
from onnx import TensorProto, helper, numpy_helper

SECOND = 10**9
MINUTE = 60 * SECOND


@dataclass(frozen=True)
class _Graph:
    """A model under construction, from ``features`` to ``score``."""

    nodes: list[onnx.NodeProto]
    initializers: list[onnx.TensorProto]
    domains: tuple[tuple[str, int], ...] = (("", 17),)
    input: str = "features"


def make_bundle(
    seed: int = 0,
    recipe: str = "press",
    kind: str = "ok",
    *,
    variant: Variant = "fp32",
    channel: str = "value",
    interval_s: float = 1.0,
) -> Bundle:
    """A bundle with one channel and two features: its value and its 1-minute mean.

    Args:
        kind: ``ok``; ``golden`` (promises other scores than it gives); ``silent`` (always scores 0, consistently);
            ``nan``; ``unknown-op``; ``unknown-domain``; ``control-flow``; ``external``; ``garbage``; ``wrong-input``;
            ``hog`` (asks for tens of GB at load); ``hang`` (minutes of work at load).
    """
    names = (channel, f"{channel}.mean.1m")
    rng = np.random.default_rng(seed)
    center = rng.normal(0, 0.01, len(names)).astype(np.float32)
    model = model_bytes(kind, center)
    inputs = rng.normal(0, 1, (16, len(names))).astype(np.float32)
    scores = np.zeros(16, np.float32) if kind == "silent" else ((inputs - center) ** 2).sum(axis=1, dtype=np.float32)
    if kind == "golden":
        scores = scores + np.float32(1)
    usual = (rng.normal(0, 1, (100_000, len(names))) ** 2).sum(axis=1)
    base = float(np.quantile(usual, 0.98))
    excess = usual[usual > base] - base
    return Bundle(
        recipe=recipe,
        estimator="pca",
        variant=variant,
        features=FeatureSpec(
            channels=(Channel(name=channel),),
            features=(
                InstantFeatures(channels=(channel,), kinds=("value",)),
                WindowFeatures(channels=(channel,), window_ns=MINUTE, panes=6, stats=("mean",)),
            ),
            warm_up_ns=MINUTE,
        ),
        feature_names=names,
        scaler=Scaler(center=(0.0, 0.0), scale=(1.0, 1.0)),
        tail=Tail(
            base=base,
            base_fraction=0.02,
            weight=float(len(usual)),
            excesses=float(len(excess)),
            excess_mean=float(excess.mean()),
            excess_square=float((excess**2).mean()),
            interval_ns=round(interval_s * SECOND),
        ),
        budget=Budget(warning_per_day=1.0, critical_per_day=1 / 30),
        rule=AlertRule(clear_after_ns=30 * SECOND),
        adaptation=Adaptation(),
        golden=Golden(rows=16, inputs=inputs.tobytes(), scores=scores.tobytes(), tolerance=1e-3),
        model=model,
    )


def make_release(
    recipe: str, version: str, counter: int, *raw: bytes, fallbacks: tuple[str, ...] = (), created: str = ""
) -> Release:
    """The manifest of encoded bundles; each one's variant is read from it."""
    refs = tuple(BundleRef(variant=decode(r).variant, sha256=digest(r), length=len(r)) for r in raw)
    return Release(recipe=recipe, version=version, counter=counter, variants=refs, fallbacks=fallbacks, created=created)


def model_bytes(kind: str, center: np.ndarray) -> bytes:
    """ONNX bytes of the kinds that `make_bundle` lists."""
    if kind == "garbage":
        return b"\x08\x08" + bytes(range(256))
    build = _KINDS.get(kind)
    if build is None:
        raise ValueError(f"unknown kind {kind!r}, expected one of {', '.join(['garbage', *_KINDS])}")
    return _serialize(build(center))


def _serialize(graph: _Graph) -> bytes:
    proto = helper.make_graph(
        graph.nodes,
        "distance",
        [helper.make_tensor_value_info(graph.input, TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None])],
        graph.initializers,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in graph.domains]
    raw: bytes = helper.make_model(proto, opset_imports=opsets, ir_version=8).SerializeToString(deterministic=True)
    return raw


def _distance(center: np.ndarray) -> _Graph:
    return _Graph(
        nodes=[
            helper.make_node("Sub", ["features", "center"], ["d"]),
            helper.make_node("Mul", ["d", "d"], ["d2"]),
            helper.make_node("ReduceSum", ["d2", "axis"], ["score"], keepdims=0),
        ],
        initializers=[
            numpy_helper.from_array(center.astype(np.float32), "center"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )


def _silent(center: np.ndarray) -> _Graph:
    graph = _distance(center)
    graph.nodes[1] = helper.make_node("Mul", ["d", "zero"], ["d2"])
    graph.initializers.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    return graph


def _nan(center: np.ndarray) -> _Graph:
    graph = _distance(center)
    graph.nodes[1] = helper.make_node("Div", ["zero", "zero"], ["n"])
    graph.nodes.insert(2, helper.make_node("Mul", ["d", "n"], ["d2"]))
    graph.initializers.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    return graph


def _unknown_op(center: np.ndarray) -> _Graph:
    graph = _distance(center)
    graph.nodes[1] = helper.make_node("RandomNormalLike", ["d"], ["d2"])
    return graph


def _unknown_domain(center: np.ndarray) -> _Graph:
    graph = _distance(center)
    graph.nodes[1] = helper.make_node("Mul", ["d", "d"], ["d2"], domain="org.evil")
    return _Graph(graph.nodes, graph.initializers, domains=(("", 17), ("org.evil", 1)))


def _control_flow(center: np.ndarray) -> _Graph:
    """The forbidden operator hides in a branch of an ``If``."""
    graph = _distance(center)
    branch = helper.make_graph(
        [helper.make_node("RandomNormalLike", ["d"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [None, 2])],
    )
    graph.nodes[1] = helper.make_node("If", ["yes"], ["d2"], then_branch=branch, else_branch=branch)
    graph.initializers.append(numpy_helper.from_array(np.array([True]), "yes"))
    return graph


def _external(center: np.ndarray) -> _Graph:
    graph = _distance(center)
    tensor = graph.initializers[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    return graph


def _wrong_input(center: np.ndarray) -> _Graph:
    graph = _distance(center)
    graph.nodes[0] = helper.make_node("Sub", ["x", "center"], ["d"])
    return _Graph(graph.nodes, graph.initializers, input="x")


def _broadcast(center: np.ndarray, side: int) -> _Graph:
    """Two small constants whose sum, folded at load, is a (side, side) matrix ``m``."""
    graph = _distance(center)
    ones = np.full(side, 1e-3, np.float32)
    graph.initializers.append(numpy_helper.from_array(ones.reshape(-1, 1), "column"))
    graph.initializers.append(numpy_helper.from_array(ones.reshape(1, -1), "row"))
    graph.initializers.append(numpy_helper.from_array(np.array([0, 1], np.int64), "both"))
    graph.nodes.insert(0, helper.make_node("Add", ["column", "row"], ["m0"]))
    return graph


def _use(graph: _Graph, matrix: str) -> _Graph:
    """Let the score depend on `matrix`, so that nothing is optimised away."""
    graph.nodes[-1] = helper.make_node("ReduceSum", ["d2", "axis"], ["s"], keepdims=0)
    graph.nodes.append(helper.make_node("ReduceSum", [matrix, "both"], ["t"], keepdims=0))
    graph.nodes.append(helper.make_node("Add", ["s", "t"], ["score"]))
    return graph


def _hog(center: np.ndarray) -> _Graph:
    return _use(_broadcast(center, 100_000), "m0")


def _hang(center: np.ndarray) -> _Graph:
    graph = _broadcast(center, 3_000)
    for i in range(200):
        graph.nodes.insert(i + 1, helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]))
    return _use(graph, "m200")


_KINDS: dict[str, Callable[[np.ndarray], _Graph]] = {
    "ok": _distance,
    "golden": _distance,
    "silent": _silent,
    "nan": _nan,
    "unknown-op": _unknown_op,
    "unknown-domain": _unknown_domain,
    "control-flow": _control_flow,
    "external": _external,
    "wrong-input": _wrong_input,
    "hog": _hog,
    "hang": _hang,
}
