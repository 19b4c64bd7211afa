"""What an agent reads beside readings: bundles, models, metadata, orders, its own files after damage, agent.yaml."""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec
import yaml
from edgectl_agent import yamlfile
from edgectl_agent.checked import decode_checked, encode_checked
from edgectl_agent.config import Config
from edgectl_agent.core import airgap, bundle, listing, onnx_graph, recordings, segment
from edgectl_agent.core.arrays import unpack_array
from edgectl_agent.core.desired import Floor, Verdict
from edgectl_agent.core.errors import EdgeError, StorageError, TrustError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import AlertPage, Answer, Assignment, Order, OutboxRecord, Release, Report, SyncResult
from edgectl_agent.core.recovery import recover
from edgectl_agent.snapshots import SnapshotStore

from tests.fuzz.engine import Target, scratch
from tests.support.bundles import make_bundle

_COMPAT = Path(__file__).parents[1] / "compat"


def _sample(name: str) -> bytes:
    return (_COMPAT / "messages" / f"{name}-0.1.json").read_bytes()


def _bundle() -> Target:
    def run(data: bytes) -> Hashable:
        found = bundle.decode(data)
        assert bundle.decode(bundle.encode(found)) == found
        return len(found.features.features), found.golden.rows

    seeds = [bundle.encode(make_bundle(seed)) for seed in (1, 2)]
    words = (
        b"\xa6window",
        b"\xa4kind",
        b"\x81",
        b"\xc0",
        b"\xcb\x7f\xf8\0\0\0\0\0\0",
        b"\xcf",
        b"\x9f",
        b"\xda\xff\xff",
    )
    return Target("bundles", run, seeds, (TrustError,), words, weight=4)


def _onnx() -> Target:
    def run(data: bytes) -> Hashable:
        found = onnx_graph.check(data)
        return found.nodes, found.tensors

    seeds = [make_bundle(seed).model for seed in (1, 2)]
    words = (
        b"\x0a",
        b"\x3a",
        b"\x42",
        b"\x12",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"Loop",
        b"location",
        b"ORTM",
    )
    return Target("onnx models", run, seeds, (TrustError, EdgeError), words, weight=6)


def _records(count: int) -> bytes:
    chain, raw = segment.START, segment.encode_segment_header(1, segment.START)
    for seq in range(1, count + 1):
        one, chain = segment.encode_record(b"boot-1", seq, seq, b'{"alert":%d}' % seq, chain)
        raw += one
    return raw


def _mended(data: bytes) -> bytes:
    """Damaged records with checksums that fit: what a bad program, and not a bad disk, would write."""
    changed, at = bytearray(data), 0
    while (at := data.find(segment._RECORD_MAGIC, at)) >= 0 and at + segment._RECORD.size <= len(data):
        *_, length, _, _, boot = segment._RECORD.unpack_from(data, at)
        end = min(len(data), at + segment._RECORD.size + boot + length)
        changed[at + 4 : at + 8] = segment._checksum(bytes(changed[at + 8 : end]))
        at += 1
    return bytes(changed)


def _outbox() -> Target:
    def run(data: bytes) -> Hashable:
        how, raw = data[:1], data[1:]
        raw = _mended(raw) if how > b"\x80" else raw
        half = len(raw) // 2 if how > b"\xc0" else len(raw)
        firsts = [1] if half == len(raw) else [1, 3]
        parts = {1: raw[:half], 3: raw[half:]}
        seq = int.from_bytes(how) % 7
        head = segment.Head(seq=seq, released=min(seq, int.from_bytes(how) % 3))
        found = recover(firsts, parts.__getitem__, head if how else None, bool(how) and how[0] % 2 == 0)
        kept = sum(len(one.offsets) for one in found.segments)
        for one in found.segments:
            for at in one.offsets:
                if at != segment.GONE:
                    segment.decode_record(parts[one.first], at)
        assert all(low <= high for low, high in found.lost)
        assert found.head.released <= found.head.seq or not kept
        return kept, len(found.lost), found.tail is not None, min(found.torn, 1)

    seeds = [how + _records(count) for how, count in ((b"\x02", 5), (b"\x91", 3), (b"\xc4", 6))]
    return Target("outbox segments", run, seeds, words=(segment._RECORD_MAGIC, b"\0" * 32), longest=4096, weight=5)


def _heads() -> Target:
    def run(data: bytes) -> Hashable:
        head, both = segment.decode_head(data)
        return head is not None, both

    pages = bytearray(2 * segment.SLOT_BYTES)
    for one in (segment.Head(5, 2, generation=1), replace(segment.Head(6, 2), generation=2)):
        slot = segment.encode_head(one)
        pages[segment.slot_offset(one) : segment.slot_offset(one) + len(slot)] = slot
    return Target("outbox heads", run, [bytes(pages)], weight=2)


def _snapshot() -> Target:
    folder = scratch()
    header = struct.Struct("<8sIIQ")

    def run(data: bytes) -> Hashable:
        raw = data[1:]
        if data[:1] > b"\x80":  # the checksum fits: another program's file
            document = raw[header.size :]
            raw = header.pack(b"edgesnp\n", 1, google_crc32c.value(document), len(document)) + document
        (folder / "state.snap").write_bytes(raw)
        store = SnapshotStore(folder)
        state = store.load()
        return (state is not None and tuple(sorted(map(str, state)))), store.problem[:30]

    raw = (_COMPAT / "snapshots-0.1" / "state.snap").read_bytes()
    return Target("snapshots", run, [b"\0" + raw, b"\xff" + raw], (StorageError,), weight=2)


def _arrays() -> Target:
    def run(data: bytes) -> Hashable:
        try:
            said = msgspec.msgpack.decode(data)
        except UNREADABLE:
            return None
        if isinstance(said, dict):
            return str(unpack_array(said).dtype)
        return type(said).__name__

    one = msgspec.msgpack.encode({"dtype": "<f8", "shape": (2, 2), "data": b"\0" * 32})
    words = (b"<f8", b"|O8", b"<U9", b"<M8[ns]", b"\xcf" + b"\xff" * 8, b"f8,f8", b"(1000,1000)f8")
    return Target("arrays in snapshots", run, [one], (StorageError,), words, 2048, weight=2)


def _messages() -> Target:
    """Each document by each of its types; a wrong one raises one of three known errors."""
    types: tuple[Any, ...] = (Assignment, Release, Report, AlertPage, Order, Answer, SyncResult, OutboxRecord, Verdict,
                              airgap.Slice, airgap.Collected, Floor)  # fmt: skip

    def run(data: bytes) -> Hashable:
        found = msgspec.json.decode(data[1:], type=types[int.from_bytes(data[:1]) % len(types)])
        msgspec.json.encode(found)
        return type(found).__name__

    names = ("assignment", "release", "report", "alert-page")
    seeds = [bytes([i]) + _sample(name) for i, name in enumerate(names)]
    return Target("assignments, reports, orders", run, seeds, UNREADABLE, _keys(seeds), weight=6)


def _keys(documents: Sequence[bytes]) -> list[bytes]:
    import re

    return sorted({key for one in documents for key in re.findall(rb'"[A-Za-z_0-9]+"', one)})[:80]


def _metadata() -> Target:
    calls: tuple[Callable[[bytes], object], ...] = (
        lambda raw: listing.targets(raw, "models"),
        lambda raw: listing.root_version(raw),
        lambda raw: listing.file_of(raw, "snapshot", "models"),
        lambda raw: listing.placed(raw, "n1"),
        lambda raw: listing.assignment(listing.targets(raw, "rollout")),
    )

    def run(data: bytes) -> Hashable:
        calls[int.from_bytes(data[:1]) % len(calls)](data[1:])
        return data[:1]

    digest = b"ab" * 32
    seeds = [
        b'\0{"signed":{"_type":"targets","targets":{"a/b":{"length":3,"hashes":{"sha256":"%s"}}}}}' % digest,
        b"\x01" + b'{"signed":{"_type":"root","version":3},"signatures":[]}',
        b"\x02" + b'{"signed":{"meta":{"models.json":{"version":1,"length":9,"hashes":{"sha256":"%s"}}}}}' % digest,
        b"\x03" + _sample("assignment"),
    ]
    return Target("signed metadata, listed", run, seeds, (TrustError,), (b"../", b'"..\\/"', b'"targets"'), weight=4)


def _checked() -> Target:
    def run(data: bytes) -> Hashable:
        raw = data[1:]
        if data[:1] > b"\x80":
            raw = b'{"crc32c":%d,"value":%s}' % (google_crc32c.value(raw), raw)
        return type(decode_checked(raw, Floor)).__name__

    one = msgspec.json.encode(Floor(roles={"root": 1}, newest_signed_ns=5))
    return Target(
        "floor and state files", run, [b"\0" + encode_checked(Floor()), b"\xff" + one], (StorageError,), weight=3
    )


def _exports() -> Target:
    report = msgspec.json.decode(_sample("report"), type=Report)
    head = airgap.Head(edgectl_export=1, report=report, root_sha256="0" * 64, log_id="l")
    record = msgspec.json.decode(_sample("alert-page"), type=AlertPage).records
    whole = b"".join(airgap.write_export(head, [(record, ())]))

    def run(data: bytes) -> Hashable:
        raw = data[1:]
        if data[:1] > b"\x80":
            body = raw.rpartition(b"\n")[0] + b"\n" if not raw.endswith(b"\n") else raw
            raw = body + airgap_tail(body)
        found = airgap.read_export(raw, "stick")
        return len(found.records), found.lost

    body = whole.rstrip(b"\n").rpartition(b"\n")[0] + b"\n"
    return Target("files of an air gap", run, [b"\0" + whole, b"\xff" + body], (EdgeError,), weight=3)


def airgap_tail(body: bytes) -> bytes:
    """The last line of an export whose digest fits."""
    import hashlib

    count = max(0, len(body.splitlines()) - 1)
    return msgspec.json.encode(airgap.Tail(records=count, sha256=hashlib.sha256(body).hexdigest())) + b"\n"


def _recordings() -> Target:
    one = recordings.Delivered(streams=("m",), event_time=bytes(8), values=bytes(8), texts=())
    block = recordings.Block(seq=1, first=0, count=1, boot="b", begin_ns=1, end_ns=2, chunks=(one,))
    raw = msgspec.msgpack.encode(block)

    def run(data: bytes) -> Hashable:
        found = recordings.open_block(recordings.seal(data[1:]) if data[:1] > b"\x80" else data[1:])
        return found.count

    return Target("blocks of a recording", run, [b"\0" + recordings.seal(raw), b"\xff" + raw], (EdgeError,), weight=3)


def _agent_yaml() -> Target:
    def run(data: bytes) -> Hashable:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        return len(yamlfile.parse(text, Config, "agent.yaml").sources)

    sample = (_COMPAT / "messages" / "agent-0.1.yaml").read_bytes()
    sources = b"""version: 1
node: n1
data_dir: /d
sources:
  a: {type: mqtt, url: "mqtts://b:8883", topic: plant/+/vib, stream: topic.1, time: ts, channels: {v: v.r}}
  b: {type: syslog, listen: "127.0.0.1:5514", stream: host, time: time, channels: {s: severity}}
models: {r: [a, b]}
limits: {memory: 200M, cpu: 15%}
"""
    words = (
        b"sources:",
        b"type: http",
        b"type: tail",
        b"path: /x",
        b"*a",
        b"&a ",
        b"!!timestamp ",
        b"\n  ",
        b"? [a]\n: b",
    )
    return Target("agent.yaml", run, [sample, sources], (EdgeError,), words, 2048, weight=0.5)


def _plain_yaml() -> Target:
    """The YAML reader alone, which every file that a person writes goes through."""

    def run(data: bytes) -> Hashable:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        return type(yamlfile.plain(text, "x.yaml")).__name__

    bomb = b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n"
    seeds = [bomb, yaml.safe_dump({"a": [1, 2.5, None, {"b": "c"}], "t": "2026-03-14"}).encode()]
    return Target(
        "yaml", run, seeds, (EdgeError,), (b"*a", b"&a ", b"<<: *a", b"2001-01-01", b"1:2:3", b"|\n "), 1024, weight=0.5
    )


def targets() -> list[Target]:
    made = (
        _bundle, _onnx, _outbox, _heads, _snapshot, _arrays, _messages, _metadata, _checked, _exports, _recordings,
        _agent_yaml, _plain_yaml,
    )  # fmt: skip
    return [one() for one in made]
