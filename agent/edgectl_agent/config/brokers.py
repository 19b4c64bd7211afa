"""Sources whose messages come from a broker: Kafka and MQTT."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from edgectl_agent.config.mapping import Column, Fields
from edgectl_agent.config.senders import Address, is_loopback, split_address
from edgectl_agent.connection import ClientTls, Strict, check_mqtt, check_pair, host_and_port, parts
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.topics import filter_problem, level_of

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


class Sasl(Strict, frozen=True, kw_only=True):
    """A name and a password for a Kafka broker."""

    user: str
    password_file: str
    """Its first line."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"


class KafkaConfig(Fields, frozen=True, kw_only=True, tag_field="type", tag="kafka"):
    """Read topics as a member of a consumer group. ``stream: "@key"`` takes the message's key."""

    brokers: Annotated[tuple[Address, ...], msgspec.Meta(min_length=1)]
    topics: Annotated[tuple[Column, ...], msgspec.Meta(min_length=1)]
    """Names, or regular expressions that begin with ``^``."""
    group: str = ""
    """Nodes of one group share the partitions. Default: a group of this node's own, which reads all of them."""
    format: Literal["json", "csv"] = "json"
    columns: tuple[Column, ...] = ()
    """Of ``csv``: what the cells of a message are, in order."""
    start: Literal["start", "end"] = msgspec.field(name="from", default="start")
    """Of a partition of which neither this node nor its group has read anything."""
    live: bool = True
    """Event times are the present: a reading from the future is refused. ``false`` for simulated time."""
    tls: ClientTls | None = None
    sasl: Sasl | None = None
    buffer: str = "16M"
    """Memory for messages that were fetched and are not scored yet."""
    session: str = "45s"
    """How long this node may be silent before the group gives its partitions to others."""


class MqttConfig(Fields, frozen=True, kw_only=True, tag_field="type", tag="mqtt"):
    """Subscribe to topics of an MQTT broker. ``stream: topic.1`` takes a level of the topic, counted from 0, and
    ``stream: topic`` all of it."""

    url: str
    """``mqtt://HOST[:1883]``, or ``mqtts://HOST[:8883]`` for TLS."""
    topic: Column | Annotated[tuple[Column, ...], msgspec.Meta(min_length=1)]
    """One or several, with wildcards; ``$share/GROUP/…`` shares the messages with others."""
    protocol: Literal["3.1.1", "5"] = "5"
    format: Literal["json", "csv"] = "json"
    columns: tuple[Column, ...] = ()
    """Of ``csv``: what the cells of a line are, in order."""
    live: bool = True
    """Event times are the present: a reading from the future is refused. ``false`` for simulated time."""
    user: str = ""
    password_file: str = ""
    """Its first line."""
    tls: ClientTls = ClientTls()
    client_id: str = ""
    """Default: node and source, ``lyon-pi-0417.press``. The broker keeps the session under it."""
    session: str = "7d"
    """How long the broker keeps what comes while the agent is away; in 3.1.1 the broker decides."""
    receive_maximum: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 2000
    """Messages that may be on their way or not yet in a snapshot."""
    buffer: str = "16M"
    """Memory for messages that wait to be scored."""

    @property
    def filters(self) -> tuple[str, ...]:
        return (self.topic,) if isinstance(self.topic, str) else self.topic

    @property
    def secure(self) -> bool:
        return urlsplit(self.url).scheme == "mqtts"

    @property
    def host(self) -> str:
        return host_and_port(self.url)[0]

    @property
    def port(self) -> int:
        return host_and_port(self.url)[1]


def check_kafka(key: str, source: KafkaConfig) -> None:
    """That topics and brokers can be such, and no password is sent in the clear. Raises `ConfigError`."""
    for i, topic in enumerate(source.topics):
        if topic.startswith("^"):
            try:
                re.compile(topic)
            except re.error as e:
                raise ConfigError(f"{key}.topics[{i}]: {topic!r} is no regular expression: {e}") from None
        elif not _TOPIC.fullmatch(topic):
            raise ConfigError(f"{key}.topics[{i}]: expected a topic or a regular expression after ^, found {topic!r}")
    for i, broker in enumerate(source.brokers):
        if not 0 < split_address(broker)[1] <= 65535:
            raise ConfigError(f"{key}.brokers[{i}]: expected a port from 1 to 65535, found {broker!r}")
    _check_broker(key, source)
    exposed = next((broker for broker in source.brokers if not is_loopback(broker)), None)
    if source.sasl and source.sasl.mechanism == "PLAIN" and source.tls is None and exposed:
        raise ConfigError(f"{key}.sasl: PLAIN would send the password to {exposed} in the clear: expected tls as well")


def check_mqtt_source(key: str, source: MqttConfig) -> None:
    """That the broker can be called, and topics are such. Raises `ConfigError`."""
    found = parts(source.url, "mqtt", "mqtts")
    if found is None or found.path.strip("/") or found.query or found.fragment:
        raise ConfigError(f"{key}.url: expected a URL such as mqtts://broker.acme.example:8883, found {source.url!r}")
    if found.username or found.password:
        raise ConfigError(f"{key}.url: expected no user or password in it: they go to user and password_file")
    for topic in source.filters:
        if problem := filter_problem(topic):
            raise ConfigError(f"{key}.topic: {problem}, found {topic!r}")
    if len(set(source.filters)) != len(source.filters):
        raise ConfigError(f"{key}.topic: a topic is named twice")
    check_mqtt(key, source.url, source.user, source.password_file, source.tls)
    _check_broker(key, source)


def _check_broker(key: str, source: KafkaConfig | MqttConfig) -> None:
    """What every source has whose messages come from a broker."""
    unknown = [column for column in wanted(source) if column not in source.columns]
    if source.format == "csv" and unknown:
        known = ", ".join(source.columns) or "none"
        raise ConfigError(f"{key}.columns: expected one that is called {unknown[0]!r}, found: {known}")
    if source.format != "csv" and source.columns:
        raise ConfigError(f"{key}.columns: expected only with format: csv")
    if source.tls is not None:
        check_pair(key, source.tls)


def wanted(source: Fields) -> list[str]:
    """The columns that a record must have or may have."""
    stream = [] if _from_outside(source) else [source.stream]
    units = dict.fromkeys(source.unit_columns.values())  # one may say the unit of several channels
    return [source.time, *source.channels.values(), *source.categories.values(), *units, *stream]


def _from_outside(source: Fields) -> bool:
    """Whether the stream is not in the record."""
    if isinstance(source, KafkaConfig) and source.stream == "@key":
        return True
    return source.stream.startswith("=") or (isinstance(source, MqttConfig) and level_of(source.stream) is not None)
