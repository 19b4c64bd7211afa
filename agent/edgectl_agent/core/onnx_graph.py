"""What an ONNX model is made of, read from the bytes before any library that executes models sees them.

A small reader of the protobuf wire format and a table of the ONNX messages (onnx/onnx.proto, IR version 13), because
the node does not install `onnx`, and because a reader that knows little refuses more: unknown fields, wrong wire types
and singular fields that occur twice are errors here, while protobuf would skip, guess or merge them. Every node is
visited: of the graph, of subgraphs in attributes and of model-local functions.

Hostile bytes give `TrustError` in time linear in their number, never another exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from edgectl_agent.core.errors import AdmissionError, TrustError

MAX_NODES = 1_000
MAX_DEPTH = 24
"""Nested messages; a subgraph is three deeper than its node's graph."""
MAX_FIELDS = 4_000_000
MAX_ELEMENTS = 2**24
"""Elements of one tensor: as many float32 as the largest bundle has bytes."""

Operator = tuple[str, str]
"""Domain ("" for ai.onnx) and name."""

ALLOWED: frozenset[Operator] = frozenset(
    {("ai.onnx.ml", "TreeEnsemble"), ("ai.onnx.ml", "TreeEnsembleRegressor")}
    | {
        ("", name)
        for name in (
            *("Abs", "Add", "Cast", "Clip", "Concat", "Constant", "DequantizeLinear", "Div", "DynamicQuantizeLinear"),
            *("Exp", "Flatten", "Gemm", "Identity", "LeakyRelu", "Log", "MatMul", "MatMulInteger", "Max", "Min", "Mul"),
            *("Neg", "Pow", "QuantizeLinear", "ReduceMax", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Relu"),
            *("Reshape", "Sigmoid", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"),
        )
    }
)
"""What edgectl's own training writes, and its neighbours. Left out on purpose: control flow (it can loop for ever),
random numbers (scores would not repeat), and what makes large outputs from small inputs (Expand, Tile, Range, Pad …).
"""
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Domains a model may import. com.microsoft is imported by ONNX Runtime's quantizer, used by none of `ALLOWED`."""


@dataclass(frozen=True)
class Summary:
    """What a model contains.

    Attributes:
        nodes: in all graphs and functions.
        operators: (domain, name) of every node.
        domains: imported operator sets.
        tensors: initializers and constants.
        largest: most elements of one tensor.
    """

    nodes: int
    operators: frozenset[Operator]
    domains: frozenset[str]
    tensors: int
    largest: int


def check(raw: bytes, allowed: frozenset[Operator] = ALLOWED) -> Summary:
    """Refuse a model that could reach outside itself or do what scoring does not need.

    Raises:
        AdmissionError: an operator or domain that is not allowed, external data, or a limit of this module exceeded.
        TrustError: not an ONNX model.
    """
    summary = summarise(raw)
    unknown = sorted(summary.domains - KNOWN_DOMAINS)
    if unknown:
        raise AdmissionError(f"model imports the unknown operator domain {unknown[0]!r}", reason="unknown-domain")
    refused = sorted(summary.operators - allowed)
    if refused:
        names = ", ".join(f"{domain}:{name}" if domain else name for domain, name in refused[:5])
        raise AdmissionError(f"model contains operators that are not allowed: {names}", reason="unknown-operator")
    return summary


def summarise(raw: bytes) -> Summary:
    """Read a serialised ModelProto. Raises as `check` does, except for operators and domains."""
    if raw[4:8] == b"ORTM":
        # ONNX Runtime recognises its own flatbuffer format by this mark and would not read protobuf at all.
        raise AdmissionError("model is in ONNX Runtime's own format, expected ONNX", reason="malformed")
    walk = _Walk(raw)
    walk.message("Model", 0, len(raw), 0)
    if not walk.graphs:
        raise TrustError("model contains no graph", reason="malformed")
    return Summary(walk.nodes, frozenset(walk.operators), frozenset(walk.domains), walk.tensors, walk.largest)


# ── the messages ────────────────────────────────────────────────────────────────────────────────────────────────────

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class _Field:
    """A field's wire types, whether it repeats, and the message in it ("": not looked into)."""

    wires: frozenset[int]
    repeated: bool = False
    into: str = ""


def _one(*numbers: int, wire: int = _LEN) -> dict[int, _Field]:
    return dict.fromkeys(numbers, _Field(frozenset({wire})))


def _many(*numbers: int, wire: int = _LEN) -> dict[int, _Field]:
    """Repeated; numbers may also be packed into one length-delimited field."""
    return dict.fromkeys(numbers, _Field(frozenset({wire, _LEN}), repeated=True))


def _sub(name: str, *numbers: int, repeated: bool = True) -> dict[int, _Field]:
    return dict.fromkeys(numbers, _Field(frozenset({_LEN}), repeated, name))


_TYPE, _DOMAIN, _EXTERNAL, _LOCATION, _DIMS = 4, 7, 13, 14, 1
# Left out, hence refused: training_info (20) and device configuration (26; 10 in a node).
_MESSAGES: dict[str, dict[int, _Field]] = {
    "Model": _one(1, 5, wire=_VARINT) | _one(2, 3, 4, 6) | _sub("Graph", 7, repeated=False)
        | _sub("OperatorSet", 8) | _many(14) | _sub("Function", 25),
    "Graph": _sub("Node", 1) | _one(2, 10) | _sub("Tensor", 5) | _many(11, 12, 13, 14, 16) | _sub("SparseTensor", 15),
    "Node": _many(1, 2, 9) | _one(3, _TYPE, 6, _DOMAIN, 8) | _sub("Attribute", 5),
    "Attribute": _one(1, 4, 13, 14, 21) | _one(3, 20, wire=_VARINT) | _one(2, wire=_I32) | _many(7, wire=_I32)
        | _many(8, wire=_VARINT) | _many(9, 15) | _sub("Tensor", 5, repeated=False) | _sub("Tensor", 10)
        | _sub("Graph", 6, repeated=False) | _sub("Graph", 11)
        | _sub("SparseTensor", 22, repeated=False) | _sub("SparseTensor", 23),
    "Tensor": _many(_DIMS, 5, 7, 11, wire=_VARINT) | _one(2, _LOCATION, wire=_VARINT) | _one(3, 8, 9, 12)
        | _many(4, wire=_I32) | _many(10, wire=_I64) | _many(6, _EXTERNAL, 16),
    "SparseTensor": _sub("Tensor", 1, 2, repeated=False) | _many(3, wire=_VARINT),
    "Function": _one(1, 8, 10, 13) | _many(4, 5, 6, 12, 14) | _sub("Node", 7) | _sub("OperatorSet", 9)
        | _sub("Attribute", 11),
    "OperatorSet": _one(1) | _one(2, wire=_VARINT),
}  # fmt: skip


@dataclass
class _Walk:
    """One pass over the bytes; counts as it goes, so that a limit ends it early."""

    raw: bytes
    nodes: int = 0
    fields: int = 0
    graphs: int = 0
    tensors: int = 0
    largest: int = 0
    operators: set[Operator] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)

    def message(self, name: str, start: int, end: int, depth: int) -> None:
        """Visit one message and those inside it."""
        if depth > MAX_DEPTH:
            raise AdmissionError(f"model nests messages deeper than {MAX_DEPTH}", reason="too-deep")
        known, seen = _MESSAGES[name], set[int]()
        texts: dict[int, str] = {}
        elements = 1
        for number, wire, low, high in self._fields(start, end):
            form = known.get(number)
            if form is None or wire not in form.wires:
                raise TrustError(
                    f"model's {name} has a field {number} of wire type {wire}, not ONNX", reason="malformed"
                )
            if not form.repeated:
                if number in seen:
                    raise TrustError(f"model's {name} has field {number} twice", reason="malformed")
                seen.add(number)
            if form.into:
                self.message(form.into, low, high, depth + 1)
            elif name == "Tensor":
                elements = self._tensor_field(number, wire, low, high, elements)
            elif number in _TEXTS.get(name, ()):
                texts[number] = self._text(low, high)
        self._leave(name, texts, elements)

    def _leave(self, name: str, texts: dict[int, str], elements: int) -> None:
        if name == "Node":
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise AdmissionError(f"model has more than {MAX_NODES} nodes", reason="too-many-nodes")
            domain = texts.get(_DOMAIN, "")
            self.operators.add(("" if domain == "ai.onnx" else domain, texts.get(_TYPE, "")))
        elif name == "OperatorSet":
            self.domains.add(texts.get(1, ""))
        elif name == "Tensor":
            self.tensors += 1
            self.largest = max(self.largest, elements)
        elif name == "Graph":
            self.graphs += 1

    def _tensor_field(self, number: int, wire: int, low: int, high: int, elements: int) -> int:
        """Element count after one more field of a tensor; refuses data that lies elsewhere."""
        if number == _EXTERNAL or (number == _LOCATION and self._varint(low, high)[0] != 0):
            raise AdmissionError("model keeps a tensor outside of the file", reason="external-data")
        if number == _DIMS:
            at = low
            while at < high:
                dim, at = self._varint(at, high)
                elements *= dim
                if elements > MAX_ELEMENTS:
                    raise AdmissionError(f"model has a tensor of more than {MAX_ELEMENTS} elements", reason="oversized")
        return elements

    def _text(self, low: int, high: int) -> str:
        try:
            return self.raw[low:high].decode("ascii")
        except UnicodeDecodeError:
            raise TrustError("model has an operator or domain name that is not ASCII", reason="malformed") from None

    def _fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(field number, wire type, first byte of the value, byte after it) of each field in ``at..end``."""
        raw = self.raw
        while at < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise AdmissionError(f"model has more than {MAX_FIELDS} fields", reason="oversized")
            tag = raw[at]
            if tag < 0x80:
                low = at + 1
            else:
                tag, low = self._varint(at, end)
            wire = tag & 7
            if wire == _LEN:
                length, low = self._varint(low, end)
                high = low + length
            elif wire == _I32:
                high = low + 4
            elif wire == _VARINT:
                high = self._varint(low, end)[1]
            elif wire == _I64:
                high = low + 8
            else:
                raise TrustError(f"model has a field of wire type {wire}, which ONNX does not use", reason="malformed")
            if high > end:
                raise TrustError("model is truncated: a field reaches past its message", reason="malformed")
            yield tag >> 3, wire, low, high
            at = high

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """Value of the base-128 number at `at`, and the byte after it."""
        value = shift = 0
        raw = self.raw
        while at < end:
            byte = raw[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                raise TrustError("model has a number of more than ten bytes", reason="malformed")
        raise TrustError("model is truncated inside a number", reason="malformed")


_TEXTS: dict[str, tuple[int, ...]] = {"Node": (_TYPE, _DOMAIN), "OperatorSet": (1,)}
