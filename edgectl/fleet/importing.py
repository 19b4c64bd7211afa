"""Takes nodes from an Ansible inventory or a table into fleet.yaml: reads both, lets `inventory.importing` decide, and
writes the file once, complete or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgectl_agent import yamlfile

from edgectl.core.errors import ConfigError, UsageError
from edgectl.core.names import closest
from edgectl.inventory import ansible_hosts, editing, table
from edgectl.inventory.importing import Change, Found, plan
from edgectl.inventory.layers import drafts
from edgectl.inventory.members import ansible_inventory, read
from edgectl.inventory.reading import members_in, parse_file
from edgectl.inventory.types import FleetFile, Layer, NodeEntry
from edgectl.workspace import Workspace


def found(
    ansible: Path | None, csv: Path | None, group: str = "", site_from: str = ""
) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """The nodes of an Ansible inventory or else of a table, and remarks. Raises `ConfigError`, `UsageError`."""
    if (ansible is None) == (csv is None):
        raise UsageError("expected one of --ansible and --csv")
    if ansible is not None:
        return from_ansible(ansible, group, site_from)
    if group or site_from:
        raise UsageError("--limit and --site-from go with --ansible")
    assert csv is not None
    return from_table(csv), ()


def from_ansible(path: Path, group: str, site_from: str) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """Hosts of the inventory at `path`, and what to say about them all. Raises `ConfigError` if it cannot be read."""
    hosts, sealed = ansible_inventory(path, str(path), group)
    found = []
    for host in hosts:
        try:
            found.append(Found(name=host.name, entry=ansible_hosts.entry(host, site_from)))
        except ConfigError as e:
            found.append(Found(name=host.name, refused=str(e).removeprefix(f"host {host.name!r}: ")))
    return tuple(found), tuple(f"{file} is encrypted as a whole and was not read" for file in sealed)


def from_table(path: Path) -> tuple[Found, ...]:
    """Lines of the table at `path`. Raises `ConfigError`, for a wrong value too: a table is easily mended."""
    return tuple(_rows(read(path, str(path)), str(path)))


def _rows(text: str, name: str) -> Iterator[Found]:
    seen: dict[str, int] = {}
    for entry, line in table.entries(text, name):
        typed = yamlfile.convert(entry, NodeEntry, f"{name} line {line}", strict=False)
        if (first := seen.setdefault(typed.name, line)) != line:
            raise ConfigError(f"{name} line {line}: node {typed.name!r} is in line {first} too")
        yield Found(name=typed.name, entry=_numbers(entry))


def _numbers(entry: dict[str, Any]) -> dict[str, Any]:
    """Cells are text; what fleet.yaml has as a number becomes one."""
    for group, key in (("connect", "port"), ("agent", "streams")):
        if key in entry.get(group, {}):
            entry[group][key] = int(entry[group][key])
    return entry


def decide(
    found: tuple[Found, ...], workspace: Workspace, site: str, profiles: list[str], machines: bool
) -> tuple[Change, ...]:
    """What an import writes. With `machines` the nodes are no processes here, whatever fleet.yaml's defaults say.

    Raises:
        ConfigError: fleet.yaml is wrong, or has no such site or profile.
    """
    text = workspace.fleet_file.read_text(encoding="utf-8")
    file = parse_file(text)
    _check_names("site", [site] if site else [], file.sites or {})
    _check_names("profile", profiles, file.profiles or {})
    entries = [entry for entry in yamlfile.plain(text, "fleet.yaml").get("nodes") or () if "name" in entry]
    many = {
        name: (file.nodes or ())[place].origin
        for name, (place, several) in drafts(file, members_in(workspace.root)).items()
        if several
    }
    common: dict[str, Any] = ({"site": site} if site else {}) | ({"profiles": profiles} if profiles else {})
    if machines and _via(file, site, profiles) == "local":
        common["connect"] = {"via": "ssh"}
    plain = {str(entry["name"]): entry for entry in entries}
    return plan(found, plain, many, lambda name: editing.commented(text, name), common)


def write(changes: tuple[Change, ...], workspace: Workspace) -> bool:
    """Put `changes` into fleet.yaml; returns whether there were any. Raises as `editing.put` and `editing.save`."""
    new = [change.entry for change in changes if change.state == "new"]
    changed = {change.name: change.entry for change in changes if change.state == "changed"}
    if not new and not changed:
        return False
    text = editing.put(workspace.fleet_file.read_text(encoding="utf-8"), new, changed, workspace.root)
    editing.save(workspace.fleet_file, text)
    return True


def _check_names(kind: str, names: list[str], known: Mapping[str, object]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"fleet.yaml has no {kind} {name!r}", hint=closest(name, known))


def _via(file: FleetFile, site: str, profiles: list[str]) -> str:
    """How nodes of this import would be reached if they say nothing themselves."""
    place = (file.sites or {}).get(site)
    named = [*(place.profiles if place else ()), *profiles]
    layers: list[Layer | None] = [file.defaults, *((file.profiles or {}).get(name) for name in named), place]
    said = [layer.connect.via for layer in layers if layer and layer.connect and layer.connect.via]
    return said[-1] if said else "local"
