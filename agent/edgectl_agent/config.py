"""What agent.yaml says, as typed values; not what runs.

Durations and sizes stay text in the file (``5m``, ``200M``) and are numbers here, each read once by `_quantities` when
the file is loaded, so that a wrong one is refused with its key before anything starts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec

from edgectl_agent import yamlfile
from edgectl_agent.action_config import ActionConfig, LogAction, check_actions, check_quantity
from edgectl_agent.connection import ClientTls, check_mqtt, check_pair, host_and_port
from edgectl_agent.connection import loopback as _loopback
from edgectl_agent.connection import parts as _parts
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.messages import Name
from edgectl_agent.core.topics import filter_problem, level_of
from edgectl_agent.core.units import duration_ns, size_bytes

__all__ = ["ActionConfig", "ClientTls", "LogAction"]

Format = Literal["jsonl", "csv", "log"]
Column = Annotated[str, msgspec.Meta(min_length=1)]
PositiveInt = Annotated[int, msgspec.Meta(gt=0)]
Address = Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}$")]
"""``host:port``; an IPv6 address stands in brackets."""

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_SD_COLUMN = re.compile(r"sd\.[^ =\]\"]+\.[^ =\]\"]+")
_NODE_ID = re.compile(r"(?:ns=\d{1,5};)?(?:i=\d{1,10}|s=.+|g=[0-9A-Fa-f-]{36}|b=[A-Za-z0-9+/=]+)")
_SHARE = re.compile(r"[1-9]\d{0,4}%")

SYSLOG_COLUMNS = (
    "time", "received", "host", "app", "pid", "msgid", "severity", "facility", "msg", "level", "message",
)  # fmt: skip
"""Of a message; ``level`` and ``message`` as a log has them (`LOG_COLUMNS`)."""

LOG_COLUMNS = ("time", "arrival", "level", "message", "length", "lines", "replaced")
"""Of an event: its time, that of reading it, its level, its message without its variable parts, bytes, lines, and how
many characters of its first line were none."""

HOST_CHANNELS = ("cpu", "memory", "disk_read", "disk_write", "net_rx", "net_tx", "load1")
"""What host-metrics measures: percent, percent, bytes/s (four times), and the run queue over one minute."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Immutable; refuses what it does not know."""


class DeadLetter(_Strict, frozen=True, kw_only=True):
    """Records that were no readings, a few of each reason, in ``dead-letters/SOURCE.jsonl`` of the data folder."""

    limit: str = "1M"
    """Of its size; ``0`` writes nothing."""


class Fields(_Strict, frozen=True, kw_only=True):
    """How a record becomes a reading: which column is the time, the stream, each channel and each category.

    A column is a CSV header or, in JSON, a key or a dotted path of keys. ``stream: "=press-3"`` names one stream for
    the whole source.
    """

    stream: Column
    time: Column
    channels: dict[str, Column] = {}
    """Numbers."""
    categories: dict[str, Column] = {}
    """Text, whole numbers or truth values that name something: a merchant, a country, a log level."""
    units: dict[str, Column] = {}
    """Channel → unit of its values: what `edgectl deploy` compares with the recipe's."""
    unit_columns: dict[str, Column] = {}
    """Channel → column in which each record says its unit: one that differs from `units` is refused."""
    zone: str = "UTC"
    """Of times without an offset."""
    dead_letter: DeadLetter = DeadLetter()


class LogLines(_Strict, frozen=True, kw_only=True):
    """How lines of a log become events, and what is found in an event's first line."""

    begins: str = ""
    """A regular expression that the first line of an event begins with; default: no blank, and nothing that belongs to
    a stack trace."""
    pattern: str = ""
    """One with named groups, which are columns; ``time``, ``level`` and ``message`` replace what is found without."""
    max_lines: PositiveInt = 200
    """Of an event; further ones are dropped."""
    max_event: str = "64k"
    wait: str = "2s"
    """How long an event may be continued."""


class Mapping(Fields, frozen=True, kw_only=True):
    """A file of records, or a log."""

    path: str
    format: Format = "jsonl"
    log: LogLines | msgspec.UnsetType = msgspec.UNSET
    """Of ``format: log``. Unset, it is not written into the agent.yaml of agents that do not know it."""


class TailConfig(Mapping, frozen=True, kw_only=True, tag_field="type", tag="tail"):
    """Follow a file that grows."""

    start: Literal["start", "end"] = msgspec.field(name="from", default="start")
    history: bool = False
    """At the first start, begin with the oldest rotated file beside it (``f.1``, ``f.2.gz``, ``f-20260314``)."""
    live: bool = True
    """Event times are the present: a reading from the future is refused. ``false`` for simulated time."""


class ReplayConfig(Mapping, frozen=True, kw_only=True, tag_field="type", tag="replay"):
    """Read a recorded file once, or again and again with shifted times."""

    speed: float | str = 1.0
    """Seconds of event time per second, or ``max``."""
    repeat: bool = False


class HostMetricsConfig(_Strict, frozen=True, kw_only=True, tag_field="type", tag="host-metrics"):
    """This machine's own CPU, memory, disk, network and load."""

    every: str = "10s"
    stream: str = ""
    """Defaults to the node's name."""
    dead_letter: DeadLetter = DeadLetter(limit="0")


class HttpConfig(Fields, frozen=True, kw_only=True, tag_field="type", tag="http"):
    """Take what other programs post to ``/v1/readings`` (`Config.ingest`), as JSON."""

    queue: PositiveInt = 20_000
    """Readings that may wait to be scored; beyond it a request is refused as a whole (429)."""


class StdinConfig(Fields, frozen=True, kw_only=True, tag_field="type", tag="stdin"):
    """Read standard input until it ends."""

    format: Format = "jsonl"
    log: LogLines | msgspec.UnsetType = msgspec.UNSET
    """Of ``format: log``."""
    live: bool = True
    """Event times are the present: a reading from the future is refused. ``false`` for simulated time."""
    buffer: str = "4M"
    """Memory for lines that wait to be scored; beyond it the pipe fills."""


class SyslogConfig(Fields, frozen=True, kw_only=True, tag_field="type", tag="syslog"):
    """Take syslog messages of RFC 5424. Columns are `SYSLOG_COLUMNS` and ``sd.ID.NAME``."""

    stream: Column = "host"
    time: Column = "time"
    """Or ``received``."""
    listen: Address = "127.0.0.1:5514"
    """Off loopback only with `allow`."""
    transport: Annotated[tuple[Literal["tcp", "udp"], ...], msgspec.Meta(min_length=1)] = ("tcp", "udp")
    allow: tuple[str, ...] = ()
    """Networks whose senders are heard: ``10.2.0.0/16``."""
    connections: PositiveInt = 64
    max_message: str = "64k"
    buffer: str = "4M"
    """Memory for messages that wait to be scored."""


class OpcuaConfig(_Strict, frozen=True, kw_only=True, tag_field="type", tag="opcua"):
    """Subscribe to nodes of an OPC UA server."""

    url: str
    """``opc.tcp://HOST[:4840][/PATH]``"""
    streams: Annotated[
        dict[Annotated[str, msgspec.Meta(min_length=1, max_length=200)], dict[str, Column]], msgspec.Meta(min_length=1)
    ]
    """Stream → channel → node id, as OPC UA writes it: ``ns=2;s=Press3.Vib``, ``i=2258``."""
    every: str = "1s"
    """How often the server shall look at the nodes and report."""
    queue: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    """Values of a node that the server shall keep between two reports."""
    live: bool = True
    """Source times are the present: a reading from the future is refused. ``false`` for simulated time."""
    buffer: str = "4M"
    """Memory for readings that wait to be scored."""
    dead_letter: DeadLetter = DeadLetter()

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(channel for nodes in self.streams.values() for channel in nodes))


class Sasl(_Strict, frozen=True, kw_only=True):
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


SourceConfig = (
    TailConfig
    | ReplayConfig
    | HostMetricsConfig
    | HttpConfig
    | KafkaConfig
    | MqttConfig
    | StdinConfig
    | SyslogConfig
    | OpcuaConfig
)

EXTRAS = {"kafka": "kafka", "mqtt": "mqtt", "opcua": "opcua"}
"""Source types that need an extra of this distribution, and which."""


class Limits(_Strict, frozen=True, kw_only=True):
    """What the agent may take. ``memory`` and ``cpu`` are held by the service manager, the rest by the agent."""

    memory: str = "200M"
    cpu: str = "100%"
    """Of one core: ``200%`` are two."""
    outbox: str = "200M"
    streams: PositiveInt = 2000
    """Streams per model; beyond it new ones take the place of idle ones, or are refused and counted."""
    idle: str | msgspec.UnsetType = msgspec.UNSET
    """How long in event time a stream brings nothing before it may give way to a new one; default 1h. Unset, it is not
    written into the agent.yaml of agents that do not know it."""


class Snapshot(_Strict, frozen=True, kw_only=True):
    """How often the detectors' state and the sources' positions are saved together."""

    every: str = "10s"


class Batching(_Strict, frozen=True, kw_only=True):
    """Micro-batches form by whatever has arrived."""

    max: PositiveInt = 4096
    max_latency: str = "20ms"
    """How long a reading may lie before the agent looks again."""


class Log(_Strict, frozen=True, kw_only=True):
    """Where the agent's own log goes; ``file`` is ``agent.log`` in the data folder."""

    to: Literal["stderr", "journald", "file"] = "stderr"
    level: Literal["debug", "info", "warning", "error"] = "info"
    rotate: str = "10M"
    """Size at which the file is put aside."""
    keep: PositiveInt = 3
    """Files put aside that stay."""


class Tls(_Strict, frozen=True, kw_only=True):
    """A listener's certificate and private key, PEM files."""

    cert: str
    key: str


class MutualTls(Tls, frozen=True, kw_only=True):
    """A listener that asks who comes: with a certificate issued under `client_ca` (PEM) or not at all."""

    client_ca: str


class Api(_Strict, frozen=True, kw_only=True):
    """The control API."""

    listen: Address = "127.0.0.1:0"
    """Port 0 takes a free one, written to ``api.json``. Off loopback only with `tls`."""
    tls: MutualTls | None = None
    """With it `listen` is for operators; a second, plain listener on loopback stays for this machine's own tools."""
    token_file: str = ""
    """Its first line is the bearer token of the plain listener; default: a new one at each start, in ``api.json``."""


class Ingest(_Strict, frozen=True, kw_only=True):
    """Where sources of type ``http`` are fed: a listener and tokens of its own."""

    listen: Address = "127.0.0.1:8711"
    """Off loopback only with `tls`."""
    token_file: str = ""
    """A bearer token per line; default: ``ingest.token`` in the data folder, made at the first start."""
    tls: Tls | None = None
    max_body: str = "4M"
    """Of one request, also after it is decompressed."""


class Repository(_Strict, frozen=True, kw_only=True):
    """A static web server with the fleet's signed repository, for a node to which nobody can push."""

    url: str
    every: str = "15m"
    ca_file: str = ""
    """PEM; default: the system's authorities."""


class Uplink(_Strict, frozen=True, kw_only=True):
    """A receiver (`edgectl serve`) for reports and alerts of a node from which nobody can collect."""

    url: str
    token_file: str
    every: str = "60s"
    """Alerts and changes are sent at once."""
    ca_file: str = ""


class Config(_Strict, frozen=True, kw_only=True):
    """agent.yaml."""

    version: Literal[1]
    node: Name
    data_dir: str
    sources: dict[Name, SourceConfig] = {}
    models: dict[Name, Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]] = {}
    """Recipe → the sources that feed it."""
    actions: tuple[ActionConfig, ...] = ()
    limits: Limits = Limits()
    snapshot: Snapshot = Snapshot()
    batch: Batching = Batching()
    log: Log = Log()
    api: Api = Api()
    repository: Repository | None = None
    uplink: Uplink | None = None
    ingest: Ingest = Ingest()

    def __post_init__(self) -> None:
        for recipe, names in self.models.items():
            for i, name in enumerate(names):
                if name not in self.sources:
                    known = ", ".join(self.sources) or "none"
                    raise ConfigError(f"models.{recipe}[{i}]: no source is called {name!r}, known are: {known}")
            if len(set(names)) != len(names):
                raise ConfigError(f"models.{recipe}: a source is named twice")
        for quantity in _quantities(self):
            check_quantity(*quantity)
        if not _SHARE.fullmatch(self.limits.cpu):
            raise ConfigError(f"limits.cpu: expected a share of one core such as 20%, found {self.limits.cpu!r}")
        stdins = [name for name, source in self.sources.items() if isinstance(source, StdinConfig)]
        if len(stdins) > 1:
            raise ConfigError(f"sources.{stdins[1]}: expected one source of type stdin, found {' and '.join(stdins)}")
        for name, source in self.sources.items():
            _check_source(f"sources.{name}", source)
        check_actions(self.actions)
        if self.repository is not None:
            _check_url("repository.url", self.repository.url, secret=False)
        if self.uplink is not None:
            _check_url("uplink.url", self.uplink.url, secret=True)
        for key, said, takes in (("api", self.api, "TLS with client certificates"), ("ingest", self.ingest, "TLS")):
            _check_listen(key, said.listen, said.tls is not None, f"tls, because it takes {takes} there")

    @property
    def folder(self) -> Path:
        """The data folder: the only one the agent writes to, but for ``actions[].path``."""
        return Path(self.data_dir)

    @property
    def ingests(self) -> bool:
        """Whether any source is fed by HTTP."""
        return any(isinstance(source, HttpConfig) for source in self.sources.values())

    @property
    def snapshot_ns(self) -> int:
        return duration_ns(self.snapshot.every)

    @property
    def idle_s(self) -> float:
        return duration_ns(self.batch.max_latency) / 1e9

    @property
    def stream_idle_ns(self) -> int:
        return duration_ns(self.limits.idle or "1h")

    @property
    def outbox_bytes(self) -> int:
        return size_bytes(self.limits.outbox)


def load(path: Path) -> tuple[Config, str]:
    """Read agent.yaml; returns it with the SHA-256 of the file's bytes.

    Raises:
        ConfigError: names the file and the key, with what was expected and what was found.
    """
    config = yamlfile.load(path, Config)
    return config, hashlib.sha256(path.read_bytes()).hexdigest()


_LEAST_LETTERS = "64k"
_SOURCE_QUANTITIES: dict[type, tuple[tuple[str, Callable[[str], int], str], ...]] = {
    HostMetricsConfig: (("every", duration_ns, "100ms"),),
    KafkaConfig: (("buffer", size_bytes, "2M"), ("session", duration_ns, "1s")),
    MqttConfig: (("buffer", size_bytes, "2M"), ("session", duration_ns, "1m")),
    OpcuaConfig: (("buffer", size_bytes, "64k"), ("every", duration_ns, "10ms")),
    StdinConfig: (("buffer", size_bytes, "64k"),),
    SyslogConfig: (("buffer", size_bytes, "64k"), ("max_message", size_bytes, "480")),
}
"""Of a source: key, how to read it, least allowed."""


def _quantities(config: Config) -> list[tuple[str, str, Callable[[str], int], str]]:
    """(key, text, how to read it, least allowed) of every duration and size in the file."""
    return [
        ("limits.memory", config.limits.memory, size_bytes, "64M"),
        *([("limits.idle", config.limits.idle, duration_ns, "1s")] if config.limits.idle else []),
        ("limits.outbox", config.limits.outbox, size_bytes, "64k"),
        ("snapshot.every", config.snapshot.every, duration_ns, "10ms"),
        ("batch.max_latency", config.batch.max_latency, duration_ns, "1ms"),
        ("log.rotate", config.log.rotate, size_bytes, "64k"),
        *([("repository.every", config.repository.every, duration_ns, "1s")] if config.repository else []),
        *([("uplink.every", config.uplink.every, duration_ns, "1s")] if config.uplink else []),
        ("ingest.max_body", config.ingest.max_body, size_bytes, "1k"),
        *(
            (f"sources.{name}.{key}", getattr(source, key), read, least)
            for name, source in config.sources.items()
            for key, read, least in _SOURCE_QUANTITIES.get(type(source), ())
        ),
        *(
            (f"sources.{name}.dead_letter.limit", source.dead_letter.limit, size_bytes, _LEAST_LETTERS)
            for name, source in config.sources.items()
            if source.dead_letter.limit != "0"
        ),
    ]


def _check_url(key: str, url: str, secret: bool) -> None:
    """A URL that can be asked; with a `secret` on it, one on which nobody listens in."""
    parts = _parts(url, "http", "https")
    if parts is None or parts.query or parts.fragment:
        raise ConfigError(f"{key}: expected a URL such as https://models.acme.example, found {url!r}")
    if parts.username or parts.password:
        raise ConfigError(f"{key}: expected no user or password in it")
    if secret and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigError(f"{key}: expected https (http on loopback only), found {url!r}: it carries this node's token")


def _check_source(key: str, source: SourceConfig) -> None:
    """What the types alone cannot say."""
    if isinstance(source, ReplayConfig):
        speed = source.speed
        if speed != "max" and (isinstance(speed, str) or not 0 < speed < float("inf")):
            raise ConfigError(f"{key}.speed: expected a factor above 0 or max, found {speed!r}")
    if isinstance(source, TailConfig) and source.history and source.start == "end":
        raise ConfigError(f"{key}.history: expected only with from: start, found from: end")
    if isinstance(source, OpcuaConfig):
        _check_opcua(key, source)
    if not isinstance(source, Fields):
        return
    _check_columns(key, source)
    if isinstance(source, KafkaConfig):
        _check_kafka(key, source)
    if isinstance(source, MqttConfig):
        _check_mqtt(key, source)
    if isinstance(source, SyslogConfig):
        _check_syslog(key, source)
    try:
        ZoneInfo(source.zone)
    except (KeyError, ValueError, OSError):
        expected = "expected a name such as Europe/Paris"
        raise ConfigError(f"{key}.zone: {source.zone!r} is not a time zone, {expected}") from None


def _check_kafka(key: str, source: KafkaConfig) -> None:
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


def _check_opcua(key: str, source: OpcuaConfig) -> None:
    parts = _parts(source.url, "opc.tcp")
    if parts is None:
        raise ConfigError(f"{key}.url: expected a URL such as opc.tcp://plc-3.acme.example:4840, found {source.url!r}")
    if parts.username or parts.password:
        raise ConfigError(f"{key}.url: expected no user or password in it: this source connects anonymously")
    seen: dict[str, str] = {}
    for stream, nodes in source.streams.items():
        if not nodes:
            raise ConfigError(f"{key}.streams.{stream}: expected at least one channel with its node id, found none")
        for channel, node in nodes.items():
            where = f"{key}.streams.{stream}.{channel}"
            if not _NODE_ID.fullmatch(node):
                raise ConfigError(f"{where}: expected a node id such as ns=2;s=Press3.Vib or i=2258, found {node!r}")
            if node in seen:
                raise ConfigError(f"{where}: node {node!r} is {seen[node]} already")
            seen[node] = f"streams.{stream}.{channel}"


def _check_syslog(key: str, source: SyslogConfig) -> None:
    if source.time not in ("time", "received"):
        raise ConfigError(f"{key}.time: expected time or received, found {source.time!r}")
    stream = [] if source.stream.startswith("=") else [source.stream]
    for column in [*stream, *source.channels.values(), *source.categories.values()]:
        if column not in SYSLOG_COLUMNS and not _SD_COLUMN.fullmatch(column):
            known = ", ".join(SYSLOG_COLUMNS)
            raise ConfigError(f"{key}: expected one of {known} or sd.ID.NAME as a column, found {column!r}")
    if size_bytes(source.max_message) > 1 << 20:
        raise ConfigError(f"{key}.max_message: expected at most 1MiB, found {source.max_message!r}")
    for i, network in enumerate(source.allow):
        try:
            ip_network(network)
        except ValueError as e:
            raise ConfigError(f"{key}.allow[{i}]: expected a network such as 10.2.0.0/16: {e}") from None
    try:
        ip_address(split_address(source.listen)[0])
    except ValueError:
        raise ConfigError(f"{key}.listen: expected an IP address and a port, found {source.listen!r}") from None
    _check_listen(key, source.listen, bool(source.allow), "allow, the networks of its senders")


def _check_mqtt(key: str, source: MqttConfig) -> None:
    parts = _parts(source.url, "mqtt", "mqtts")
    if parts is None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f"{key}.url: expected a URL such as mqtts://broker.acme.example:8883, found {source.url!r}")
    if parts.username or parts.password:
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
    unknown = [column for column in _wanted(source) if column not in source.columns]
    if source.format == "csv" and unknown:
        known = ", ".join(source.columns) or "none"
        raise ConfigError(f"{key}.columns: expected one that is called {unknown[0]!r}, found: {known}")
    if source.format != "csv" and source.columns:
        raise ConfigError(f"{key}.columns: expected only with format: csv")
    if source.tls is not None:
        check_pair(key, source.tls)


def _wanted(source: Fields) -> list[str]:
    """The columns that a record must have or may have."""
    stream = [] if _from_outside(source) else [source.stream]
    units = dict.fromkeys(source.unit_columns.values())  # one may say the unit of several channels
    return [source.time, *source.channels.values(), *source.categories.values(), *units, *stream]


def _from_outside(source: Fields) -> bool:
    """Whether the stream is not in the record."""
    if isinstance(source, KafkaConfig) and source.stream == "@key":
        return True
    return source.stream.startswith("=") or (isinstance(source, MqttConfig) and level_of(source.stream) is not None)


def split_address(listen: str) -> tuple[str, int]:
    """(host, port) of an `Address`, without brackets."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(listen: str) -> bool:
    """Whether only this machine can connect to it."""
    return _loopback(split_address(listen)[0])


def _check_listen(key: str, listen: str, guarded: bool, needs: str) -> None:
    """A port to listen on; off loopback only if it is `guarded` by what it `needs`: a key, and why or what that is."""
    if split_address(listen)[1] > 65535:
        raise ConfigError(f"{key}.listen: expected a port of at most 65535, found {listen!r}")
    if not guarded and not is_loopback(listen):
        raise ConfigError(f"{key}.listen: {listen} is not loopback: expected {key}.{needs}")


def log_of(source: Mapping | StdinConfig) -> LogLines:
    """What is said about the lines of a log."""
    return LogLines() if isinstance(source.log, msgspec.UnsetType) else source.log


def check_log(source: Mapping | StdinConfig) -> None:
    """That a log's patterns are such, and its columns are found by them. Raises `ConfigError`, which begins with the
    key within the source."""
    if source.format != "log":
        if not isinstance(source.log, msgspec.UnsetType):
            raise ConfigError(f"log: expected only with format: log, found format: {source.format}")
        return
    if isinstance(source, ReplayConfig):
        raise ConfigError("format: expected jsonl or csv in a replay, found log: follow the file with type tail")
    said, groups = log_of(source), set(LOG_COLUMNS)
    for name in ("begins", "pattern"):
        try:
            groups |= set(re.compile(getattr(said, name)).groupindex)
        except (re.error, RecursionError, OverflowError) as e:
            raise ConfigError(f"log.{name}: {getattr(said, name)!r} is no regular expression: {e}") from None
    for text, read, least, most, name in (
        (said.max_event, size_bytes, "256", "1M", "max_event"),
        (said.wait, duration_ns, "10ms", "1h", "wait"),
    ):
        try:
            fits = read(least) <= read(text) <= read(most)
        except ConfigError as e:
            raise ConfigError(f"log.{name}: {e.message}") from e
        if not fits:
            raise ConfigError(f"log.{name}: expected from {least} to {most}, found {text!r}")
    if source.time not in ("time", "arrival"):
        raise ConfigError(f"time: expected time or arrival, found {source.time!r}")
    stream = [] if source.stream.startswith("=") else [source.stream]
    for column in [*stream, *source.channels.values(), *source.categories.values()]:
        if column not in groups:
            known = ", ".join(sorted(groups))
            raise ConfigError(f"column: a log has no column {column!r}, expected one of {known}")
        if column in ("time", "arrival"):
            known = ", ".join(sorted(groups - {"time", "arrival"}))
            raise ConfigError(f"column: {column!r} is a log's time and nothing else, expected one of {known}")


def _check_units(key: str, source: Fields) -> None:
    for name, said, among in (
        ("units", source.units, source.channels),
        ("unit_columns", source.unit_columns, source.units),
    ):
        for channel in said:
            if channel not in among:
                expected = ", ".join(among) or "none"
                raise ConfigError(f"{key}.{name}.{channel}: expected one of {expected}, found {channel!r}")
    if source.unit_columns and (isinstance(source, SyslogConfig) or getattr(source, "format", "") == "log"):
        raise ConfigError(f"{key}.unit_columns: expected none, log messages carry no units")


def _check_columns(key: str, source: Fields) -> None:
    """Each column is one thing: a time is no channel, and a JSON path does not lead through a number."""
    if source.stream == "=":
        raise ConfigError(f"{key}.stream: '=' names no stream, expected a column or =name")
    if isinstance(source, Mapping | StdinConfig):
        try:
            check_log(source)
        except ConfigError as e:
            raise ConfigError(f"{key}.{e.message}") from e
    flat = isinstance(source, Mapping | KafkaConfig | MqttConfig | StdinConfig) and source.format in ("csv", "log")
    if not source.channels and not source.categories:
        raise ConfigError(f"{key}: expected at least one of channels and categories, found none")
    _check_units(key, source)
    columns = _wanted(source)
    for column in columns:
        if columns.count(column) > 1:
            raise ConfigError(f"{key}: column {column!r} is used twice")
        longer = next((c for c in columns if not flat and c.startswith(f"{column}.")), None)
        if longer:
            raise ConfigError(f"{key}: column {column!r} is also the path {longer!r}")


msgspec.json.Decoder(Config)  # not first in two threads at once: see edgectl_agent.core.messages
