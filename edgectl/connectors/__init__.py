"""Ways to reach a node: one file each, and this table. `edgectl.inventory.types.Via` names the same keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgectl.connectors.interface import Connector
from edgectl.inventory.types import Inventory, Node, SecretRef
from edgectl.workspace import Workspace

if TYPE_CHECKING:
    from edgectl.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a connector may need beside its node's settings."""

    workspace: Workspace
    fleet: Inventory
    secret: Callable[[SecretRef], str]
    """Fetches a secret when it is needed. Raises `ConfigError`."""
    store: Store | None = None
    """The open store, where the command has one: nodes that pull leave their reports and answers there."""


def _local(node: Node, context: Context) -> Connector:
    from edgectl.connectors.local import LocalConnector

    return LocalConnector(node.name, context.workspace.node(node.name))


def _ssh(node: Node, context: Context) -> Connector:
    from edgectl.connectors.ssh import connector

    return connector(node, context)


def _usb(node: Node, context: Context) -> Connector:
    from edgectl.connectors.usb import UsbConnector

    del context
    return UsbConnector(node.name)


def _http(node: Node, context: Context) -> Connector:
    from edgectl.connectors import wires
    from edgectl.connectors.http import HttpConnector
    from edgectl.inventory.doors import base_url
    from edgectl.trust.authority import Authority
    from edgectl.workspace import operator

    said, workspace = node.connect, context.workspace
    url = base_url(node)
    authority = Authority(workspace.keys, workspace.certificates, context.fleet.fleet)
    wired = wires.fleet(authority, operator()) if url.startswith("https:") else wires.loopback
    token = said.token
    return HttpConnector(
        node.name,
        url,
        wired,
        token=None if token is None else lambda: context.secret(token),
        machine=_ssh(node, context) if said.user or said.key or said.jump else None,
    )


def _pull(node: Node, context: Context) -> Connector:
    from edgectl.connectors.pull import PullConnector

    return PullConnector(
        node.name,
        store=context.store,
        repository=context.workspace.resolve(context.fleet.repository_dir),
        every_s=node.report_every_ns / 1e9,
        silent_after_s=node.silent_after_ns / 1e9,
    )


CONNECTORS: dict[str, Callable[[Node, Context], Connector]] = {
    "local": _local,
    "ssh": _ssh,
    "http": _http,
    "pull": _pull,
    "usb": _usb,
}
"""``connect.via`` → connector; making one does no I/O."""
