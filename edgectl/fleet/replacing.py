"""Gives the name of dead hardware to a new machine: what was true of the old machine alone is forgotten, and should it
return, it is refused where a credential can be taken away and noticed where it cannot."""

from __future__ import annotations

from typing import Any

import msgspec
from edgectl_agent import yamlfile

from edgectl.connectors import known_hosts
from edgectl.connectors.ssh_target import resolve
from edgectl.core.errors import ConfigError, StorageError, UsageError
from edgectl.files import write_file
from edgectl.inventory import editing
from edgectl.inventory.importing import merged
from edgectl.inventory.reading import load, parse_file
from edgectl.inventory.types import HERE, Node
from edgectl.store.store import Store
from edgectl.workspace import Workspace

KNOWN_HOSTS = "known_hosts"


class Replaced(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, and what to type next."""

    name: str
    host: str
    revoked_keys: tuple[str, ...]
    """Fingerprints of SSH host keys that the name must not show again."""
    next: tuple[str, ...]


def replace(
    node: Node,
    workspace: Workspace,
    store: Store,
    operator: str,
    now_ns: int,
    *,
    host: str = "",
    keep_key: bool = False,
) -> Replaced:
    """Each step may be repeated: the same command again completes one that was cut short.

    Args:
        host: where the new machine is, if not where the old one was.
        keep_key: the new machine has the old one's SSH host key, as after moving its disk.

    Raises:
        UsageError: a node on this machine, which has no hardware of its own.
        ConfigError: fleet.yaml or ``~/.ssh/config`` cannot be used; nothing was changed.
        StorageError: a disk refused.
    """
    if node.via in HERE:
        raise UsageError(
            f"{node.name} is a process on this machine and no hardware",
            hint=f"edgectl nodes remove {node.name}, then edgectl nodes add",
        )
    text = _moved(node, workspace, host) if host and host != node.connect.host else ""
    keys = () if keep_key or node.via != "ssh" else _revoke(node, workspace)
    store.nodes.retire(node.name, operator, now_ns)
    if text:
        editing.save(workspace.fleet_file, text)
        node = load(workspace.fleet_file).node(node.name)
    store.rollouts.log(operator, f"nodes replace {node.name}", node.connect.host, now_ns)
    return Replaced(name=node.name, host=node.connect.host, revoked_keys=keys, next=_next(node))


def _moved(node: Node, workspace: Workspace, host: str) -> str:
    """fleet.yaml in which `node` is at `host`."""
    text = workspace.fleet_file.read_text(encoding="utf-8")
    names = [entry.name for entry in parse_file(text).nodes or ()]
    where: dict[str, Any] = {"connect": {"host": host}}
    if node.name not in names:  # one of many: an entry of its own says what is different
        return editing.put(text, [{"name": node.name, **where}], {}, workspace.root)
    if editing.commented(text, node.name):
        raise ConfigError(
            f"fleet.yaml: the entry of {node.name} holds comments, which changing it would lose",
            hint=f"write host: {host} there by hand, and leave out --host",
        )
    entry = yamlfile.plain(text, "fleet.yaml")["nodes"][names.index(node.name)]
    return editing.put(text, [], {node.name: merged(entry, where)}, workspace.root)


def _revoke(node: Node, workspace: Workspace) -> tuple[str, ...]:
    hop = resolve(node.name, node.connect, workspace).last
    path = workspace.root / KNOWN_HOSTS
    files = [known_hosts.parse(_text(file), str(file)) for file in hop.known_hosts if file.is_file()]
    pinned = known_hosts.pinned(files, hop.names)
    if not pinned:
        return ()
    text = _text(path) if path.is_file() else ""
    for name in hop.names:
        text = known_hosts.revoke(text, name, pinned)
    write_file(path, text.encode())
    return tuple(entry.fingerprint for entry in pinned)


def _text(path: Any) -> str:
    try:
        return str(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise StorageError(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}") from e


def _next(node: Node) -> tuple[str, ...]:
    ways = {
        "ssh": (f"edgectl nodes pin {node.name}", f"edgectl nodes bootstrap {node.name}"),
        "http": (f"edgectl nodes bootstrap {node.name}",),
        "usb": (f"edgectl repo export --select name={node.name}",),
    }
    deploy = tuple(f"edgectl deploy {recipe} --select name={node.name}" for recipe in node.models)
    return (*ways.get(node.via, (f"edgectl nodes show {node.name}",)), *deploy)
