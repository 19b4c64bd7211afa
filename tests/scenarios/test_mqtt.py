"""Against a real Mosquitto: mapping, both versions, TLS, shares, poison, and kills on either side.

``EDGECTL_MQTT_READINGS`` sets how many readings go through the test of kills (`make soak`: 200,000).
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from edgectl_agent.config import MqttConfig
from edgectl_agent.sources.interface import Chunk, Position

from tests.support.agents import START_S
from tests.support.mosquitto import Broker

pytestmark = pytest.mark.needs("mosquitto")

READINGS = int(os.environ.get("EDGECTL_MQTT_READINGS", "12000"))
KILLS = 2
STREAMS = 8
SECOND = 10**9
BEGIN = 1_700_000_000
Message = tuple[str, bytes]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


# ── the source alone ────────────────────────────────────────────────────────────────────────────────────────────────

_numbers = itertools.count()


class Reader:
    """An MQTT source as the worker drives it."""

    def __init__(self, url: str, topic: str | tuple[str, ...], node: str = "", **more: Any) -> None:
        from edgectl_agent.sources.mqtt import MqttSource

        settings = {"stream": "topic.1", "time": "ts", "channels": {"value": "v"}} | more
        self.source = MqttSource(MqttConfig(url=url, topic=topic, **settings), node or f"n{next(_numbers)}", "s")
        self.values: list[float] = []
        self.streams: list[str] = []
        self.rejected: Counter[str] = Counter()
        self.position: Position = {}
        self._open = False

    def __enter__(self) -> Reader:
        if not self._open:
            self.source.open(self.position)
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()
        self._open = False

    def poll(self, limit: int = 500) -> Chunk:
        chunk = self.source.poll(limit, 0.05)
        self.values += chunk.values[:, 0].tolist()
        self.streams += chunk.streams
        self.rejected.update(chunk.rejected)
        self.position = chunk.position
        if self.source.urgent:
            self.source.covered(self.position)
        return chunk

    def until(self, count: int, rejected: int = 0) -> None:
        """Poll until so many readings and rejects have come."""
        self._until(lambda: len(self.values) >= count and self.rejected.total() >= rejected)

    def subscribed(self) -> Reader:
        """Open, and wait until the session has its topics."""
        self.source.open(self.position)
        self._open = True
        self._until(lambda: bool(self.poll().position.get("topics")))
        return self

    def in_trouble(self, *words: str) -> None:
        self._until(lambda: all(word in self.source.trouble for word in words))

    def _until(self, done: Any) -> None:
        deadline = time.monotonic() + START_S
        while not done():
            assert time.monotonic() < deadline, (len(self.values), self.rejected, self.source.trouble)
            self.poll()


def record(value: float, at: float = BEGIN) -> bytes:
    return json.dumps({"ts": at, "v": value}).encode()


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_wildcards_topic_levels_and_every_form_of_payload(broker: Broker, protocol: str) -> None:
    top = f"forms{protocol}"
    with Reader(broker.url, (f"{top}/+/vib", f"{top}/deep/#"), protocol=protocol).subscribed() as reader:
        broker.publish(
            [
                (f"{top}/m1/vib", record(1)),
                (f"{top}/m2/vib", b"[" + record(2) + b"," + record(3) + b"]"),
                (f"{top}/m1/other", record(99)),
                (f"{top}/deep/a/b", record(4) + b"\n" + record(5) + b"\n"),
                (f"{top}/m3/vib", json.dumps({"v": 6, "ts": BEGIN}, indent=2).encode()),
            ]
        )
        reader.until(6)
    assert reader.values == [1, 2, 3, 4, 5, 6]
    assert reader.streams == ["m1", "m2", "m2", "deep", "deep", "m3"]
    assert not reader.rejected


def test_csv_and_streams_out_of_the_payload_or_one_for_all(broker: Broker) -> None:
    csv = Reader(broker.url, "csv/#", format="csv", columns=("ts", "m", "v"), stream="m")
    one = Reader(broker.url, "csv/#", format="csv", columns=("ts", "m", "v"), stream="=all")
    with csv.subscribed(), one.subscribed():
        broker.publish([("csv/x", b'1700000000,a,1.5\r\n1700000000,"b",2\r\n1,a\r\n')])
        csv.until(2, rejected=1)
        one.until(2)
    assert (csv.streams, csv.values, csv.rejected) == (["a", "b"], [1.5, 2], {"columns": 1})
    assert one.streams == ["all", "all"]


POISON = [
    (b"", "empty"),
    (b"{", "unparsable"),
    (b"\xff\xfe\x00", "unparsable"),
    (b"[" * 50_000, "unparsable"),
    (b'{"ts": 1700000000, "v": 1e309}', "not-finite"),
    (b'{"ts": 1700000000, "v": NaN}', "unparsable"),
    (b'{"ts": 1700000000, "v": "warm"}', "not-a-number"),
    (b'{"ts": "never", "v": 1}', "bad-time"),
    (b'{"v": 1}', "bad-time"),
    (b'{"v": "' + b"x" * (1 << 20) + b'"}', "too-long"),
    (b"[" + b"1," * 3_000_000 + b"1]", "too-long"),
]


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_poison_is_counted_acknowledged_and_holds_nothing_up(broker: Broker, protocol: str) -> None:
    top = f"poison{protocol}"
    with Reader(broker.url, f"{top}/+", node=top, protocol=protocol).subscribed() as reader:
        broker.publish([(f"{top}/m", payload) for bad, _ in POISON for payload in (record(1), bad)])
        reader.until(len(POISON), rejected=len(POISON))
        reader.source.covered(reader.position)
    assert reader.rejected == Counter(why for _, why in POISON)
    with reader:
        broker.publish([(f"{top}/m", record(2))])
        reader.until(len(POISON) + 1)
    assert reader.values[-1] == 2
    assert reader.rejected == Counter(why for _, why in POISON), "the broker sent some of it again"


def test_what_no_snapshot_covers_comes_again_and_what_one_covers_does_not(broker: Broker) -> None:
    with Reader(broker.url, "again/+", node="again").subscribed() as first:
        broker.publish([("again/m", record(i)) for i in range(7)])
        while len(first.values) < 4:
            first.poll(limit=1)
        stored = first.position
        first.until(7)  # and then the node is killed: nothing was acknowledged
    second = Reader(broker.url, "again/+", node="again")
    second.position = stored
    with second:
        second.until(3)
        second.source.covered(second.position)
    assert second.values == [float(i) for i in range(4, 7)]
    third = Reader(broker.url, "again/+", node="again")
    with third.subscribed():
        broker.publish([("again/m", record(99))])
        third.until(1)
    assert third.values == [99]


def test_a_retained_message_is_a_reading_once(broker: Broker) -> None:
    broker.publish([("kept/m", record(7))], retain=True)
    for protocol in ("3.1.1", "5"):
        reader = Reader(broker.url, "kept/+", node=f"kept{protocol}", protocol=protocol)
        with reader:
            reader.until(1)
            reader.source.covered(reader.position)
        with reader:
            broker.publish([("kept/m", record(8))])
            reader.until(2)
        assert reader.values == [7, 8]


def test_a_topic_that_is_configured_no_more_is_unsubscribed(broker: Broker) -> None:
    with Reader(broker.url, ("old/+", "new/+"), node="moved").subscribed() as reader:
        position = reader.position
    moved = Reader(broker.url, "new/+", node="moved")
    moved.position = position
    with moved:
        moved._until(lambda: moved.poll().position.get("topics") == "new/+")
        broker.publish([("old/m", record(1)), ("new/m", record(2))])
        moved.until(1)
    assert moved.values == [2]


def test_a_shared_subscription_gives_each_message_to_one_of_its_readers(broker: Broker) -> None:
    first, second = Reader(broker.url, "$share/g/pool/+"), Reader(broker.url, "$share/g/pool/+", protocol="3.1.1")
    with first.subscribed(), second.subscribed():
        broker.publish([(f"pool/m{i % 4}", record(i)) for i in range(200)])
        first._until(lambda: second.poll() is not None and len(first.values) + len(second.values) >= 200)
    assert sorted(first.values + second.values) == [float(i) for i in range(200)]
    assert min(len(first.values), len(second.values)) > 50
