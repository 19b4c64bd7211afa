"""agent.yaml's words for a Kafka cluster → librdkafka's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgectl_agent.config import KafkaConfig
from edgectl_agent.core.errors import SourceError
from edgectl_agent.core.units import duration_ns, size_bytes

_MIB = 1 << 20
_RESPONSE_BYTES = 32 * _MIB
"""Also of a batch compressed with zstd, after it is decompressed."""
_METADATA_MS = 30_000
"""How soon a new topic or partition is noticed."""


def settings(config: KafkaConfig, member: str) -> dict[str, Any]:
    """What a `confluent_kafka.Consumer` is made from, without its callbacks.

    Args:
        config: the source.
        member: this node and source: the static member, so that a restart moves no partition; also the default group.

    Raises:
        SourceError: a password, certificate or key cannot be read.
    """
    buffer = size_bytes(config.buffer)
    session_ms = duration_ns(config.session) // 1_000_000
    return {
        "bootstrap.servers": ",".join(config.brokers),
        "client.id": member,
        "group.id": config.group or member,
        "group.instance.id": member,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session_ms,
        "max.poll.interval.ms": max(300_000, session_ms),
        "heartbeat.interval.ms": max(100, min(3000, session_ms // 10)),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",  # what retention deleted is counted, not passed over
        "isolation.level": "read_committed",
        # Half of the buffer waits in librdkafka, the other half in our queue.
        "queued.min.messages": 10_000,
        "queued.max.messages.kbytes": max(buffer // 2048, 1),
        "fetch.message.max.bytes": min(_MIB, buffer // 2),
        "fetch.max.bytes": min(max(_MIB, buffer // 2), _RESPONSE_BYTES - _MIB),
        "receive.message.max.bytes": _RESPONSE_BYTES,
        "fetch.queue.backoff.ms": 50,  # the default, a second, starves a fast reader of a small queue
        "topic.metadata.refresh.interval.ms": _METADATA_MS,
        "topic.metadata.propagation.max.ms": 5000,
        "reconnect.backoff.ms": 500,
        "reconnect.backoff.max.ms": 5000,
        "socket.keepalive.enable": True,
        **_security(config),
    }


def _security(config: KafkaConfig) -> dict[str, Any]:
    found: dict[str, Any] = {
        "security.protocol": ("SASL_" if config.sasl else "") + ("SSL" if config.tls else "PLAINTEXT")
    }
    if config.tls:
        for path in filter(None, (config.tls.ca_file, config.tls.cert, config.tls.key)):
            _read(path)
        named = {"ca": config.tls.ca_file, "certificate": config.tls.cert, "key": config.tls.key}
        found |= {f"ssl.{what}.location": path for what, path in named.items() if path}
    if config.sasl:
        password = _read(config.sasl.password_file).partition("\n")[0].rstrip("\r")
        if not password:
            raise SourceError(f"{config.sasl.password_file}: the first line is empty, expected the password")
        found |= {
            "sasl.mechanism": config.sasl.mechanism,
            "sasl.username": config.sasl.user,
            "sasl.password": password,
        }
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is not text"
        raise SourceError(f"{path} cannot be read: {why}") from e
