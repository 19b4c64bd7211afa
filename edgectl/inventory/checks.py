"""What the types of fleet.yaml alone cannot say. Each check raises `ConfigError` that begins with the key. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from zoneinfo import ZoneInfo

from edgectl_agent.core.units import duration_ns, size_bytes

from edgectl.core import calendar
from edgectl.core.errors import ConfigError
from edgectl.core.names import closest
from edgectl.inventory.patterns import is_pattern
from edgectl.inventory.types import (
    AgentEntry,
    ConnectEntry,
    FleetFile,
    HostMetricsEntry,
    Layer,
    NodeEntry,
    ReplayEntry,
    ReportEntry,
    SiteEntry,
    SourceEntry,
)

RESERVED = ("name", "site", "tier", "via", "profile", "group", "state", "finding")
"""What selectors ask for beside labels."""


def check_file(file: FleetFile) -> None:
    """Everything but the nodes."""
    _check_zone("time_zone", file.time_zone)
    if re.search(r"://[^/@]*:[^/@]+@|[?&]password=", file.store):
        raise ConfigError(
            "store: the URL holds a password, which never stands in this file",
            hint="leave it out of the URL and say where it is kept: store_password: {env: NAME} or {file: PATH}",
        )
    for name in ("alerts", "reports", "findings", "actions"):
        _at(f"retention.{name}", duration_ns, getattr(file.retention, name))
    check_layer("defaults", file.defaults)
    for name, layer in (file.profiles or {}).items():
        check_layer(f"profiles.{name}", layer or Layer())
    for name, site in (file.sites or {}).items():
        _check_site(f"sites.{name}", site or SiteEntry(), file)


def _check_site(key: str, site: SiteEntry, file: FleetFile) -> None:
    check_layer(key, site)
    profiles = file.profiles or {}
    for name in site.profiles:
        if name not in profiles:
            raise ConfigError(f"{key}.profiles: no profile {name!r} under profiles", hint=closest(name, profiles))
    if site.time_zone is not None:
        _check_zone(f"{key}.time_zone", site.time_zone)
    _at(f"{key}.change_window", calendar.parse, site.change_window)


def check_layer(key: str, layer: Layer) -> None:
    """Durations, sizes, sources and labels of one layer."""
    connect, report, agent = layer.connect or ConnectEntry(), layer.report or ReportEntry(), layer.agent or AgentEntry()
    _at(f"{key}.connect.every", duration_ns, connect.every)
    _at(f"{key}.report.every", duration_ns, report.every)
    _at(f"{key}.report.silent_after", duration_ns, report.silent_after)
    _at(f"{key}.agent.memory", size_bytes, agent.memory)
    _at(f"{key}.agent.disk", size_bytes, agent.disk)
    if is_pattern(connect.host or "") and not (isinstance(layer, NodeEntry) and is_pattern(layer.name)):
        raise ConfigError(
            f"{key}.connect.host: a pattern belongs beside a pattern of as many names, found {connect.host!r}",
            hint="{name} stands for the node's own name",
        )
    for name in layer.labels:
        if name in RESERVED:
            raise ConfigError(f"{key}.labels.{name}: selectors ask for {name} already, expected another name")
    for name, source in layer.sources.items():
        _check_source(f"{key}.sources.{name}", source)


def check_models(key: str, settings: Mapping[str, tuple[Any, str]]) -> None:
    """Every model of a node is fed by sources that the node has."""
    known = [path.removeprefix("sources.") for path in settings if path.startswith("sources.")]
    for path, (names, origin) in settings.items():
        if not path.startswith("models."):
            continue
        for i, name in enumerate(names):
            if name not in known:
                said = "" if origin == "node" else f" (said by {origin})"
                raise ConfigError(
                    f"{key}.{path}[{i}]: this node has no source {name!r}{said}", hint=closest(name, known)
                )


def _check_source(key: str, source: SourceEntry) -> None:
    if isinstance(source, HostMetricsEntry):
        _at(f"{key}.every", duration_ns, source.every)
    elif isinstance(source, ReplayEntry) and not _is_speed(source.speed):
        raise ConfigError(f"{key}.speed: expected a factor above 0 or max, found {source.speed!r}")


def _is_speed(value: float | str) -> bool:
    return value == "max" if isinstance(value, str) else 0 < value < float("inf")


def _check_zone(key: str, zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise ConfigError(f"{key}: expected a zone such as Europe/Paris, found {zone!r}") from None


def _at(key: str, parse: Callable[[str], object], text: str | None) -> None:
    if text is not None:
        try:
            parse(text)
        except ConfigError as e:
            raise ConfigError(f"{key}: {e.message}") from e
