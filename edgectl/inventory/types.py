"""What fleet.yaml says: first as the file has it (`FleetFile`), then with every default settled (`Inventory`).

Durations and sizes stay text where the node reads them again (`AgentSettings`); what the operator's side computes with
is a number with its unit in the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import msgspec
from edgectl_agent.action_config import ActionConfig
from edgectl_agent.config import Address, ClientTls, Column, DeadLetter, Limits, LogLines, Sasl
from edgectl_agent.config import Format as FileFormat
from edgectl_agent.core.allowed import Rule
from edgectl_agent.core.messages import Name

from edgectl.core.names import unknown
from edgectl.core.records import Expected
from edgectl.core.retention import Retention

Tier = Literal["far-edge", "near-edge", "regional"]
Via = Literal["local", "ssh", "http", "pull", "usb"]
"""How a node is reached: a key of `edgectl.connectors.CONNECTORS`."""

Listen = Annotated[str, msgspec.Meta(pattern=r"^(127\.0\.0\.1|localhost|\[::1\]):\d{1,5}$")]
LogTo = Literal["journald", "file"]
HERE: frozenset[str] = frozenset({"local"})
"""Ways to nodes that live on this machine, whose files fleet.yaml names relative to its folder."""

STORE_URL = "sqlite:///.edgectl/state.db"


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable; refuses what it does not know."""


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────────────


class FieldsEntry(_Strict, frozen=True, kw_only=True):
    """Where records have what a reading needs. What is left out comes from the recipe that the source feeds."""

    stream: Column | None = None
    time: Column | None = None
    channels: dict[str, Column] = {}
    categories: dict[str, Column] = {}
    units: dict[str, Column] = {}
    """Channel → unit; only what the source is known to bring, so not from the recipe."""
    unit_columns: dict[str, Column] = {}
    zone: str | None = None
    dead_letter: DeadLetter | None = None
    """How much is kept of records that are no readings."""


class RecordsEntry(FieldsEntry, frozen=True, kw_only=True):
    """A file with records."""

    path: str
    format: FileFormat | None = None
    """Default: by the recipe if it reads a log, else by the suffix of `path`."""
    log: LogLines | None = None
    """Of a log; default: the recipe's."""


class TailEntry(RecordsEntry, frozen=True, kw_only=True, tag_field="type", tag="tail"):
    """Follow a file that grows."""

    start: Literal["start", "end"] = msgspec.field(name="from", default="start")
    history: bool | None = None
    live: bool = True


class ReplayEntry(RecordsEntry, frozen=True, kw_only=True, tag_field="type", tag="replay"):
    """Read a recorded file as if it happened now."""

    speed: float | str = 1.0
    repeat: bool = False


class HostMetricsEntry(_Strict, frozen=True, kw_only=True, tag_field="type", tag="host-metrics"):
    """The machine's own CPU, memory, disk and network."""

    every: str = "10s"
    stream: str = ""


class HttpEntry(FieldsEntry, frozen=True, kw_only=True, tag_field="type", tag="http"):
    """What other programs post to the node's ``/v1/readings`` (`AgentEntry.ingest`)."""

    queue: Annotated[int, msgspec.Meta(gt=0)] | None = None
    """Readings that may wait to be scored."""


class KafkaEntry(FieldsEntry, frozen=True, kw_only=True, tag_field="type", tag="kafka"):
    """Topics of a Kafka cluster; see `edgectl_agent.config.KafkaConfig`. Files are the node's own."""

    brokers: Annotated[tuple[Address, ...], msgspec.Meta(min_length=1)]
    topics: Annotated[tuple[Column, ...], msgspec.Meta(min_length=1)]
    group: str = ""
    format: Literal["json", "csv"] = "json"
    columns: tuple[Column, ...] = ()
    start: Literal["start", "end"] = msgspec.field(name="from", default="start")
    live: bool = True
    tls: ClientTls | None = None
    sasl: Sasl | None = None
    buffer: str | None = None
    session: str | None = None


class MqttEntry(FieldsEntry, frozen=True, kw_only=True, tag_field="type", tag="mqtt"):
    """Topics of an MQTT broker; see `edgectl_agent.config.MqttConfig`. Files are the node's own."""

    url: str
    topic: Column | Annotated[tuple[Column, ...], msgspec.Meta(min_length=1)]
    protocol: Literal["3.1.1", "5"] | None = None
    format: Literal["json", "csv"] = "json"
    columns: tuple[Column, ...] = ()
    live: bool = True
    user: str = ""
    password_file: str = ""
    tls: ClientTls | None = None
    client_id: str = ""
    session: str | None = None
    receive_maximum: int | None = None
    buffer: str | None = None


class SyslogEntry(FieldsEntry, frozen=True, kw_only=True, tag_field="type", tag="syslog"):
    """Messages that other machines send; see `edgectl_agent.config.SyslogConfig`."""

    stream: Column | None = "host"
    time: Column | None = "time"
    listen: Address | None = None
    transport: tuple[Literal["tcp", "udp"], ...] | None = None
    allow: tuple[str, ...] | None = None
    connections: int | None = None
    max_message: str | None = None
    buffer: str | None = None


class OpcuaEntry(_Strict, frozen=True, kw_only=True, tag_field="type", tag="opcua"):
    """Nodes of an OPC UA server; see `edgectl_agent.config.OpcuaConfig`."""

    url: str
    streams: dict[str, dict[str, Column]]
    every: str | None = None
    queue: int | None = None
    live: bool = True
    buffer: str | None = None
    dead_letter: DeadLetter | None = None


SourceEntry = TailEntry | ReplayEntry | HostMetricsEntry | HttpEntry | KafkaEntry | MqttEntry | SyslogEntry | OpcuaEntry


class SecretRef(_Strict, frozen=True, kw_only=True):
    """Where a secret is kept; the secret itself never stands in fleet.yaml. Exactly one of the three is said."""

    SECRET: ClassVar[str] = (
        "expected where the secret is kept, as {env: NAME}, {file: PATH} or {command: [PROGRAM, ARGUMENT]}; "
        "the secret itself never stands in this file"
    )
    """What a wrong value gets told (`edgectl_agent.yamlfile`), in place of the value."""

    env: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Name of an environment variable of the operator."""
    file: str = ""
    """Its first line is the secret; relative to fleet.yaml."""
    command: tuple[str, ...] = ()
    """Run without a shell; the first line of its output is the secret."""

    def __post_init__(self) -> None:
        said = [name for name in ("env", "file", "command") if getattr(self, name)]
        if len(said) != 1:
            raise ValueError(f"expected one of env, file and command, found {' and '.join(said) or 'none'}")

    def __str__(self) -> str:
        """Where it is kept, for people."""
        if self.env:
            return f"environment variable {self.env}"
        return f"file {self.file}" if self.file else f"command {self.command[0]}"


class ConnectEntry(_Strict, frozen=True, kw_only=True):
    """How a node is reached. What is left out for SSH comes from ``~/.ssh/config``."""

    via: Via | None = None
    host: str | None = None
    """Default: the node's name."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    user: str | None = None
    jump: str | None = None
    """``[user@]host[:port]``, several separated by commas, the first hop first."""
    key: str | None = None
    """SSH private key file, relative to fleet.yaml; else the ssh-agent and ``~/.ssh/config``."""
    key_passphrase: SecretRef | None = None
    sudo_password: SecretRef | None = None
    url: str | None = None
    """``http``: where the control API listens; default: ``https://HOST:8710``."""
    token: SecretRef | None = None
    """``http`` over loopback or a tunnel: a bearer token in place of a client certificate."""
    every: str | None = None
    """``pull``: how often the node asks."""


class AgentEntry(_Strict, frozen=True, kw_only=True):
    """Which agent a node runs, where its packages come from and what it may take."""

    version: Annotated[str, msgspec.Meta(pattern=r"^[0-9*?][0-9A-Za-z.+*?-]*$")] | None = None
    """Exact, or a pattern such as ``1.4.*``; default: that of this edgectl."""
    packages: Literal["auto", "index", "wheelhouse"] | None = None
    """``auto``: an uploaded wheelhouse if one fits the node, else the node's own package index."""
    folder: Annotated[str, msgspec.Meta(pattern=r"^(/[^/]+)+$")] | None = None
    """An absolute folder of the SSH user's own for everything, where root is not to be had."""
    memory: str | None = None
    cpu: Annotated[str, msgspec.Meta(pattern=r"^[1-9]\d{0,4}%$")] | None = None
    """100% is one core."""
    disk: str | None = None
    """For alerts that wait for the operator."""
    streams: Annotated[int, msgspec.Meta(gt=0)] | None = None
    """Per model; beyond it new ones take the place of idle ones, or are refused and counted."""
    idle: str | None = None
    """How long in event time a stream brings nothing before it may give way to a new one; default 1h."""
    listen: Listen | None = None
    """Of the control API, on the node's loopback; port 0 takes a free one."""
    ingest: Address | None = None
    """Where sources of type ``http`` are fed; off loopback with TLS."""
    log: LogTo | None = None
    """Default: a file for local nodes, else the journal."""


class ReportEntry(_Strict, frozen=True, kw_only=True):
    """How often a node is asked, and when its silence means something."""

    every: str | None = None
    silent_after: str | None = None


class Layer(_Strict, frozen=True, kw_only=True):
    """Settings that a node inherits key by key: defaults < profiles < site < node."""

    tier: Tier | None = None
    connect: ConnectEntry | None = None
    agent: AgentEntry | None = None
    report: ReportEntry | None = None
    labels: dict[Name, str] = {}
    groups: tuple[Name, ...] = ()
    """Memberships to select by; those of all layers together."""
    sources: dict[Name, SourceEntry] = {}
    models: dict[Name, Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]] = {}
    """Recipe → the sources that feed it."""
    actions: tuple[ActionConfig, ...] | None = None
    """As a whole: those of the strongest layer that says any."""
    allow: tuple[Rule, ...] | None = None
    """What actions may reach beyond the agent; likewise. It holds once it is signed (`edgectl nodes allow`)."""


class SiteEntry(Layer, frozen=True, kw_only=True):
    """What all nodes of a site have in common."""

    profiles: tuple[Name, ...] = ()
    parent: Name | None = None
    """The node of the fleet that the others report through."""
    time_zone: str | None = None
    change_window: str | None = None
    """As `edgectl.core.calendar` has it, in the site's time."""


class NodeEntry(Layer, frozen=True, kw_only=True):
    """One node, all nodes of a name pattern, or all nodes of another inventory."""

    name: str = ""
    """May be a pattern such as ``press-[01-40]``; see `edgectl.inventory.patterns`."""
    ansible: str = ""
    """Path of an Ansible inventory, relative to fleet.yaml."""
    csv: str = ""
    """Path of a table with one node per line, relative to fleet.yaml."""
    group: str = ""
    """Of the Ansible inventory; default: all its hosts."""
    site_from: str = ""
    """The Ansible variable that holds the name of a host's site."""
    exclude: tuple[str, ...] = ()
    """Names or patterns of nodes that this entry does not mean."""
    site: str = ""
    profiles: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        said = [key for key in ("name", "ansible", "csv") if getattr(self, key)]
        if len(said) != 1:
            raise ValueError(f"expected one of name, ansible and csv, found {' and '.join(said) or 'none'}")
        if not self.ansible and (self.group or self.site_from):
            raise ValueError("group and site_from belong to an entry with ansible")
        if self.site and self.site_from:
            raise ValueError("expected site or site_from, found both")

    @property
    def origin(self) -> str:
        """What this entry is called where it stands for several nodes."""
        return self.name or self.ansible or self.csv


class RepositoryEntry(_Strict, frozen=True, kw_only=True):
    """Where the signed repository lies, and where nodes that poll find it."""

    dir: str = "./repo"
    url: str = ""
    publish: str = ""
    """Where `edgectl repo publish` puts it: a folder or a URL that takes ``PUT``. Every signature is published at once
    where this is said."""
    publish_token: SecretRef | None = None


class ReceiverEntry(_Strict, frozen=True, kw_only=True):
    """Where nodes that nobody can reach send their reports (`edgectl serve`)."""

    url: str = ""
    """As the nodes see it: ``https://…``."""
    ca: str = "fleet"
    """Whom they trust to be it: ``fleet`` (this fleet's own authority), ``system`` (the public ones that the node's
    system knows), or a PEM file relative to fleet.yaml."""


class RetentionEntry(_Strict, frozen=True, kw_only=True):
    """How long the store keeps what nobody needs any more; `edgectl.core.retention.Retention` says what each means."""

    alerts: str | None = None
    reports: str | None = None
    findings: str | None = None
    actions: str | None = None
    rollouts: Annotated[int, msgspec.Meta(ge=1)] | None = None


class FleetFile(_Strict, frozen=True, kw_only=True):
    """fleet.yaml."""

    version: Literal[1]
    fleet: Name
    store: str = STORE_URL
    store_password: SecretRef | None = None
    """Of the user that a PostgreSQL URL names."""
    retention: RetentionEntry = RetentionEntry()
    repository: RepositoryEntry = RepositoryEntry()
    receiver: ReceiverEntry = ReceiverEntry()
    time_zone: str = "UTC"
    defaults: Layer = Layer()
    profiles: dict[Name, Layer | None] | None = None
    """Settings that sites and nodes take by name."""
    sites: dict[Name, SiteEntry | None] | None = None
    nodes: tuple[NodeEntry, ...] | None = None
    """A list that was emptied by hand is null in YAML; so is ``sites``."""


# ── with every default settled ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Connect:
    """How one node is reached, settled; fields as in `ConnectEntry`, empty where nothing was said."""

    via: Via
    host: str
    port: int = 0
    user: str = ""
    jump: str = ""
    key: str = ""
    key_passphrase: SecretRef | None = None
    sudo_password: SecretRef | None = None
    url: str = ""
    token: SecretRef | None = None
    every_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class Outbound:
    """Where a node that nobody can reach goes by itself; an empty `receiver_url`: it reports to nobody."""

    repository_url: str
    receiver_url: str = ""
    own_ca: bool = False
    """It trusts the authorities in a file of its own, which is placed beside agent.yaml."""


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """As `AgentEntry`, settled; an empty version means that of this edgectl."""

    version: str
    packages: Literal["auto", "index", "wheelhouse"]
    folder: str = ""
    memory: str
    cpu: str
    disk: str
    streams: int
    idle: str = ""
    listen: str
    ingest: str = "127.0.0.1:8711"
    log: LogTo | None = None

    @property
    def limits(self) -> Limits:
        """As agent.yaml has them."""
        idle = self.idle or msgspec.UNSET
        return Limits(memory=self.memory, cpu=self.cpu, outbox=self.disk, streams=self.streams, idle=idle)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node with all its settings."""

    name: str
    site: str
    tier: Tier
    labels: Mapping[str, str]
    connect: Connect
    agent: AgentSettings
    report_every_ns: int
    silent_after_ns: int
    sources: Mapping[str, SourceEntry]
    models: Mapping[str, tuple[str, ...]]
    actions: tuple[ActionConfig, ...]
    allow: tuple[Rule, ...] = ()
    profiles: tuple[str, ...] = ()
    """The weakest first; those of its site come before its own."""
    groups: tuple[str, ...] = ()
    outbound: Outbound | None = None
    """Only of nodes that pull."""
    parent: str = ""
    """The node that this one reports through, by its site."""
    time_zone: str = "UTC"
    """Of its change window."""
    change_window: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Setting (``report.every``) → where it was said: ``node``, ``entry press-[01-40]``, ``site lyon``, ``profile pi``,
    ``defaults`` or ``built in``."""

    @property
    def limits(self) -> Limits:
        """What the agent may take, as agent.yaml has it."""
        return self.agent.limits

    @property
    def via(self) -> Via:
        return self.connect.via

    @property
    def asked(self) -> bool:
        """Whether it can be asked how it is."""
        return self.via not in ("pull", "usb")

    @property
    def by_hand(self) -> str:
        """How whoever owns the machine brings it what fleet.yaml wants; empty where operators log in."""
        ways = {
            "pull": "run its install line there again (edgectl nodes invite)",
            "usb": f"edgectl repo export --node {self.name}, and bring it setup/agent.yaml",
        }
        return ways.get(self.via, "")

    @property
    def reports_itself(self) -> bool:
        """Nobody asks it: it reports by itself, and what is known of it is as old as its last report."""
        return self.via == "pull"

    @property
    def patience_s(self) -> float:
        """How long it may take from an order until its proof is here, beside the time that the update takes: two polls
        and a report for a node that pulls, 0 for one that is asked."""
        return (2 * self.connect.every_ns + self.report_every_ns) / 1e9 if self.reports_itself else 0.0

    @property
    def fields(self) -> dict[str, tuple[str, ...]]:
        """What a selector can ask for."""
        return {
            **{key: (value,) for key, value in self.labels.items()},
            "name": (self.name,),
            "site": (self.site,),
            "tier": (self.tier,),
            "via": (self.via,),
            "profile": self.profiles,
            "group": self.groups,
        }

    @property
    def expected(self) -> Expected:
        """What the rules of status and audit need."""
        return Expected(
            silent_after_ns=self.silent_after_ns,
            site=self.site,
            tier=self.tier,
            agent_version=self.agent.version,
            here=self.via in HERE,
            asked=self.asked,
            by_hand=self.by_hand,
        )


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The whole fleet as the operator wants it."""

    fleet: str
    store_url: str
    repository_dir: str
    repository_url: str
    repository_publish: str = ""
    repository_publish_token: SecretRef | None = None
    receiver_url: str = ""
    receiver_ca: str = "fleet"
    time_zone: str
    nodes: tuple[Node, ...]

    store_password: SecretRef | None = None
    retention: Retention
    sites: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def node(self, name: str) -> Node:
        """The node of that name. Raises `NothingMatched` with the closest names."""
        found = self._by_name.get(name)
        if found is None:
            raise unknown("node", name, self.names, first=f"edgectl nodes add {name}")
        return found


msgspec.json.Decoder(FleetFile)  # not first in two threads at once: see edgectl_agent.core.messages
