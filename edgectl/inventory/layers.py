"""Settles what each node's settings are and where each was said: built in < defaults < site < node.

Pure; profiles and patterns, when they come, are further layers in `_layers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from edgectl_agent.config import Limits
from edgectl_agent.core.units import duration_ns, size_bytes

from edgectl.core.errors import ConfigError
from edgectl.core.names import closest
from edgectl.inventory.types import (
    AgentEntry,
    AgentSettings,
    Connect,
    ConnectEntry,
    FleetFile,
    HostMetricsEntry,
    Inventory,
    Layer,
    LimitsEntry,
    Node,
    NodeEntry,
    ReplayEntry,
    ReportEntry,
    SiteEntry,
)

T = TypeVar("T")

BUILT_IN = Layer(
    tier="far-edge",
    connect=ConnectEntry(via="local", every="15m"),
    agent=AgentEntry(version="", packages="auto"),
    report=ReportEntry(every="60s", silent_after="5m"),
    limits=LimitsEntry(memory="200M", cpu="100%", outbox="200M", streams=2000),
)


def settle(file: FleetFile) -> Inventory:
    """The fleet with every default applied.

    Raises:
        ConfigError: ``path.of.key: expected …, found …`` for what types alone cannot say: unknown sites and sources,
            names twice, malformed durations, sizes and zones.
    """
    try:
        ZoneInfo(file.time_zone)
    except (KeyError, ValueError, OSError):
        raise ConfigError(f"time_zone: expected a zone such as Europe/Paris, found {file.time_zone!r}") from None
    _check_layer("defaults", file.defaults)
    for name, site in (file.sites or {}).items():
        _check_layer(f"sites.{name}", site or SiteEntry())
    nodes: dict[str, Node] = {}
    for i, entry in enumerate(file.nodes or ()):
        if entry.name in nodes:
            raise ConfigError(f"nodes[{i}].name: {entry.name!r} is there twice")
        nodes[entry.name] = _node(f"nodes[{i}]", entry, file)
    return Inventory(
        fleet=file.fleet,
        store_url=file.store,
        repository_dir=file.repository.dir,
        repository_url=file.repository.url,
        repository_publish=file.repository.publish,
        repository_publish_token=file.repository.publish_token,
        receiver_url=file.receiver.url,
        receiver_ca_file=file.receiver.ca_file,
        time_zone=file.time_zone,
        nodes=tuple(nodes.values()),
    )


def _node(key: str, entry: NodeEntry, file: FleetFile) -> Node:
    site = _site(key, entry, file)
    _check_layer(key, entry)
    _check_sources(key, entry)
    layers = _layers(entry, site, file)
    origins: dict[str, str] = {}

    def setting(path: str) -> Any:
        for origin, layer in layers:
            value: Any = layer
            for step in path.split("."):
                value = getattr(value, step) if value is not None else None
            if value is not None:
                origins[path] = origin
                return value
        return None

    origins.update({f"labels.{key}": f"site {entry.site}" for key in site.labels if key not in entry.labels})
    limits = {name: setting(f"limits.{name}") for name in LimitsEntry.__struct_fields__}
    return Node(
        name=entry.name,
        site=entry.site,
        tier=setting("tier"),
        labels={**site.labels, **entry.labels},
        connect=Connect(
            via=setting("connect.via"),
            host=setting("connect.host") or entry.name,
            port=setting("connect.port") or 0,
            user=setting("connect.user") or "",
            jump=setting("connect.jump") or "",
            key=setting("connect.key") or "",
            key_passphrase=setting("connect.key_passphrase"),
            sudo_password=setting("connect.sudo_password"),
            url=setting("connect.url") or "",
            token=setting("connect.token"),
            every_ns=duration_ns(setting("connect.every")),
        ),
        agent=AgentSettings(version=setting("agent.version"), packages=setting("agent.packages")),
        report_every_ns=duration_ns(setting("report.every")),
        silent_after_ns=duration_ns(setting("report.silent_after")),
        limits=msgspec.convert(limits, Limits),
        sources=entry.sources,
        models=entry.models,
        actions=entry.actions,
        origins=origins,
    )


def _layers(entry: NodeEntry, site: SiteEntry, file: FleetFile) -> Sequence[tuple[str, Layer]]:
    """(origin, layer), the strongest first."""
    return (("node", entry), (f"site {entry.site}", site), ("defaults", file.defaults), ("built in", BUILT_IN))


def _site(key: str, entry: NodeEntry, file: FleetFile) -> SiteEntry:
    sites = file.sites or {}
    if entry.site and entry.site not in sites:
        raise ConfigError(f"{key}.site: no site {entry.site!r} under sites", hint=closest(entry.site, sites))
    return sites.get(entry.site) or SiteEntry()


def _check_layer(key: str, layer: Layer) -> None:
    report, limits = layer.report or ReportEntry(), layer.limits or LimitsEntry()
    _at(f"{key}.connect.every", duration_ns, (layer.connect or ConnectEntry()).every)
    _at(f"{key}.report.every", duration_ns, report.every)
    _at(f"{key}.report.silent_after", duration_ns, report.silent_after)
    _at(f"{key}.limits.memory", size_bytes, limits.memory)
    _at(f"{key}.limits.outbox", size_bytes, limits.outbox)


def _check_sources(key: str, entry: NodeEntry) -> None:
    for name, source in entry.sources.items():
        at = f"{key}.sources.{name}"
        if isinstance(source, HostMetricsEntry):
            _at(f"{at}.every", duration_ns, source.every)
        elif isinstance(source, ReplayEntry) and not _is_speed(source.speed):
            raise ConfigError(f"{at}.speed: expected a factor above 0 or max, found {source.speed!r}")
    for recipe, names in entry.models.items():
        for i, name in enumerate(names):
            if name not in entry.sources:
                raise ConfigError(
                    f"{key}.models.{recipe}[{i}]: this node has no source {name!r}", hint=closest(name, entry.sources)
                )


def _is_speed(value: float | str) -> bool:
    return value == "max" if isinstance(value, str) else 0 < value < float("inf")


def _at(key: str, parse: Callable[[str], T], text: str | None) -> None:
    if text is not None:
        try:
            parse(text)
        except ConfigError as e:
            raise ConfigError(f"{key}: {e.message}") from e
