"""Against a real Kafka broker: resumption, outages, hand-over between nodes, and what a broker may throw at one.

``EDGECTL_KAFKA_READINGS`` and ``EDGECTL_KAFKA_KILLS`` set how many readings go through the test of kills, and how often
the broker is killed in it (`make soak`: 200,000 and 2).
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edgectl_agent.config import KafkaConfig, Sasl
from edgectl_agent.core.messages import Alert
from edgectl_agent.snapshots import SnapshotStore
from edgectl_agent.sources.interface import Chunk, Position, SourceError

from tests.support.agents import START_S, AgentProcess, outcome
from tests.support.kafka import PASSWORD, USER, Broker
from tests.support.spikes import BEGIN, STREAMS, Fault, alerts_per_fault, newest_s, plant, watching
from tests.support.tls import Fleet

pytestmark = pytest.mark.needs("a Kafka broker")

READINGS = int(os.environ.get("EDGECTL_KAFKA_READINGS", "10000"))
KILLS = int(os.environ.get("EDGECTL_KAFKA_KILLS", "1"))


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("trust"), "acme")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, trust: Fleet) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("broker")
    files = trust.node_files("broker", "127.0.0.1")
    keystore = folder / "keystore.pem"
    keystore.write_bytes(files["key"].read_bytes() + files["cert"].read_bytes())
    (folder / "ca.crt").write_bytes(trust.authority.trusted("nodes"))
    with Broker(folder, keystore) as running:
        yield running


# ── agents ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def node(folder: Path, broker: Broker, topic: str, name: str = "n1", **more: Any) -> AgentProcess:
    """An agent that reads `topic`, whose model alerts on spikes."""
    entry = {
        "type": "kafka",
        "brokers": [broker.address],
        "topics": [topic],
        "group": f"g-{topic}",
        "stream": "@key",
        "time": "ts",
        "channels": {"value": "v"},
        "live": False,
        "session": "3s",
    }
    return watching(folder, entry | more, node=name)


def keyed(seconds: int, spikes: int, first: int = 0) -> tuple[list[tuple[bytes, bytes]], set[Fault]]:
    """A plant's readings as messages (key, value), and its spikes."""
    readings, faults = plant(seconds, spikes, first)
    return [(stream.encode(), body) for stream, body in readings], faults


def accepted(agent: AgentProcess) -> int:
    """Readings taken on this boot."""
    return agent.status().sources[0].accepted


def outage(agent: AgentProcess) -> str:
    """What the node's status says of its broker; empty while it reads."""
    report = agent.status()
    return report.sources[0].detail if report.state == "degraded" else ""


def test_killed_agents_and_a_killed_broker_lose_and_double_no_alert(tmp_path: Path, broker: Broker) -> None:
    seconds = READINGS // STREAMS
    messages, faults = keyed(seconds, spikes=max(20, seconds // 60))
    broker.topic("kills", partitions=2)
    part = -(-len(messages) // (2 * KILLS))
    agent, found, kills = node(tmp_path / "n1", broker, "kills"), list[Alert](), 0
    with agent:
        for life, start in enumerate(range(0, len(messages), part)):
            half, end = start + part // 2, start + part
            broker.send("kills", messages[start:half])
            agent.wait(lambda: agent.answers() and newest_s(agent) >= start // STREAMS)  # noqa: B023 - called at once
            found += agent.alerts()
            producing = threading.Thread(target=broker.send, args=("kills", messages[half:end]))
            producing.start()
            agent.kill()
            if life % 2:
                broker.kill()
                agent.start()
                agent.wait(lambda: agent.answers() and "Connection refused" in outage(agent))
                assert f"no broker of {broker.address} takes this node in" in outage(agent)
                broker.start()
            else:
                agent.start()
            kills += 1
            agent.wait(lambda: agent.answers() and newest_s(agent) > half // STREAMS)  # noqa: B023
            assert not outage(agent)
            producing.join()
        agent.wait(lambda: sum(broker.committed("g-kills", "kills").values()) == len(messages))
        found += agent.alerts()
    assert alerts_per_fault(tmp_path, found) == Counter(faults)
    print(f"{len(messages):,} readings, {KILLS} kills of the broker, {kills} of the agent, {len(faults)} alerts")


def test_an_agent_killed_while_it_reads_ends_with_the_same_features_and_alerts(tmp_path: Path, broker: Broker) -> None:
    messages, _ = keyed(1200, spikes=40)
    broker.topic("same")
    broker.send("same", messages)
    last = len(messages) // STREAMS - 1
    with node(tmp_path / "whole", broker, "same", group="whole") as whole:
        whole.wait(lambda: newest_s(whole) == last)
        expected = outcome(whole.alerts())
        assert whole.terminate() == 0
    killed = node(tmp_path / "killed", broker, "same", group="killed", buffer="2M")
    for delay_s in (0.05,):
        killed.start()
        killed.wait(killed.answers)
        time.sleep(delay_s)
        killed.kill()
    with killed:
        killed.wait(lambda: newest_s(killed) == last)
        found = outcome(killed.alerts())
        assert killed.terminate() == 0
    assert found == expected
    models = [SnapshotStore(agent.data_dir / "snapshots").load() for agent in (whole, killed)]
    features, streams = zip(*((m["models"]["press"]["detector"]["features"], m["models"]["press"]["streams"])
                              for m in models if m), strict=True)  # fmt: skip
    assert streams[0] == streams[1]
    assert features[0] == features[1]


def flow(broker: Broker, topic: str, first: int, enough: threading.Event, ended: list[int]) -> None:
    """Readings without faults from second `first` on, ten seconds at a time until `enough`, and then 200 more."""
    while not enough.is_set():
        broker.send(topic, keyed(10, spikes=0, first=first)[0])
        first += 10
        time.sleep(0.02)
    broker.send(topic, keyed(200, spikes=0, first=first)[0])
    ended.append(first + 200)


def test_two_nodes_of_one_group_hand_a_partition_over_and_back_without_a_double_reading_or_alert(
    tmp_path: Path, broker: Broker
) -> None:
    broker.topic("shared", partitions=2)
    first, second = node(tmp_path / "n1", broker, "shared", "n1"), node(tmp_path / "n2", broker, "shared", "n2")
    alone, alone_faults = keyed(500, spikes=20)
    joined, ended = threading.Event(), list[int]()
    with first:
        broker.send("shared", alone)
        first.wait(lambda: accepted(first) == len(alone))
        flowing = threading.Thread(target=flow, args=(broker, "shared", 500, joined, ended))
        flowing.start()  # the hand-over happens under load
        with second:
            second.wait(lambda: accepted(second) > 0)
            joined.set()
            flowing.join()
            both, both_faults = keyed(500, spikes=20, first=ended[0])
            broker.send("shared", both)
            end = (ended[0] + 500) * STREAMS
            first.wait(lambda: accepted(first) + accepted(second) >= end)
            assert accepted(first) + accepted(second) == end, "a reading was taken by both"
            theirs = second.alerts()
            assert second.terminate() == 0
            assert 0 < len({alert.id for alert in theirs}) < 20
        again, again_faults = keyed(500, spikes=20, first=ended[0] + 500)
        broker.send("shared", again)
        end += len(again)
        first.wait(lambda: sum(broker.committed("g-shared", "shared").values()) == end)
        mine = first.alerts()
    assert alerts_per_fault(tmp_path, mine, theirs) == Counter(alone_faults | both_faults | again_faults)


# ── the source alone ────────────────────────────────────────────────────────────────────────────────────────────────


class Reader:
    """A Kafka source as the worker drives it."""

    def __init__(self, address: str, topic: str, member: str = "n1.k", **more: Any) -> None:
        from edgectl_agent.sources.kafka import KafkaSource

        settings = {"stream": "@key", "time": "ts", "channels": {"value": "v"}, "group": f"g-{topic}", "session": "3s"}
        config = KafkaConfig(brokers=(address,), topics=(topic,), **settings | more)
        self.source = KafkaSource(config, member)
        self.values: list[float] = []
        self.streams: list[str] = []
        self.rejected: Counter[str] = Counter()
        self.position: Position | None = None

    def __enter__(self) -> Reader:
        self.source.open(self.position)
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    def poll(self, limit: int = 500) -> Chunk:
        chunk = self.source.poll(limit, 0.1)
        self.values += chunk.values[:, 0].tolist()
        self.streams += chunk.streams
        self.rejected.update(chunk.rejected)
        self.position = chunk.position
        return chunk

    def until(self, done: Callable[[], object], limit: int = 500) -> None:
        deadline = time.monotonic() + START_S
        while not done():
            assert time.monotonic() < deadline, (self.source.trouble, self.rejected, len(self.values))
            self.poll(limit)


def numbers(first: int, last: int) -> list[tuple[bytes, bytes]]:
    return [(b"m", b'{"ts": %d, "v": %d}' % (BEGIN + i, i)) for i in range(first, last)]


def test_poison_is_counted_by_reason_and_holds_nothing_up(broker: Broker) -> None:
    broker.topic("poison", max_message_bytes=4 << 20)
    good = numbers(0, 3)
    broker.send(
        "poison",
        [
            good[0],
            (b"m", None),
            (b"m", b""),
            (b"m", b'{"ts": 1, "v": 1' + b" " * (2 << 20)),
            (b"m", b'{"ts": 1, "v": 1e309}'),
            (b"m", b'{"ts": "no", "v": 1}'),
            (b"m", b"[" * 100_000),
            (b"\xff\xfe", b'{"ts": 1, "v": 1}'),
            (None, b'{"ts": 1, "v": 1}'),
            *good[1:],
        ],
    )
    with Reader(broker.address, "poison") as reader:
        reader.until(lambda: len(reader.values) == 3)
    assert (reader.values, reader.streams) == ([0, 1, 2], ["m"] * 3)
    assert reader.rejected == {
        "tombstone": 1, "empty": 1, "too-long": 1, "not-finite": 1, "bad-time": 1, "unparsable": 1, "bad-stream": 2
    }  # fmt: skip


def test_a_batch_that_grows_beyond_all_bounds_when_unpacked_is_counted_and_passed_over(broker: Broker) -> None:
    from confluent_kafka import Producer

    broker.topic("bomb", compression_type="zstd")
    broker.send("bomb", numbers(0, 3))
    settings: dict[str, Any] = {"bootstrap.servers": broker.address, "compression.type": "gzip", "log_level": 0}
    producer = Producer(settings | {"message.max.bytes": 100_000_000})
    producer.produce("bomb", b"0" * 50_000_000, b"m")
    assert producer.flush(START_S) == 0
    broker.send("bomb", numbers(3, 6))
    with Reader(broker.address, "bomb") as reader:
        reader.until(lambda: len(reader.values) == 6)
    assert (reader.values, reader.rejected) == (list(range(6)), {"corrupt": 1})


def test_csv_messages_are_read_by_their_columns(broker: Broker) -> None:
    broker.topic("csv")
    broker.send("csv", [(None, b"%d,m%d,%d\r\n" % (BEGIN, i, i)) for i in range(3)] + [(None, b"1,2")])
    reader = Reader(broker.address, "csv", stream="machine", format="csv", columns=("ts", "machine", "v"))
    with reader:
        reader.until(lambda: reader.rejected)
    assert (reader.values, reader.streams, reader.rejected) == ([0, 1, 2], ["m0", "m1", "m2"], {"columns": 1})


def test_what_was_deleted_before_it_was_read_is_counted_and_the_rest_is_read(broker: Broker) -> None:
    broker.topic("short")
    broker.send("short", numbers(0, 100))
    with Reader(broker.address, "short") as reader:
        reader.until(lambda: len(reader.values) == 10, limit=1)
    assert reader.position is not None
    assert reader.position["short:0"] == 10
    broker.delete_before("short", 0, 70)
    with reader:
        reader.until(lambda: len(reader.values) == 40)
        assert reader.values[10:] == list(range(70, 100))
        assert reader.rejected == {"deleted-upstream": 60}
        reader.source.covered(reader.position)
        reader.until(lambda: broker.committed("g-short", "short") == {0: 100})


def test_a_topic_that_was_made_anew_is_read_from_its_start_and_so_is_another_cluster(broker: Broker) -> None:
    broker.topic("anew")
    broker.send("anew", numbers(0, 20))
    with Reader(broker.address, "anew") as reader:
        reader.until(lambda: len(reader.values) == 20)
        assert reader.position is not None
        reader.source.covered(reader.position)
        reader.until(lambda: broker.committed("g-anew", "anew") == {0: 20})
    broker.delete("anew")
    broker.topic("anew")
    broker.send("anew", numbers(50, 55))
    with reader:
        reader.until(lambda: len(reader.values) == 25)
        assert reader.rejected == {"offset-reset": 1}
        reader.source.covered(reader.position)
        reader.until(lambda: broker.committed("g-anew", "anew") == {0: 5})
    other = Reader(broker.address, "anew", group="g-elsewhere")
    other.position = {"cluster": "another", "anew:0": 3}
    with other:
        other.until(lambda: len(other.values) == 5)


def test_gaps_between_offsets_mean_nothing_and_what_was_not_committed_is_not_read(broker: Broker) -> None:
    from confluent_kafka import Producer

    broker.topic("gaps")
    producer = Producer({"bootstrap.servers": broker.address, "transactional.id": "plant", "log_level": 0})
    producer.init_transactions(START_S)
    for first, kept in ((0, True), (5, False), (5, True)):  # each end of a transaction takes an offset
        producer.begin_transaction()
        for key, value in numbers(first, first + 5):
            producer.produce("gaps", value, key)
        producer.flush(START_S)
        (producer.commit_transaction if kept else producer.abort_transaction)(START_S)
    with Reader(broker.address, "gaps") as reader:
        reader.until(lambda: len(reader.values) == 10)
        assert reader.position is not None
        assert (reader.values, reader.position["gaps:0"]) == (list(range(10)), 17)
        broker.send("gaps", numbers(10, 12))
        reader.until(lambda: len(reader.values) == 12)
    assert (reader.values, reader.rejected) == (list(range(12)), {})


def test_only_what_is_covered_is_committed(broker: Broker) -> None:
    broker.topic("slow")
    broker.send("slow", numbers(0, 100))
    with Reader(broker.address, "slow", session="1s") as reader:
        reader.until(lambda: len(reader.values) == 30, limit=1)
        position = reader.position
        assert position is not None
        reader.until(lambda: len(reader.values) == 100)
        assert broker.committed("g-slow", "slow") == {}
        reader.source.covered(position)
        reader.until(lambda: broker.committed("g-slow", "slow"))
    assert broker.committed("g-slow", "slow") == {0: 30}
    with Reader(broker.address, "slow", "n2.k") as other:  # a node without state takes the group's word
        other.source.on_arrival = lambda: None
        other.until(lambda: len(other.values) == 70)
    assert other.values == list(range(30, 100))


def test_a_slow_worker_bounds_what_is_fetched_and_misses_nothing(broker: Broker) -> None:
    broker.topic("big")
    padding = b'"' + b"x" * 4000 + b'"'
    messages = [(b"m", b'{"ts": %d, "v": %d, "pad": %s}' % (BEGIN + i, i, padding)) for i in range(2000)]
    broker.send("big", messages)
    with Reader(broker.address, "big", buffer="2M") as reader:
        reader.until(lambda: len(reader.values) == 10, limit=1)
        time.sleep(1.0)  # several turns of the member with a full inbox: it pauses
        held = reader.source._inbox.bytes
        reader.until(lambda: len(reader.values) == 2000)
    assert reader.values == list(range(2000))
    assert 500_000 < held < 3_000_000


def test_a_password_over_tls_opens_the_door_and_a_wrong_one_is_said(tmp_path: Path, broker: Broker) -> None:
    from edgectl_agent.config import ClientTls

    broker.topic("secret")
    broker.send("secret", numbers(0, 5))
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    tls = ClientTls(ca_file=str(broker.folder / "ca.crt"))
    sasl = Sasl(user=USER, password_file=str(secret), mechanism="PLAIN")
    with Reader(broker.secure, "secret", tls=tls, sasl=sasl) as reader:
        reader.until(lambda: len(reader.values) == 5)
    secret.write_text("guess\n")
    with Reader(broker.secure, "secret", tls=tls, sasl=sasl) as refused:
        refused.until(lambda: "uthentication failed" in refused.source.trouble)
    assert refused.values == []
    secret.unlink()
    with pytest.raises(SourceError, match="password cannot be read: No such file or directory"), refused:
        pass


def test_a_second_agent_of_the_same_name_puts_the_first_one_out_in_one_sentence(broker: Broker) -> None:
    broker.topic("twins")
    with Reader(broker.address, "twins") as first:
        first.until(lambda: not first.source.waiting)
        with Reader(broker.address, "twins") as second:
            second.until(lambda: not second.source.waiting)
            with pytest.raises(SourceError, match="two agents have the same node name and source"):
                first.until(lambda: False)
            second.poll()


def test_a_topic_that_is_missing_is_said_until_it_is_there(broker: Broker) -> None:
    with Reader(broker.address, "absent") as reader:
        reader.until(lambda: "absent" in reader.source.trouble)
