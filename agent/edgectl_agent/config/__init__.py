"""What agent.yaml says, as typed values; not what runs.

Durations and sizes stay text in the file (``5m``, ``200M``) and are numbers here, each read once by `_quantities` when
the file is loaded, so that a wrong one is refused with its key before anything starts. Sources are in modules by what
they read: `files`, `brokers`, `senders`, `asked`; `sources` is all of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgectl_agent import yamlfile
from edgectl_agent.action_config import ActionConfig, LogAction, check_actions, check_beside, check_quantity
from edgectl_agent.config.asked import HOST_CHANNELS, HostMetricsConfig, OpcuaConfig
from edgectl_agent.config.brokers import KafkaConfig, MqttConfig, Sasl
from edgectl_agent.config.files import (
    LOG_COLUMNS,
    Format,
    LogLines,
    Mapping,
    ReplayConfig,
    StdinConfig,
    TailConfig,
    check_log,
    log_of,
)
from edgectl_agent.config.mapping import Column, DeadLetter, Fields, PositiveInt
from edgectl_agent.config.senders import (
    SYSLOG_COLUMNS,
    Address,
    HttpConfig,
    SyslogConfig,
    check_listen,
    is_loopback,
    split_address,
)
from edgectl_agent.config.sources import EXTRAS, LEAST_LETTERS, SOURCE_QUANTITIES, SourceConfig, check_source
from edgectl_agent.connection import ClientTls, Strict, parts
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.messages import Name
from edgectl_agent.core.units import duration_ns, size_bytes

__all__ = [
    "EXTRAS", "HOST_CHANNELS", "LOG_COLUMNS", "SYSLOG_COLUMNS", "ActionConfig", "Address", "ClientTls", "Column",
    "DeadLetter", "Fields", "Format", "HostMetricsConfig", "HttpConfig", "KafkaConfig", "LogAction", "LogLines",
    "Mapping", "MqttConfig", "OpcuaConfig", "ReplayConfig", "Sasl", "SourceConfig", "StdinConfig", "SyslogConfig",
    "TailConfig", "check_log", "is_loopback", "log_of", "split_address",
]  # fmt: skip

_SHARE = re.compile(r"[1-9]\d{0,4}%")


class Limits(Strict, frozen=True, kw_only=True):
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


class Snapshot(Strict, frozen=True, kw_only=True):
    """How often the detectors' state and the sources' positions are saved together."""

    every: str = "10s"


class Batching(Strict, frozen=True, kw_only=True):
    """Micro-batches form by whatever has arrived."""

    max: PositiveInt = 4096
    max_latency: str = "20ms"
    """How long a reading may lie before the agent looks again."""


class Log(Strict, frozen=True, kw_only=True):
    """Where the agent's own log goes; ``file`` is ``agent.log`` in the data folder."""

    to: Literal["stderr", "journald", "file"] = "stderr"
    level: Literal["debug", "info", "warning", "error"] = "info"
    rotate: str = "10M"
    """Size at which the file is put aside."""
    keep: PositiveInt = 3
    """Files put aside that stay."""


class Tls(Strict, frozen=True, kw_only=True):
    """A listener's certificate and private key, PEM files."""

    cert: str
    key: str


class MutualTls(Tls, frozen=True, kw_only=True):
    """A listener that asks who comes: with a certificate issued under `client_ca` (PEM) or not at all."""

    client_ca: str


class Api(Strict, frozen=True, kw_only=True):
    """The control API."""

    listen: Address = "127.0.0.1:0"
    """Port 0 takes a free one, written to ``api.json``. Off loopback only with `tls`."""
    tls: MutualTls | None = None
    """With it `listen` is for operators; a second, plain listener on loopback stays for this machine's own tools."""
    token_file: str = ""
    """Its first line is the bearer token of the plain listener; default: a new one at each start, in ``api.json``."""


class Ingest(Strict, frozen=True, kw_only=True):
    """Where sources of type ``http`` are fed: a listener and tokens of its own."""

    listen: Address = "127.0.0.1:8711"
    """Off loopback only with `tls`."""
    token_file: str = ""
    """A bearer token per line; default: ``ingest.token`` in the data folder, made at the first start."""
    tls: Tls | None = None
    max_body: str = "4M"
    """Of one request, also after it is decompressed."""


class Repository(Strict, frozen=True, kw_only=True):
    """A static web server with the fleet's signed repository, for a node to which nobody can push."""

    url: str
    every: str = "15m"
    ca_file: str = ""
    """PEM; default: the system's authorities."""


class Uplink(Strict, frozen=True, kw_only=True):
    """A receiver (`edgectl serve`) for reports and alerts of a node from which nobody can collect."""

    url: str
    token_file: str
    every: str = "60s"
    """Alerts and changes are sent at once."""
    ca_file: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
            check_source(f"sources.{name}", source)
        check_actions(self.actions)
        check_beside(self.actions, self.data_dir)
        if self.repository is not None:
            _check_url("repository.url", self.repository.url, secret=False)
        if self.uplink is not None:
            _check_url("uplink.url", self.uplink.url, secret=True)
        for key, said, takes in (("api", self.api, "TLS with client certificates"), ("ingest", self.ingest, "TLS")):
            check_listen(key, said.listen, said.tls is not None, f"tls, because it takes {takes} there")

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
            for key, read, least in SOURCE_QUANTITIES.get(type(source), ())
        ),
        *(
            (f"sources.{name}.dead_letter.limit", source.dead_letter.limit, size_bytes, LEAST_LETTERS)
            for name, source in config.sources.items()
            if source.dead_letter.limit != "0"
        ),
    ]


def _check_url(key: str, url: str, secret: bool) -> None:
    """A URL that can be asked; with a `secret` on it, one on which nobody listens in."""
    found = parts(url, "http", "https")
    if found is None or found.query or found.fragment:
        raise ConfigError(f"{key}: expected a URL such as https://models.acme.example, found {url!r}")
    if found.username or found.password:
        raise ConfigError(f"{key}: expected no user or password in it")
    if secret and found.scheme == "http" and found.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigError(f"{key}: expected https (http on loopback only), found {url!r}: it carries this node's token")


msgspec.json.Decoder(Config)  # not first in two threads at once: see edgectl_agent.core.messages
