"""Topics, payloads and the stream of bytes of MQTT: laws, and what is refused."""

from __future__ import annotations

import json
from collections import deque
from itertools import pairwise

import pytest
from edgectl_agent.core.topics import filter_problem, level_of, part
from edgectl_agent.sources.mqtt_socket import Malformed, Message, Trimmer
from edgectl_agent.sources.payloads import records
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("text", ["a", "/", "+", "#", "a/+/b/#", "+/+", "/a", "$share/g/a/#", "é/ü"])
def test_a_topic_filter_of_the_standard_is_taken(text: str) -> None:
    assert filter_problem(text) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "found nothing"),
        ("a/#/b", "# only as the last level"),
        ("a#", "# only as the last level"),
        ("a/b+", "+ only as a whole level"),
        ("$share/g", "$share/GROUP/TOPIC"),
        ("$share//a", "$share/GROUP/TOPIC"),
        ("$share/+/a", "$share/GROUP/TOPIC"),
        ("a\0b", "zero byte"),
        ("x" * 65_536, "65535 bytes"),
    ],
)
def test_any_other_is_refused_with_what_was_expected(text: str, says: str) -> None:
    assert says in filter_problem(text)


def test_a_level_of_the_topic_names_the_stream() -> None:
    assert [level_of(c) for c in ("topic", "topic.1", "topic.x", "topics", "v.topic")] == [-1, 1, None, None, None]
    assert [part("plant/m1/vib", n) for n in (-1, 0, 1, 3)] == ["plant/m1/vib", "plant", "m1", ""]


# ── payloads ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.dictionaries(st.text(), st.integers()), min_size=1))
def test_one_record_an_array_and_lines_give_the_same_records(found: list[dict[str, int]]) -> None:
    texts = [json.dumps(one).encode() for one in found]
    as_lines = records(b"\r\n".join(texts), "json")
    as_array = records(b" [" + b" , ".join(texts) + b"]", "json")
    assert [json.loads(t) for t in as_lines] == [json.loads(t) for t in as_array] == found
    assert [list(records(json.dumps(one, indent=1).encode(), "json")) for one in found] == [
        [json.dumps(one, indent=1).encode()] for one in found
    ]


@given(st.binary(), st.sampled_from(["json", "csv"]))
def test_no_payload_raises_and_no_byte_that_matters_is_lost(payload: bytes, form: str) -> None:
    found = b"".join(records(payload, form))  # type: ignore[arg-type]
    if not payload.lstrip(b" \t\r\n").startswith(b"["):
        assert found.translate(None, b" \t\r\n\f\v") == payload.translate(None, b" \t\r\n\f\v")


def test_deep_nesting_and_half_an_array_come_back_as_they_are() -> None:
    for payload in (b"[" * 100_000, b"[1, 2", b"[{}}]"):
        assert list(records(payload, "json")) == [payload]


# ── packets ─────────────────────────────────────────────────────────────────────────────────────────────────────────

LIMIT = 200


def packet(kind: int, body: bytes) -> bytes:
    out, size = bytearray([kind]), len(body)
    while True:
        size, low = divmod(size, 128)
        out.append(low | (0x80 if size else 0))
        if not size:
            return bytes(out) + body


def publish(topic: bytes, payload: bytes, properties: bytes = b"", identifier: int = 7) -> bytes:
    head = len(topic).to_bytes(2) + topic + identifier.to_bytes(2)
    length = packet(0, properties)[1:] if properties else b"\0"
    return packet(0x32, head + length + payload)


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(at), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


SMALL = st.builds(packet, st.sampled_from([0x20, 0x32, 0x40, 0x90, 0xD0]), st.binary(max_size=LIMIT))
LARGE = st.builds(publish, st.binary(max_size=300), st.binary(min_size=LIMIT, max_size=400))


@given(st.data(), st.lists(st.one_of(SMALL, LARGE), max_size=5))
def test_the_outcome_does_not_depend_on_how_bytes_arrive(data: st.DataObject, packets: list[bytes]) -> None:
    stream = b"".join(packets)
    at = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    trimmer = Trimmer(LIMIT, version5=True)
    in_parts = b"".join(map(trimmer.feed, cut(stream, at)))
    assert in_parts == Trimmer(LIMIT, version5=True).feed(stream)


USUAL = st.builds(publish, st.binary(max_size=30), st.binary(max_size=60))


@given(st.data(), st.lists(st.one_of(SMALL, LARGE, USUAL), max_size=8))
def test_messages_that_are_taken_out_keep_their_place_among_the_packets(
    data: st.DataObject, packets: list[bytes]
) -> None:
    stream = b"".join(packets)
    at = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    taken: deque[Message] = deque()
    trimmer, found = Trimmer(LIMIT, version5=True, messages=taken), b""
    for piece in cut(stream, at):
        out = trimmer.feed(piece)
        found += b"".join(publish(m.topic, m.payload, identifier=m.identifier) for m in taken) + out
        taken.clear()
    assert found == Trimmer(LIMIT, version5=True).feed(stream)


@given(st.binary(min_size=1, max_size=30), st.binary(max_size=60), st.booleans())
def test_a_usual_message_is_taken_out_and_one_with_properties_is_not(
    topic: bytes, payload: bytes, version5: bool
) -> None:
    taken: deque[Message] = deque()
    usual = publish(topic, payload) if version5 else packet(0x30, len(topic).to_bytes(2) + topic + payload)
    trimmer = Trimmer(LIMIT, version5, taken)
    assert trimmer.feed(usual[:-1]) + trimmer.feed(usual[-1:]) == b""
    assert list(taken) == [Message(topic, payload, 7 if version5 else 0)]
    if version5:
        other = publish(topic, payload, b"\x01\x01")
        assert trimmer.feed(other) == other


@given(st.lists(SMALL, max_size=5))
def test_small_packets_come_out_as_they_went_in(packets: list[bytes]) -> None:
    stream = b"".join(packets)
    assert Trimmer(LIMIT, version5=False).feed(stream) == stream


@given(st.binary(max_size=100), st.integers(0, 3 * LIMIT), st.integers(0, 70_000))
def test_a_message_that_is_too_large_keeps_its_head_and_the_next_one_is_whole(
    topic: bytes, size: int, more: int
) -> None:
    message = publish(topic, b"p" * size, b"q" * more)
    after = packet(0xD0, b"")
    found = Trimmer(LIMIT, version5=True).feed(message + after)
    assert found.endswith(after)
    if len(message) > LIMIT + 4:
        kept = publish(topic, b"p" * min(size, LIMIT), b"q" * more if more <= 65_536 else b"")
        assert found == kept + after


def test_bytes_that_are_not_mqtt_are_refused() -> None:
    for raw in (b"\x32\xff\xff\xff\xff\x01", packet(0x32, b"\0\x01a\0\x01" + b"\xff" * 300)):
        with pytest.raises(Malformed):
            Trimmer(LIMIT, version5=True).feed(raw)
