"""The node's own reader of ONNX: sees what the onnx library sees, and survives any bytes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from edgectl_agent.core import onnx_graph
from edgectl_agent.core.errors import AdmissionError, TrustError
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.support.bundles import make_bundle, model_bytes

CENTER = np.zeros(2, np.float32)
GOOD = model_bytes("ok", CENTER)


def trees(count: int, leaves: int) -> onnx.ModelProto:
    """One TreeEnsembleRegressor of `count` combs: attributes with many numbers, as an isolation forest has."""
    nodes = 2 * leaves - 1
    ids = np.tile(np.arange(nodes), count)
    inner = ids < leaves - 1
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["s"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=np.repeat(np.arange(count), nodes).tolist(),
        nodes_nodeids=ids.tolist(),
        nodes_featureids=(ids % 2).tolist(),
        nodes_modes=["BRANCH_LEQ" if i else "LEAF" for i in inner],
        nodes_values=np.where(inner, 0.5, 0.0).tolist(),
        nodes_truenodeids=np.where(inner, ids + leaves - 1, 0).tolist(),
        nodes_falsenodeids=np.where(inner, ids + 1, 0).tolist(),
        nodes_hitrates=np.ones(len(ids)).tolist(),
        target_treeids=np.repeat(np.arange(count), leaves).tolist(),
        target_nodeids=np.tile(np.arange(leaves - 1, nodes), count).tolist(),
        target_ids=[0] * (count * leaves),
        target_weights=[1.0] * (count * leaves),
    )
    shape = helper.make_node("Reshape", ["s", "flat"], ["score"])
    graph = helper.make_graph(
        [node, shape],
        "forest",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(np.array([-1], np.int64), "flat")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)])


def with_function() -> onnx.ModelProto:
    """A model-local function whose body has a node that the graph has not."""
    body = helper.make_function(
        "org.local",
        "Twice",
        ["x"],
        ["y"],
        [helper.make_node("RandomUniformLike", ["x"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])],
        [helper.make_opsetid("", 17)],
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["features"], ["score"], domain="org.local")],
        "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 2])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("org.local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[body])


def operators(nodes: object) -> set[tuple[str, str]]:
    """What the onnx library sees, subgraphs included."""
    found: set[tuple[str, str]] = set()
    for node in nodes:  # type: ignore[attr-defined]
        found.add(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs]:
                found |= operators(graph.node)
    return found


@pytest.mark.parametrize(
    "raw",
    [
        *(model_bytes(k, CENTER) for k in ("ok", "silent", "nan", "unknown-op", "control-flow", "hog", "hang")),
        trees(20, 16).SerializeToString(),
        with_function().SerializeToString(),
    ],
    ids=["ok", "silent", "nan", "unknown-op", "control-flow", "hog", "hang", "trees", "function"],
)
def test_the_reader_agrees_with_the_onnx_library(raw: bytes) -> None:
    model = onnx.load_from_string(raw)
    expected = operators(model.graph.node)
    for function in model.functions:
        expected |= operators(function.node)
    summary = onnx_graph.summarise(raw)
    assert summary.operators == expected
    imported = {o.domain for o in model.opset_import} | {o.domain for f in model.functions for o in f.opset_import}
    assert summary.domains == imported
    sizes = [int(np.prod(t.dims)) for t in model.graph.initializer]
    assert summary.largest == max(sizes, default=0)


def test_a_function_cannot_hide_an_operator() -> None:
    with pytest.raises(AdmissionError, match=r"org\.local"):
        onnx_graph.check(with_function().SerializeToString())
    summary = onnx_graph.summarise(with_function().SerializeToString())
    assert ("", "RandomUniformLike") in summary.operators


def test_a_large_forest_is_read_within_its_limits() -> None:
    raw = trees(100, 256).SerializeToString()
    assert len(raw) > 400_000
    assert onnx_graph.check(raw).nodes == 2


def constant(tensor: onnx.TensorProto) -> bytes:
    node = helper.make_node("Constant", [], ["score"], value=tensor)
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None])])
    raw: bytes = helper.make_model(graph).SerializeToString()
    return raw


def test_external_data_is_found_in_an_attribute_too() -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    with pytest.raises(AdmissionError, match="outside of the file"):
        onnx_graph.check(constant(tensor))
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4])
    tensor.external_data.add(key="location", value="weights.bin")
    with pytest.raises(AdmissionError, match="outside of the file"):
        onnx_graph.check(constant(tensor))


@pytest.mark.parametrize("dims", [[2**40], [2**13, 2**13], [-1], [2**62, 4]])
def test_a_tensor_that_claims_to_be_huge_is_refused(dims: list[int]) -> None:
    with pytest.raises(AdmissionError, match="elements"):
        onnx_graph.check(constant(TensorProto(data_type=TensorProto.FLOAT, dims=dims)))


def nested(depth: int) -> bytes:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    for _ in range(depth):
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], body=graph)], "g", [], [])
    raw: bytes = helper.make_model(graph).SerializeToString()
    return raw


def test_deep_nesting_is_refused_before_it_costs_anything() -> None:
    assert onnx_graph.check(nested(5)).nodes == 6
    with pytest.raises(AdmissionError, match="deeper"):
        onnx_graph.check(nested(25))


def test_too_many_nodes_are_refused() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["x"]) for _ in range(onnx_graph.MAX_NODES + 1)]
    raw = helper.make_model(helper.make_graph(nodes, "g", [], [])).SerializeToString()
    with pytest.raises(AdmissionError, match="nodes"):
        onnx_graph.check(raw)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "no graph"),
        (b"\x08\x08", "no graph"),
        (GOOD + field(7, b""), "twice"),  # protobuf would merge the two graphs
        (GOOD + field(19, b"x"), "field 19"),
        (GOOD[:-1], "truncated"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "ten bytes"),
        (b"\x3b", "wire type 3"),
        (field(7, field(1, field(4, b"Mul") + field(4, b"Loop"))), "twice"),
        (field(7, field(1, field(4, "Mül".encode()))), "ASCII"),
        (b"\x12\x06abORTM" + GOOD, "own format"),  # valid protobuf, and ONNX Runtime's flatbuffer mark
    ],
)
def test_bytes_that_two_readers_might_read_differently_are_refused(raw: bytes, why: str) -> None:
    with pytest.raises(TrustError, match=why):
        onnx_graph.check(raw)


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_or_summarised(raw: bytes) -> None:
    _never_anything_else(raw)


@given(st.data())
@settings(max_examples=300)
def test_damaged_models_are_refused_or_summarised(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from([GOOD, nested(3), with_function().SerializeToString()])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        action = data.draw(st.sampled_from(["flip", "cut", "copy"]))
        if action == "flip":
            raw[at] ^= data.draw(st.integers(1, 255))
        elif action == "cut":
            del raw[at : at + data.draw(st.integers(1, 9))]
        else:
            raw[at:at] = raw[at : at + data.draw(st.integers(1, 40))]
        if not raw:
            break
    _never_anything_else(bytes(raw))


def _never_anything_else(raw: bytes) -> None:
    try:
        summary = onnx_graph.summarise(raw)
    except TrustError:
        return
    try:
        model = onnx.load_from_string(raw)
    except DecodeError:  # damage where we do not look, such as types; who executes models refuses it too
        return
    assert operators(model.graph.node) <= summary.operators


def test_every_kind_of_test_bundle_is_what_it_claims() -> None:
    for kind in ("ok", "silent", "golden", "nan", "hog", "hang", "wrong-input"):
        onnx_graph.check(make_bundle(1, kind=kind).model)
