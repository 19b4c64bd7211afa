"""Generates a node's agent.yaml from its settings in fleet.yaml and the recipes that it runs.

A source names a file; which of its columns is the time, the stream and each channel is the recipe's to say, so that it
is written down once. What fleet.yaml says about a source itself wins over the recipe.

The text depends on nothing but these settings, so that `sha256` says what a node should have without reaching it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import yaml
from edgectl_agent import yamlfile
from edgectl_agent.config import HOST_CHANNELS, Config
from edgectl_agent.core.units import format_duration

from edgectl.core.errors import ConfigError
from edgectl.inventory import doors
from edgectl.inventory.types import (
    FieldsEntry,
    HostMetricsEntry,
    HttpEntry,
    KafkaEntry,
    MqttEntry,
    Node,
    OpcuaEntry,
    ReplayEntry,
    SourceEntry,
    SyslogEntry,
)
from edgectl.machine.layout import Layout

TOKEN_FILE = "uplink.token"
"""Beside the agent.yaml of a node that pulls: its token for the receiver."""
CA_FILE = "receiver-ca.pem"
"""Beside it too: whom it trusts to be the receiver."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where a recipe's data has what the recipe needs."""

    stream: str
    """Column, or ``=name`` where the whole source is one stream."""
    time: str
    zone: str
    channels: Mapping[str, str]
    """Channel → column."""
    categories: Mapping[str, str] = field(default_factory=dict)
    """Category → column."""
    joined: bool = False
    """Channels come from several streams, so a source need not have all of them."""
    log: Mapping[str, Any] | None = None
    """How lines of a log become readings, if the data is one."""


Resolve = Callable[[str, str], str]
"""(key for messages, path as fleet.yaml writes it) → the path that holds on the node. Raises `ConfigError`."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an agent lives, as far as agent.yaml says so."""

    data_dir: str
    resolve: Resolve
    log: Literal["journald", "file"]
    here: bool
    """On this machine: files can be looked at."""
    config: str
    """Folder of agent.yaml and what lies beside it."""


def here(data_dir: Path, resolve: Callable[[str], Path]) -> Place:
    """On this machine; paths of fleet.yaml are relative to its folder."""
    return Place(
        data_dir=str(data_dir),
        resolve=lambda key, path: str(resolve(path)),
        log="file",
        here=True,
        config=str(data_dir.parent),
    )


def there(layout: Layout) -> Place:
    """On a machine elsewhere, whose files are its own; without root there is no journal of the agent's own."""
    log: Literal["journald", "file"] = "journald" if layout.root else "file"
    return Place(data_dir=layout.data, resolve=_own, log=log, here=False, config=layout.config)


def render(node: Node, columns: Mapping[str, Columns], place: Place) -> str:
    """The text of agent.yaml; the same settings give the same text.

    Args:
        node: its settings.
        columns: recipe → where its data has what, for every recipe in ``node.models``.
        place: where its agent lives.

    Raises:
        ConfigError: a source feeds no model and has no columns of its own; two recipes disagree on a source's columns;
            a recipe needs a channel that the source cannot give; a path of a machine elsewhere that is not absolute.
    """
    document = {
        "data_dir": place.data_dir,
        "sources": {name: _source(node, name, source, columns, place) for name, source in node.sources.items()},
        "models": {recipe: list(names) for recipe, names in node.models.items()},
        "actions": [_action(f"node {node.name}: action", msgspec.to_builtins(a), place) for a in node.actions],
        "limits": msgspec.to_builtins(node.limits),
        "log": {"to": node.agent.log or place.log},
        **doors.settings(node, place.config),
        **_outbound(node, place),
    }
    body = f"version: 1\nnode: {_scalar(node.name)}\n{_body(node.name, msgspec.json.encode(document))}"
    sha = hashlib.sha256(body.encode()).hexdigest()
    return (
        f"# written by edgectl from fleet.yaml (sha256 {sha}); "
        f"local edits show up in `edgectl audit` as config-drift\n{body}"
    )


def _outbound(node: Node, place: Place) -> dict[str, Any]:
    """What a node that pulls asks, and how often."""
    if node.outbound is None:
        return {}
    goes, trust = node.outbound, {"ca_file": f"{place.config}/{CA_FILE}"} if node.outbound.own_ca else {}
    same_server = urlsplit(goes.repository_url)[:2] == urlsplit(goes.receiver_url)[:2]
    polls = {"url": goes.repository_url, "every": format_duration(node.connect.every_ns)}
    found: dict[str, Any] = {"repository": polls | (trust if same_server else {})}
    if goes.receiver_url:
        every = format_duration(node.report_every_ns)
        token = {"token_file": f"{place.config}/{TOKEN_FILE}"}
        found["uplink"] = {"url": goes.receiver_url, "every": every, **token, **trust}
    return found


def sha256(text: str) -> str:
    """What a node that has this agent.yaml reports as ``config_sha256``."""
    return hashlib.sha256(text.encode()).hexdigest()


def _own(key: str, path: str) -> str:
    if not PurePosixPath(path).is_absolute():
        raise ConfigError(f"{key}: expected an absolute path of the node's own, found {path!r}")
    return path


def _scalar(text: str) -> str:
    """`text` as YAML: a name such as ``0417`` must stay text."""
    return yaml.safe_dump(text, width=1000).partition("\n")[0]


def _body(name: str, document: bytes) -> str:
    """YAML of `document`. Raises `ConfigError` if the agent would not accept it."""
    try:
        return _dumped(document)
    except ConfigError as e:
        raise ConfigError(f"node {name}: {e.message}", hint=e.hint) from e


@lru_cache(maxsize=256)
def _dumped(document: bytes) -> str:
    """Thousands of nodes differ in little but their names: the rest is written and checked once."""
    plain = msgspec.json.decode(document)
    body = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
    yamlfile.parse(f"version: 1\nnode: any\n{body}", Config, "agent.yaml")
    return str(body)


def _source(node: Node, name: str, source: SourceEntry, columns: Mapping[str, Columns], place: Place) -> dict[str, Any]:
    fed = {recipe: columns[recipe] for recipe, names in node.models.items() if name in names}
    where = f"node {node.name}: source {name!r}"
    if isinstance(source, HostMetricsEntry):
        for recipe, needs in fed.items():
            _refuse_missing(where, recipe, needs, HOST_CHANNELS)
        return _plain(source)
    if isinstance(source, OpcuaEntry):
        given = tuple(dict.fromkeys(channel for nodes in source.streams.values() for channel in nodes))
        for recipe, needs in fed.items():
            _refuse_missing(where, recipe, needs, given)
        return _plain(source)
    if isinstance(source, HttpEntry | SyslogEntry):
        return _plain(source) | _mapping(where, source, fed)
    if isinstance(source, KafkaEntry | MqttEntry):
        return _placed(where, _plain(source), place) | _mapping(where, source, fed)
    path = place.resolve(where, source.path)
    logs = [needs.log for needs in fed.values() if needs.log is not None]
    form = source.format or ("log" if logs else _format(where, source.path))
    own = _plain(source) | {"path": path, "format": form}
    if form == "log":
        own.setdefault("log", logs[0] if logs else {})
    if place.here and isinstance(source, ReplayEntry) and not Path(path).exists():
        raise ConfigError(f"{where}: there is no file {path} to replay")
    return own | _mapping(where, source, fed)


def _mapping(where: str, source: FieldsEntry, fed: Mapping[str, Columns]) -> dict[str, Any]:
    said = {"stream": source.stream, "time": source.time, "zone": source.zone}
    for key in said:
        found = {recipe: getattr(needs, key) for recipe, needs in fed.items()}
        if said[key] is None and len(set(found.values())) > 1:
            both = ", ".join(f"{recipe} says {value!r}" for recipe, value in found.items())
            raise ConfigError(f"{where} feeds recipes that disagree on its {key}: {both}", hint="use a source for each")
        said[key] = said[key] or next(iter(found.values()), None)
    needed = {r: needs.channels for r, needs in fed.items() if not (needs.joined and source.channels)}
    channels = _columns(where, "channel", source.channels, needed)
    categories = _columns(where, "category", source.categories, {r: needs.categories for r, needs in fed.items()})
    if not said["stream"] or not said["time"] or not (channels or categories):
        raise ConfigError(
            f"{where} feeds no model and does not say which columns it has",
            hint="name it in the node's models, or give it stream, time and channels",
        )
    found = said | {"channels": channels, "categories": categories}
    return {key: value for key, value in found.items() if value}


def _columns(where: str, what: str, own: Mapping[str, str], fed: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The source's own columns, and those that the recipes need beside them."""
    found = dict(own)
    for recipe, needs in fed.items():
        for name, column in needs.items():
            if found.setdefault(name, column) != column and name not in own:
                raise ConfigError(f"{where}: {what} {name!r} of {recipe} is another column for another recipe")
    return found


def _plain(source: SourceEntry) -> dict[str, Any]:
    """The entry as fleet.yaml has it, without what it leaves out."""
    return {k: v for k, v in msgspec.to_builtins(source).items() if v is not None and v != {} and v != ""}


def _placed(where: str, source: dict[str, Any], place: Place) -> dict[str, Any]:
    """A source with the files of its certificates and passwords where they are on the node."""
    for group in ("", "tls", "sasl"):
        said = source.get(group, {}) if group else source
        for key in ("ca_file", "cert", "key", "password_file"):
            if said.get(key):
                said[key] = place.resolve(f"{where}: {group}.{key}".replace(" .", " "), said[key])
    return source


def _refuse_missing(where: str, recipe: str, needs: Columns, given: tuple[str, ...]) -> None:
    missing = [channel for channel in needs.channels if channel not in given]
    if missing and not (needs.joined and len(missing) < len(needs.channels)):
        raise ConfigError(f"{where} has no channel {missing[0]!r}, which {recipe} needs; it has {', '.join(given)}")


def _action(where: str, action: dict[str, Any], place: Place) -> dict[str, Any]:
    if action.get("path"):
        action["path"] = place.resolve(where, action["path"])
    elif "path" in action:
        del action["path"]
    for header, path in action.get("header_files", {}).items():
        action["header_files"][header] = place.resolve(f"{where}: header_files.{header}", path)
    return _placed(where, action, place)


def _format(where: str, path: str) -> str:
    known = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".log": "jsonl"}
    found = known.get(Path(path).suffix.lower())
    if found is None:
        raise ConfigError(
            f"{where}: cannot tell the format of {path!r} from its suffix", hint="say format: csv, jsonl or log"
        )
    return found
