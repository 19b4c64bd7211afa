"""Against a real Mosquitto: mapping, both versions, TLS, shares, poison, and kills on either side.

``EDGECTL_MQTT_READINGS`` sets how many readings go through the test of kills (`make soak`: 200,000).
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edgectl_agent.config import ClientTls, MqttConfig
from edgectl_agent.core.messages import SourceStatus
from edgectl_agent.snapshots import SnapshotStore
from edgectl_agent.sources.interface import Chunk, Position

from tests.support.agents import START_S, AgentProcess, outcome
from tests.support.mosquitto import Broker, Device
from tests.support.spikes import BEGIN, STREAMS, Fault, alerts_per_fault, newest_s, plant, record, watching
from tests.support.tls import Fleet

pytestmark = pytest.mark.needs("mosquitto")

READINGS = int(os.environ.get("EDGECTL_MQTT_READINGS", "8000"))
PATIENCE_S = START_S + READINGS / 500
KILLS = 2
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


# ── trouble ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tls_with_a_password_and_a_client_certificate_and_what_is_said_without(tmp_path: Path) -> None:
    fleet, other = Fleet(tmp_path / "acme", "acme"), Fleet(tmp_path / "other", "other")
    server, authority = fleet.node_files("broker", "127.0.0.1"), fleet.authority
    ca = {name: tmp_path / f"{name}.crt" for name in ("nodes", "other")}
    (tmp_path / "clients.crt").write_bytes(authority.trusted("operators"))
    ca["nodes"].write_bytes(fleet.authority.trusted("nodes"))
    ca["other"].write_bytes(other.authority.trusted("nodes"))
    (tmp_path / "passwords").touch(0o600)
    subprocess.run(["mosquitto_passwd", "-b", tmp_path / "passwords", "press", "secret"], check=True)
    (tmp_path / "mqtt.pw").write_text("secret\n")
    (tmp_path / "wrong.pw").write_text("guess\n")
    settings = [
        f"cafile {tmp_path / 'clients.crt'}", f"certfile {server['cert']}", f"keyfile {server['key']}",
        "require_certificate true", f"password_file {tmp_path / 'passwords'}",
    ]  # fmt: skip
    cert, key = str(authority.operator_certificate), str(authority.operator_key)
    with Broker(tmp_path / "broker", *settings) as broker:
        url = broker.url.replace("mqtt:", "mqtts:")
        tls = ClientTls(ca_file=str(ca["nodes"]), cert=cert, key=key)
        good: dict[str, Any] = {"user": "press", "password_file": str(tmp_path / "mqtt.pw"), "tls": tls}
        for protocol in ("3.1.1", "5"):
            with Reader(url, "t/+", protocol=protocol, **good).subscribed() as reader:
                assert reader.source.trouble == ""
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"tls": ClientTls(ca_file=str(ca["other"]))}, "its certificate is not trusted"),
            ({"password_file": str(tmp_path / "wrong.pw")}, "the broker refuses this client: Not authorized"),
            ({"password_file": str(tmp_path / "no.pw")}, "sources.s.password_file: "),
            ({"tls": ClientTls(ca_file=str(tmp_path / "mqtt.pw"))}, "sources.s.tls.ca_file: "),
            ({"tls": ClientTls(ca_file=str(ca["nodes"]), cert=cert, key="/no")}, "sources.s.tls: "),
        ]
        for changed, says in wrong:
            with Reader(url, "t/+", **good | changed) as reader:
                reader.in_trouble(says)


def test_a_topic_that_the_broker_refuses_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    rule = {"acltype": "subscribePattern", "topic": "open/+", "allow": True}
    rules = {
        "defaultACLAccess": {"publishClientSend": True, "publishClientReceive": True, "subscribe": False},
        "roles": [{"rolename": "reader", "acls": [rule]}],
        "groups": [{"groupname": "all", "roles": [{"rolename": "reader"}]}],
        "anonymousGroup": "all",
    }
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    (plugin,) = Path("/usr/lib").glob("*/mosquitto_dynamic_security.so")
    settings = (f"plugin {plugin}", f"plugin_opt_config_file {tmp_path / 'rules.json'}")
    with Broker(tmp_path / "broker", *settings) as broker, Reader(broker.url, ("open/+", "shut/+")) as reader:
        reader.in_trouble("the broker refuses to deliver shut/+ (Not authorized)")
        broker.publish([("open/m", record(1))])
        reader.until(1)


# ── whole agents ────────────────────────────────────────────────────────────────────────────────────────────────────


def node(folder: Path, broker: Broker, topic: str, **more: Any) -> AgentProcess:
    """An agent that reads `topic`/STREAM, whose model alerts on spikes."""
    entry = {"type": "mqtt", "url": broker.url, "topic": f"{topic}/+", "stream": "topic.1", "time": "ts",
             "channels": {"value": "v"}, "live": False} | more  # fmt: skip
    return watching(folder, entry)


def messages_of(topic: str, seconds: int, spikes: int) -> tuple[list[Message], set[Fault]]:
    """A plant's readings under `topic`/STREAM, and its spikes."""
    readings, faults = plant(seconds, spikes)
    return [(f"{topic}/{stream}", body) for stream, body in readings], faults


def source(agent: AgentProcess) -> SourceStatus:
    return agent.status().sources[0]


def test_killed_agents_and_killed_brokers_lose_and_double_no_alert(tmp_path: Path) -> None:
    seconds = READINGS // STREAMS
    messages, faults = messages_of("kills", seconds, spikes=max(20, seconds // 60))
    part = -(-len(messages) // (2 * KILLS))
    broker = Broker(tmp_path / "broker", durable=True)
    agent = node(tmp_path / "n1", broker, "kills")
    agent.start()
    agent.wait(lambda: agent.answers() and source(agent).state == "failed")
    assert "cannot be reached: Connection refused" in source(agent).detail
    broker.start()
    agent.wait(lambda: source(agent).state == "running")
    with broker, Device(broker) as device:
        for life, start in enumerate(range(0, len(messages), part)):
            sending = threading.Thread(target=device.send, args=(messages[start : start + part],))
            sending.start()
            half_way = (start + part // 2) // STREAMS
            agent.wait(lambda: agent.answers() and newest_s(agent) >= half_way, PATIENCE_S)  # noqa: B023 - called at once
            if life % 2:
                broker.kill()
                broker.start()
                agent.wait(lambda: newest_s(agent) > half_way, PATIENCE_S)  # noqa: B023
            agent.kill()
            sending.join()
            device.remind()
            agent.start()
        agent.wait(agent.answers)
        agent.wait(lambda: newest_s(agent) == seconds - 1, 2 * PATIENCE_S)
        found = agent.alerts()
        assert source(agent).rejected == {}
        assert agent.terminate() == 0
    assert alerts_per_fault(tmp_path, found) == Counter(faults)


def test_an_agent_killed_while_it_reads_ends_with_the_same_features_and_alerts(tmp_path: Path, broker: Broker) -> None:
    messages, _ = messages_of("same", 300, spikes=20)
    names = ("whole", "killed")
    for name in names:  # the session begins before the messages
        with Reader(broker.url, "same/+", client_id=name, protocol="3.1.1").subscribed():
            pass
    whole, killed = (node(tmp_path / n, broker, "same", client_id=n, protocol="3.1.1") for n in names)
    broker.publish(messages)
    for delay_s in (0.0, 0.1):
        killed.start()
        killed.wait(killed.answers)
        time.sleep(delay_s)
        killed.kill()
    found = []
    for agent in (whole, killed):
        with agent:
            agent.wait(lambda: newest_s(agent) == 299)  # noqa: B023
            found.append(outcome(agent.alerts()))
            assert agent.terminate() == 0
    assert found[0] == found[1]
    assert len(found[0]) > 30
    saved = [SnapshotStore(agent.data_dir / "snapshots").load() for agent in (whole, killed)]
    models = [state["models"]["press"] for state in saved if state]
    assert models[0]["streams"] == models[1]["streams"]
    assert models[0]["detector"]["features"] == models[1]["detector"]["features"]
    broker.publish([("same/m0", record(42))])
    with Reader(broker.url, "same/+", client_id="killed", protocol="3.1.1") as left:
        left.until(1)
    assert left.values == [42], "the broker still had what the last snapshot covers"
