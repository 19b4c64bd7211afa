"""Reads fleet.yaml. Each error is one sentence with the file and the path of the key."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from edgectl_agent import yamlfile

from edgectl.core.errors import ConfigError
from edgectl.inventory.layers import Members, no_members, settle
from edgectl.inventory.types import FleetFile, Inventory, NodeEntry

if TYPE_CHECKING:
    from edgectl.store.enrolments import Enrolment

INSTEAD = {
    "limits": "it is part of agent now: agent: {memory, cpu, disk, streams}, where disk was limits.outbox",
    "groups": "settings that nodes share are profiles; memberships to select by are groups of a node, site or profile",
    "traffic": "nothing holds a node to an amount of traffic yet; connect.every says how often it sends",
    "role": "a node is a parent where a site says so: sites: {lyon: {parent: lyon-gw-01}}",
    "store_password_file": "write store_password: {file: PATH}",
}
"""Keys that people write and this format does not have → what to write."""


def parse(text: str, name: str = "fleet.yaml", folder: Path | None = None) -> Inventory:
    """The fleet that `text` describes.

    Args:
        name: the file as messages should call it.
        folder: where other inventories that it names are looked for; None refuses them.

    Raises:
        ConfigError: not YAML, an unknown, missing or doubled key, a wrong type, a value that makes no sense.
    """
    with _uncollected():
        return _settled(parse_file(text, name), name, folder)


def parse_file(text: str, name: str = "fleet.yaml") -> FleetFile:
    """What `text` says as it stands. Raises `ConfigError` as `parse` does for what the types refuse."""
    try:
        return yamlfile.parse(text, FleetFile, name)
    except ConfigError as e:
        raise _advised(e) from e


def load(path: Path, enrolled: Callable[[FleetFile], tuple[Enrolment, ...]] | None = None) -> Inventory:
    """Read `path`; with `enrolled`, also the nodes that enrolled by themselves.

    Raises `ConfigError` as `parse` does, and for a missing or unreadable file.
    """
    with _uncollected():
        try:
            file = yamlfile.load(path, FleetFile)
        except ConfigError as e:
            raise _advised(e) from e
        if enrolled is not None:
            file = _with(file, enrolled(file))
        return _settled(file, path.name, path.parent)


def members_in(folder: Path | None) -> Members:
    """How entries that name another file are read."""
    if folder is None:
        return no_members
    from edgectl.inventory.members import Files

    return Files(folder)


def _with(file: FleetFile, enrolments: tuple[Enrolment, ...]) -> FleetFile:
    """`file` with the enrolled nodes that it does not name itself.

    A site or profile that fleet.yaml has lost since is left out: one node must not make the whole file unreadable.
    """
    named = {entry.name for entry in file.nodes or ()}
    more = tuple(_entry(file, e) for e in enrolments if e.node not in named)
    return msgspec.structs.replace(file, nodes=(*(file.nodes or ()), *more)) if more else file


def _entry(file: FleetFile, enrolment: Enrolment) -> NodeEntry:
    entry = dict(enrolment.entry)
    if entry["site"] not in (file.sites or {}):
        entry["site"] = ""
    entry["profiles"] = [name for name in entry.get("profiles", ()) if name in (file.profiles or {})]
    return msgspec.convert(entry, NodeEntry)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Reading thousands of nodes makes many objects and no garbage: looking for some would double the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _settled(file: FleetFile, name: str, folder: Path | None) -> Inventory:
    try:
        return settle(file, members_in(folder))
    except ConfigError as e:
        message = re.sub(r":[.:] ?", ": ", e.message, count=1)  # another file's line comes first: "x.csv line 3: site"
        raise ConfigError(f"{name}: {message}", hint=e.hint) from e


def _advised(error: ConfigError) -> ConfigError:
    """`error`, with the key to write in place of one that is not known."""
    found = re.search(r"(?:^|[.\s])(\w+): unknown key", error.message)
    if found is None or found[1] not in INSTEAD:
        return error
    return ConfigError(f"{error.message.partition(': unknown key')[0]}: unknown key", hint=INSTEAD[found[1]])
