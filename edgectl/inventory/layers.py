"""Settles what each node's settings are and where each was said.

Built in < defaults < profiles (those of the site, then the node's own, left to right) < site < entry < node, key by
key. An *entry* stands for many nodes: a name pattern, an Ansible inventory or a table. A later entry with the plain
name of one of them says what is different about it: it is that node's own layer, and no second node.

Pure: what other files say about nodes comes through `Members`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import msgspec
from edgectl_agent.core.units import duration_ns

from edgectl.core.errors import ConfigError
from edgectl.core.names import closest
from edgectl.core.retention import Retention
from edgectl.inventory.checks import check_file, check_layer, check_models
from edgectl.inventory.patterns import expand, is_pattern
from edgectl.inventory.types import (
    AgentEntry,
    AgentSettings,
    Connect,
    ConnectEntry,
    FleetFile,
    Inventory,
    Layer,
    Node,
    NodeEntry,
    Outbound,
    ReportEntry,
    RetentionEntry,
    SiteEntry,
)

Members = Callable[[NodeEntry], Iterable[tuple[NodeEntry, str]]]
"""An entry that names another file → (what it says about one node, where it says so). Raises `ConfigError`."""

Settings = Mapping[str, tuple[Any, str]]
"""Path of a key (``connect.via``) → (value, origin)."""

BUILT_IN = Layer(
    tier="far-edge",
    connect=ConnectEntry(via="local", every="15m"),
    agent=AgentEntry(
        version="",
        packages="auto",
        memory="200M",
        cpu="100%",
        disk="200M",
        streams=2000,
        listen="127.0.0.1:0",
        ingest="127.0.0.1:8711",
    ),
    report=ReportEntry(every="60s", silent_after="5m"),
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SITE_ONLY = ("parent", "time_zone", "change_window")


def no_members(entry: NodeEntry) -> Iterable[tuple[NodeEntry, str]]:
    """For fleets that name no other file."""
    raise ConfigError(f"{entry.origin}: other inventories are read relative to fleet.yaml's folder, and none is given")


def settle(file: FleetFile, members: Members = no_members) -> Inventory:
    """The fleet with every default applied.

    Raises:
        ConfigError: ``path.of.key: expected …, found …`` for what types alone cannot say: unknown sites, profiles and
            sources, names twice, malformed durations, sizes and zones.
    """
    check_file(file)
    fleet = _Fleet(file)
    members_of = {draft.name: draft for draft in _drafts(file, members)}
    nodes = tuple(_outward(fleet.node(draft), file) for draft in members_of.values())
    _check_parents(file, {node.name for node in nodes})
    return Inventory(
        fleet=file.fleet,
        store_url=file.store,
        store_password=file.store_password,
        retention=_retention(file.retention),
        repository_dir=file.repository.dir,
        repository_url=file.repository.url,
        repository_publish=file.repository.publish,
        repository_publish_token=file.repository.publish_token,
        receiver_url=file.receiver.url,
        receiver_ca=file.receiver.ca,
        time_zone=file.time_zone,
        nodes=nodes,
        sites=tuple(file.sites or ()),
        profiles=tuple(file.profiles or ()),
    )


def _retention(entry: RetentionEntry) -> Retention:
    ages = {name: getattr(entry, name) for name in ("alerts", "reports", "findings", "actions")}
    said: dict[str, int] = {f"{name}_ns": duration_ns(text) for name, text in ages.items() if text is not None}
    return msgspec.structs.replace(Retention(), **said | ({"rollouts": entry.rollouts} if entry.rollouts else {}))


# ── which nodes there are ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Draft:
    """One node with the entries that speak of it, the weakest first, each with its origin and its key."""

    name: str
    entries: tuple[tuple[NodeEntry, str, str], ...]
    host: str = ""
    """Of a pattern in ``connect.host``."""

    @property
    def key(self) -> str:
        return self.entries[-1][2]

    @property
    def many(self) -> bool:
        """Whether its entry may be followed by one of its own."""
        return len(self.entries) < 2 or self.entries[-1][1] != "node"


def drafts(file: FleetFile, members: Members) -> dict[str, tuple[int, bool]]:
    """Each node → (place of the entry that makes it in ``nodes``, whether that entry stands for many).

    Raises `ConfigError` as `settle`.
    """
    found = {}
    for draft in _drafts(file, members):
        place = int(draft.entries[0][2].partition("[")[2].partition("]")[0])
        found[draft.name] = (place, draft.entries[0][1] != "node")
    return found


def _drafts(file: FleetFile, members: Members) -> Iterable[_Draft]:
    found: dict[str, _Draft] = {}
    for i, entry in enumerate(file.nodes or ()):
        key = f"nodes[{i}]"
        check_layer(key, entry)
        for draft in _stands_for(key, entry, members):
            before = found.get(draft.name)
            if before is None:
                found[draft.name] = draft
            elif draft.entries[0][1] == "node" and before.entries[-1][1] != "node":
                found[draft.name] = _Draft(draft.name, (*before.entries, *draft.entries), draft.host or before.host)
            else:
                raise ConfigError(f"{key}.name: {draft.name!r} is there twice", hint=_both(before, key))
    return found.values()


def _both(before: _Draft, key: str) -> str:
    if before.entries[-1][1] == "node":
        return f"it is in {before.key} too; an exception to a pattern comes once, and after it"
    return f"{before.key} ({before.entries[0][0].origin}) has it too: exclude it from one of them"


def _stands_for(key: str, entry: NodeEntry, members: Members) -> Iterator[_Draft]:
    excluded = {name for text in entry.exclude for name in _at(f"{key}.exclude", text)}
    if not entry.name:
        for own, where in members(entry):
            if own.name not in excluded:
                check_layer(f"{where}:", own)
                at = f"{where}:"
                yield _Draft(_checked(at, own.name), ((entry, f"entry {entry.origin}", key), (own, where, at)))
        return
    names = _at(f"{key}.name", entry.name)
    if missing := excluded.difference(names):
        raise ConfigError(
            f"{key}.exclude: {min(missing)!r} is no node of {entry.name!r}", hint=closest(min(missing), names)
        )
    hosts = _hosts(key, entry, names)
    origin = f"entry {entry.name}" if is_pattern(entry.name) else "node"
    for name, host in zip(names, hosts, strict=True):
        if name not in excluded:
            yield _Draft(_checked(f"{key}.name", name), ((entry, origin, key),), host)


def _hosts(key: str, entry: NodeEntry, names: Sequence[str]) -> Sequence[str]:
    """The host of each name, where the entry has a pattern for it."""
    host = (entry.connect.host if entry.connect else None) or ""
    if not is_pattern(host):
        return [""] * len(names)
    hosts = _at(f"{key}.connect.host", host)
    if len(hosts) != len(names):
        raise ConfigError(
            f"{key}.connect.host: expected as many hosts as names ({len(names)}), found {len(hosts)} in {host!r}"
        )
    return hosts


def _at(key: str, pattern: str) -> tuple[str, ...]:
    try:
        return expand(pattern)
    except ConfigError as e:
        raise ConfigError(f"{key}: {e.message}") from e


def _checked(key: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{key}: expected letters, digits, '.', '_' and '-', at most 63, found {name!r}")
    return name


# ── what each node's settings are ───────────────────────────────────────────────────────────────────────────────────


class _Fleet:
    """Layers, each flattened once: thousands of nodes share few of them."""

    def __init__(self, file: FleetFile) -> None:
        self._file = file
        self._sites = {name: site or SiteEntry() for name, site in (file.sites or {}).items()}
        self._profiles = {name: layer or Layer() for name, layer in (file.profiles or {}).items()}
        self._flat: dict[int, dict[str, Any]] = {}
        self._bases: dict[tuple[str, tuple[str, ...]], dict[str, tuple[Any, str]]] = {}

    def node(self, draft: _Draft) -> Node:
        site = next((entry.site for entry, _, _ in reversed(draft.entries) if entry.site), "")
        profiles = self._named(draft, site)
        settings = dict(self._base(site, profiles))
        settings["name"] = (draft.name, draft.entries[0][1])
        groups = list(self._groups(site, profiles))
        for entry, origin, _ in draft.entries:
            settings.update({path: (value, origin) for path, value in self._of(entry).items()})
            groups += entry.groups
            if draft.host and entry is draft.entries[0][0]:
                settings["connect.host"] = (draft.host, origin)
        check_models(draft.key, settings)
        _check_elsewhere(draft, settings)
        own = self._sites.get(site) or SiteEntry()
        return _node(draft.name, site, profiles, tuple(dict.fromkeys(groups)), settings, own.parent or "")

    def _named(self, draft: _Draft, site: str) -> tuple[str, ...]:
        """The node's profiles, the weakest first; one that is named twice counts where it is named last."""
        if site and site not in self._sites:
            raise ConfigError(f"{draft.key}.site: no site {site!r} under sites", hint=closest(site, self._sites))
        names = [*self._sites[site].profiles] if site else []
        for entry, _, key in draft.entries:
            for name in entry.profiles:
                if name not in self._profiles:
                    hint = closest(name, self._profiles)
                    raise ConfigError(f"{key}.profiles: no profile {name!r} under profiles", hint=hint)
                names.append(name)
        return tuple(reversed(dict.fromkeys(reversed(names))))

    def _base(self, site: str, profiles: tuple[str, ...]) -> dict[str, tuple[Any, str]]:
        found = self._bases.get((site, profiles))
        if found is None:
            layers: list[tuple[Layer, str]] = [(BUILT_IN, "built in"), (self._file.defaults, "defaults")]
            layers += [(self._profiles[name], f"profile {name}") for name in profiles]
            layers += [(self._sites[site], f"site {site}")] if site else []
            found = {"time_zone": (self._file.time_zone, "fleet")}
            for layer, origin in layers:
                found.update({path: (value, origin) for path, value in self._of(layer).items()})
            self._bases[site, profiles] = found
        return found

    def _groups(self, site: str, profiles: tuple[str, ...]) -> Iterator[str]:
        yield from self._file.defaults.groups
        for name in profiles:
            yield from self._profiles[name].groups
        if site:
            yield from self._sites[site].groups

    def _of(self, layer: Layer) -> dict[str, Any]:
        found = self._flat.get(id(layer))
        if found is None:
            found = self._flat[id(layer)] = _flat(layer)
        return found


def _flat(layer: Layer) -> dict[str, Any]:
    """What a layer says, by the path of each key; what it leaves out is not there."""
    found: dict[str, Any] = {}
    for group in ("connect", "agent", "report"):
        part: msgspec.Struct | None = getattr(layer, group)
        for name in part.__struct_fields__ if part is not None else ():
            found[f"{group}.{name}"] = getattr(part, name)
    for group in ("labels", "sources", "models"):
        found |= {f"{group}.{name}": value for name, value in getattr(layer, group).items()}
    found |= {key: getattr(layer, key) for key in ("tier", "actions", "allow")}
    if isinstance(layer, SiteEntry):
        found |= {key: getattr(layer, key) for key in _SITE_ONLY}
    return {path: value for path, value in found.items() if value is not None}


_duration_ns = cache(duration_ns)


def _node(
    name: str, site: str, profiles: tuple[str, ...], groups: tuple[str, ...], settings: Settings, parent: str
) -> Node:
    parts: dict[str, dict[str, Any]] = {}
    for path, (value, _) in settings.items():
        group, _, key = path.partition(".")
        parts.setdefault(group, {})[key] = value

    def said(key: str, otherwise: Any = "") -> Any:
        return parts[key][""] if key in parts else otherwise

    connect = {"host": name} | parts["connect"]
    for key in ("host", "url"):  # one line in `defaults` may name every node's address
        if key in connect:
            connect[key] = connect[key].replace("{name}", name)
    every = connect.pop("every")
    return Node(
        name=name,
        site=site,
        tier=said("tier"),
        labels=parts.get("labels", {}),
        connect=Connect(**connect, every_ns=_duration_ns(every)),
        agent=AgentSettings(**parts["agent"]),
        report_every_ns=_duration_ns(parts["report"]["every"]),
        silent_after_ns=_duration_ns(parts["report"]["silent_after"]),
        sources=parts.get("sources", {}),
        models=parts.get("models", {}),
        actions=said("actions", ()),
        allow=said("allow", ()),
        profiles=profiles,
        groups=groups,
        parent="" if parent == name else parent,
        time_zone=said("time_zone"),
        change_window=said("change_window"),
        origins={path: origin for path, (_, origin) in settings.items()},
    )


def _outward(node: Node, file: FleetFile) -> Node:
    """`node` with where it goes by itself, if it pulls. The receiver serves the repository too, if nobody else does."""
    if node.via != "pull":
        return node
    receiver = file.receiver.url.rstrip("/")
    repository = file.repository.url.rstrip("/") or (f"{receiver}/repo" if receiver else "")
    if not repository:
        raise ConfigError(
            f"node {node.name} pulls, and nothing says from where",
            hint="say repository: {url: https://…}, or receiver: {url: https://…} for `edgectl serve`",
        )
    own_ca = receiver.startswith("https:") and file.receiver.ca != "system"
    return replace(node, outbound=Outbound(repository_url=repository, receiver_url=receiver, own_ca=own_ca))


def _check_elsewhere(draft: _Draft, settings: Settings) -> None:
    """Hosts of an Ansible inventory are machines: they must not become processes here by omission."""
    entry, _, key = draft.entries[0]
    if entry.ansible and settings["connect.via"][0] == "local":
        raise ConfigError(
            f"{key} ({entry.ansible}): its hosts would be processes on this machine",
            hint="say connect: {via: ssh} in this entry, in a profile or in defaults",
        )


def _check_parents(file: FleetFile, names: set[str]) -> None:
    for name, site in (file.sites or {}).items():
        if site and site.parent and site.parent not in names:
            hint = closest(site.parent, names)
            raise ConfigError(f"sites.{name}.parent: no node is called {site.parent!r}", hint=hint)
