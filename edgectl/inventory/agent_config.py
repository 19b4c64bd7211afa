"""Generates a node's agent.yaml from its settings in fleet.yaml and the recipes that it runs.

A source names a file; which of its columns is the time, the stream and each channel is the recipe's to say, so that it
is written down once. What fleet.yaml says about a source itself wins over the recipe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml
from edgectl_agent import yamlfile
from edgectl_agent.config import HOST_CHANNELS, Config

from edgectl.core.errors import ConfigError
from edgectl.inventory.types import HostMetricsEntry, Node, RecordsEntry, ReplayEntry, SourceEntry


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where a recipe's data has what the recipe needs."""

    stream: str
    """Column, or ``=name`` where the whole source is one stream."""
    time: str
    zone: str
    channels: Mapping[str, str]
    """Channel → column."""


def render(node: Node, columns: Mapping[str, Columns], data_dir: Path, resolve: Callable[[str], Path]) -> str:
    """The text of agent.yaml; the same settings give the same text.

    Args:
        node: its settings.
        columns: recipe → where its data has what, for every recipe in ``node.models``.
        data_dir: the agent's data folder on the node.
        resolve: turns a path as fleet.yaml writes it into one that holds on the node.

    Raises:
        ConfigError: a source feeds no model and has no columns of its own; two recipes disagree on a source's columns;
            a recipe needs a channel that the source cannot give.
    """
    sources = {name: _source(node, name, source, columns, resolve) for name, source in node.sources.items()}
    document = {
        "version": 1,
        "node": node.name,
        "data_dir": str(data_dir),
        "sources": sources,
        "models": {recipe: list(names) for recipe, names in node.models.items()},
        "actions": [_action(msgspec.to_builtins(action), resolve) for action in node.actions],
        "limits": msgspec.to_builtins(node.limits),
        "log": {"to": "file"},
    }
    body = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
    yamlfile.parse(body, Config, f"node {node.name}")
    sha = hashlib.sha256(body.encode()).hexdigest()
    return (
        f"# written by edgectl from fleet.yaml (sha256 {sha}); `edgectl nodes restart` overwrites local edits\n{body}"
    )


def _source(
    node: Node, name: str, source: SourceEntry, columns: Mapping[str, Columns], resolve: Callable[[str], Path]
) -> dict[str, Any]:
    fed = {recipe: columns[recipe] for recipe, names in node.models.items() if name in names}
    where = f"node {node.name}: source {name!r}"
    if isinstance(source, HostMetricsEntry):
        for recipe, needs in fed.items():
            _refuse_missing(where, recipe, needs, HOST_CHANNELS)
        return _plain(source)
    own = _plain(source) | {"path": str(resolve(source.path)), "format": source.format or _format(where, source.path)}
    if isinstance(source, ReplayEntry) and not resolve(source.path).exists():
        raise ConfigError(f"{where}: there is no file {resolve(source.path)} to replay")
    return own | _mapping(where, source, fed)


def _mapping(where: str, source: RecordsEntry, fed: Mapping[str, Columns]) -> dict[str, Any]:
    said = {"stream": source.stream, "time": source.time, "zone": source.zone}
    for key in said:
        found = {recipe: getattr(needs, key) for recipe, needs in fed.items()}
        if said[key] is None and len(set(found.values())) > 1:
            both = ", ".join(f"{recipe} says {value!r}" for recipe, value in found.items())
            raise ConfigError(f"{where} feeds recipes that disagree on its {key}: {both}", hint="use a source for each")
        said[key] = said[key] or next(iter(found.values()), None)
    channels: dict[str, str] = dict(source.channels)
    for recipe, needs in fed.items():
        for channel, column in needs.channels.items():
            if channels.setdefault(channel, column) != column and channel not in source.channels:
                raise ConfigError(f"{where}: channel {channel!r} of {recipe} is another column for another recipe")
    if not said["stream"] or not said["time"] or not channels:
        raise ConfigError(
            f"{where} feeds no model and does not say which columns it has",
            hint="name it in the node's models, or give it stream, time and channels",
        )
    return {key: value for key, value in said.items() if value} | {"channels": channels}


def _plain(source: SourceEntry) -> dict[str, Any]:
    """The entry as fleet.yaml has it, without what it leaves out."""
    return {k: v for k, v in msgspec.to_builtins(source).items() if v is not None and v != {} and v != ""}


def _refuse_missing(where: str, recipe: str, needs: Columns, given: tuple[str, ...]) -> None:
    missing = [channel for channel in needs.channels if channel not in given]
    if missing:
        raise ConfigError(f"{where} has no channel {missing[0]!r}, which {recipe} needs; it has {', '.join(given)}")


def _action(action: dict[str, Any], resolve: Callable[[str], Path]) -> dict[str, Any]:
    path = action.pop("path", "")
    return action | ({"path": str(resolve(path))} if path else {})


def _format(where: str, path: str) -> str:
    known = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".log": "jsonl"}
    found = known.get(Path(path).suffix.lower())
    if found is None:
        raise ConfigError(
            f"{where}: cannot tell the format of {path!r} from its suffix", hint="say format: csv or jsonl"
        )
    return found
