"""Reads the other files that fleet.yaml takes nodes from: Ansible inventories and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from edgectl_agent import yamlfile

from edgectl.core.errors import ConfigError
from edgectl.inventory import ansible, ansible_hosts, table
from edgectl.inventory.types import NodeEntry

_VAULT = "$ANSIBLE_VAULT"


class Files:
    """Files relative to `folder`, as `edgectl.inventory.layers.Members`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, entry: NodeEntry) -> Iterator[tuple[NodeEntry, str]]:
        """Each node that `entry` stands for. Raises `ConfigError`; a host that it excludes is not looked at."""
        path = self._folder / Path(entry.origin).expanduser()
        if entry.csv:
            for found, line in table.entries(read(path, entry.csv), entry.csv):
                where = f"{entry.csv} line {line}"
                yield yamlfile.convert(found, NodeEntry, where, strict=False), where
            return
        for host in ansible_inventory(path, entry.ansible, entry.group)[0]:
            if host.name not in entry.exclude:
                where = f"{entry.ansible} host {host.name}"
                try:
                    found = ansible_hosts.entry(host, entry.site_from)
                except ConfigError as e:
                    raise ConfigError(f"{entry.ansible}: {e.message}", hint=e.hint) from e
                yield yamlfile.convert(found, NodeEntry, where), where


def ansible_inventory(path: Path, name: str, group: str = "") -> tuple[tuple[ansible.Host, ...], tuple[Path, ...]]:
    """The hosts of an inventory with the variables of ``group_vars`` and ``host_vars`` beside it, and the files there
    that are encrypted as a whole and were left out. Raises `ConfigError`."""
    if path.is_dir():
        raise ConfigError(f"{name}: expected a file, found a folder", hint="name one inventory file of it")
    sealed: list[Path] = []
    found = ansible.hosts(read(path, name), name, group, _vars_beside(path.parent, sealed))
    return found, tuple(sealed)


def _vars_beside(folder: Path, sealed: list[Path]) -> ansible.VarsOf:
    @cache
    def listed(kind: str) -> Mapping[str, list[Path]]:
        places: dict[str, list[Path]] = {}
        for path in sorted((folder / kind).iterdir()) if (folder / kind).is_dir() else ():
            if _counts(path):
                places.setdefault(path.stem if path.suffix in (".yml", ".yaml", ".json") else path.name, []).append(
                    path
                )
        return places

    @cache
    def vars_of(kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in listed(kind).get(name, ()):
            inside = sorted(p for p in path.rglob("*") if p.is_file() and _counts(p)) if path.is_dir() else [path]
            for file in inside:
                found |= _vars(file, sealed)
        return found

    return vars_of


def _counts(path: Path) -> bool:
    return not path.name.startswith(".") and not path.name.endswith("~") and path.suffix not in (".orig", ".retry")


def _vars(path: Path, sealed: list[Path]) -> dict[str, Any]:
    text = read(path, str(path))
    if text.startswith(_VAULT):
        sealed.append(path)
        return {}
    found = ansible.load_yaml(text, str(path))
    if not isinstance(found, dict | None):
        raise ConfigError(f"{path}: expected variables, found {type(found).__name__}")
    return found or {}


def read(path: Path, name: str) -> str:
    """Text of a file that messages call `name`. Raises `ConfigError`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file: {path}") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{name}: cannot be read: {getattr(e, 'strerror', None) or e}") from e
