"""A real Kafka broker of the tests' own: one node with its controller (KRaft) on loopback, from Maven's jars.

with Broker(folder) as broker:
    broker.topic("plant", partitions=2)
    broker.send("plant", [(b"m1", b'{"ts": 1, "value": 2}')])
    broker.kill(); broker.start()      # SIGKILL; what was acknowledged is still there

`python -m tests.support.kafka` fetches the jars (43 MB) ahead of the tests.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.support.ports import wait_until_it_listens

VERSION = "4.1.1"
START_S = 60.0
USER, PASSWORD = "edge", "plant-4711"

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
  </dependencies>
</project>
"""
_JAVA = ("java", "-Xmx256m", "-Xms32m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:ReservedCodeCacheSize=48m")


def missing() -> str | None:
    """Why there can be no broker; None if there can. The first call may fetch the jars."""
    if importlib.util.find_spec("confluent_kafka") is None:
        return "needs confluent-kafka (pip install 'edgectl-agent[kafka]')"
    if shutil.which("mvn") is None or shutil.which("java") is None:
        return "needs Maven and a JDK 17"
    found = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', found)
    if version is None or int(version[1]) < 17:
        return "needs Maven and a JDK 17"
    try:
        classpath()
    except (OSError, subprocess.SubprocessError) as e:
        return f"needs a Kafka broker's jars, which Maven did not bring: {e}"
    return None


@functools.cache
def classpath() -> str:
    """The broker's jars in Maven's own cache, fetched where they are missing; one process at a time.

    Raises OSError or subprocess.SubprocessError.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgectl-tests" / f"kafka-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = folder / "classpath"
        if known.exists() and all(map(os.path.exists, known.read_text().split(":"))):
            return known.read_text()
        (folder / "pom.xml").write_text(_POM)
        goal = ["dependency:build-classpath", "-DincludeScope=runtime", f"-Dmdep.outputFile={known}"]
        subprocess.run(
            ["mvn", "-q", "-B", "-f", str(folder / "pom.xml"), *goal],
            check=True, timeout=600, stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        return known.read_text()


def _free_ports(count: int) -> list[int]:
    with_port = [socket.socket() for _ in range(count)]
    for one in with_port:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in with_port]
    for one in with_port:
        one.close()
    return ports


class Broker:
    """One broker with its data in `folder`; what it acknowledged survives `kill`.

    Args:
        keystore: PEM file of a private key and its certificate for 127.0.0.1: the broker then also listens at
            `secure`, where it wants TLS and `USER` with `PASSWORD` (SASL PLAIN).
        settings: further lines of server.properties.
    """

    def __init__(self, folder: Path, keystore: Path | None = None, **settings: object) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        plain, controller, secure = _free_ports(3)
        self.address, self.secure = f"127.0.0.1:{plain}", f"127.0.0.1:{secure}"
        listeners = f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{controller}"
        lines: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
            "log.dirs": folder / "data",
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "auto.create.topics.enable": "false",
            "broker.session.timeout.ms": 1500,  # a killed broker comes back as soon as that is over
            "broker.heartbeat.interval.ms": 300,
            "controller.quorum.election.timeout.ms": 500,
            "log.cleaner.dedupe.buffer.size": 2 << 20,
            "num.network.threads": 1,
            "num.io.threads": 2,
            "background.threads": 2,
        }
        for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
            lines[f"{topic}.replication.factor"] = lines[f"{topic}.num.partitions"] = 1
            lines[f"{topic}.min.isr"] = 1
        if keystore is not None:
            listeners += f",SASL_SSL://{self.secure}"
            login = f'required username="x" password="x" user_{USER}="{PASSWORD}"'
            lines |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": keystore,
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl_ssl.plain.sasl.jaas.config": (
                    f"org.apache.kafka.common.security.plain.PlainLoginModule {login};"
                ),
            }
        lines |= {"listeners": listeners}
        lines |= {key.replace("_", "."): value for key, value in settings.items()}
        (folder / "server.properties").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Broker:
        raw = b"\0" + uuid.uuid4().bytes[1:]  # begins with A: what begins with - is taken for an option
        identity = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        done = subprocess.run(
            self._command("kafka.tools.StorageTool", "format", "-t", identity, "-c"), capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, wait: bool = True) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command("kafka.Kafka"), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it takes requests."""
        assert self.process is not None
        port = int(self.address.rpartition(":")[2])
        wait_until_it_listens(self.process, port, self.folder / "log", START_S)
        self._admin.list_topics(timeout=START_S)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    # ── what an operator and a producer do ──────────────────────────────────────────────────────────────────────────

    def topic(self, name: str, partitions: int = 1, **settings: object) -> None:
        """Make a topic; ``retention_ms=1000`` sets ``retention.ms``."""
        from confluent_kafka.admin import NewTopic

        config = {key.replace("_", "."): str(value) for key, value in settings.items()}
        for made in self._admin.create_topics([NewTopic(name, partitions, 1, config=config)]).values():
            made.result(START_S)

    def delete(self, topic: str) -> None:
        """Delete a topic and what the groups committed for it."""
        for done in self._admin.delete_topics([topic]).values():
            done.result(START_S)

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Do what retention does: every record below `offset` is gone."""
        from confluent_kafka import TopicPartition

        for done in self._admin.delete_records([TopicPartition(topic, partition, offset)]).values():
            done.result(START_S)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """Partition → the offset at which the group goes on."""
        from confluent_kafka import ConsumerGroupTopicPartitions

        asked = [ConsumerGroupTopicPartitions(group)]
        (found,) = (f.result(START_S) for f in self._admin.list_consumer_group_offsets(asked).values())
        return {p.partition: p.offset for p in found.topic_partitions if p.topic == topic and p.offset >= 0}

    def send(
        self, topic: str, messages: Iterable[tuple[bytes | None, bytes | None]], partition: int | None = None
    ) -> None:
        """Produce (key, value) pairs in order and wait until every one is acknowledged; a broker that is down is
        waited for."""
        more: dict[str, Any] = {} if partition is None else {"partition": partition}
        failed: list[object] = []
        for key, value in messages:
            while True:
                try:
                    self._producer.produce(
                        topic, value, key, on_delivery=lambda e, _: failed.append(e) if e else None, **more
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self._producer.poll(0)
        left = self._producer.flush(2 * START_S)
        assert not left, f"{left} messages are not acknowledged"
        assert not failed, failed[:3]

    @functools.cached_property
    def _admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.address, "log_level": 0, "reconnect.backoff.max.ms": 500})

    @functools.cached_property
    def _producer(self) -> Any:
        from confluent_kafka import Producer

        return Producer(
            {
                "bootstrap.servers": self.address,
                "enable.idempotence": True,
                "linger.ms": 5,
                "log_level": 0,
                "message.max.bytes": 8 << 20,
                "reconnect.backoff.max.ms": 500,
            }
        )

    def _command(self, program: str, *args: str) -> Sequence[str]:
        return (*_JAVA, "-cp", classpath(), program, *args, str(self.folder / "server.properties"))


def main() -> int:
    """Fetch the jars and start a broker once."""
    why = missing()
    if why is None:
        with tempfile.TemporaryDirectory() as folder, Broker(Path(folder)) as broker:
            print(f"Kafka {VERSION} runs at {broker.address}")
    else:
        print(why, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
