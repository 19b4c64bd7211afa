"""Brings nodes into the fleet and out of it: fleet.yaml, the node's own files and its agent, in the order that a
Ctrl-C at any point can be followed by the same command again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from edgectl.connectors.interface import Connector, NodeUnreachable
from edgectl.core.errors import EdgeError
from edgectl.inventory import editing
from edgectl.inventory.agent_config import Columns, here, render, sha256, there
from edgectl.inventory.reading import parse
from edgectl.inventory.types import HERE, Inventory, Node
from edgectl.machine.layout import Layout, of
from edgectl.workspace import Workspace


def files(
    node: Node, workspace: Workspace, columns: Callable[[str], Columns], root: bytes, layout: Layout | None = None
) -> dict[str, bytes]:
    """What a node needs before its agent can start: its configuration, and whom to trust.

    `layout` is where things lie on a node that is not on this machine (default: as fleet.yaml says).

    Raises:
        ConfigError: as `edgectl.inventory.agent_config.render`, and for a wrong recipe.
        NothingMatched: there is no such recipe.
    """
    return {"agent.yaml": agent_yaml(node, workspace, columns, layout).encode(), "data/trust/root.json": root}


def agent_yaml(
    node: Node, workspace: Workspace, columns: Callable[[str], Columns], layout: Layout | None = None
) -> str:
    """A node's agent.yaml as fleet.yaml wants it, made without reaching the node. Raises as `files`."""
    needs = {recipe: columns(recipe) for recipe in node.models}
    if node.via in HERE:
        return render(node, needs, here(workspace.node(node.name) / "data", workspace.resolve))
    return render(node, needs, there(layout or of(node)))


def desired(
    fleet: Inventory, workspace: Workspace, columns: Callable[[str], Columns]
) -> tuple[dict[str, str], dict[str, str]]:
    """The SHA-256 of each node's agent.yaml, and for each node that can have none the reason."""
    known, found, wrong = cache(columns), {}, {}
    for node in fleet.nodes:
        try:
            found[node.name] = sha256(agent_yaml(node, workspace, known))
        except EdgeError as e:
            wrong[node.name] = e.message
    return found, wrong


def add(
    entry: dict[str, Any],
    workspace: Workspace,
    columns: Callable[[str], Columns],
    root: bytes,
    connector: Callable[[Node], Connector],
) -> Node:
    """Name a node in fleet.yaml; one on this machine gets its files first, so that it can always be started.

    Raises:
        ConfigError: the name is taken, or the node does not make sense; nothing was written.
        StorageError: a disk refused.
    """
    text = editing.add(workspace.fleet_file.read_text(encoding="utf-8"), entry, workspace.root)
    node = parse(text, folder=workspace.root).node(entry["name"])
    wanted = files(node, workspace, columns, root)
    if node.via in HERE:
        connector(node).place(wanted)
    editing.save(workspace.fleet_file, text)
    return node


def run(connector: Connector, files: Mapping[str, bytes], restart: bool) -> bool:
    """See that a node has `files` and its agent runs; returns whether it runs with older ones.

    Raises:
        NodeUnreachable: the agent did not come up; the message holds the last lines of its log.
        StorageError: a disk refused.
    """
    if restart:
        connector.stop()
    running = _answers(connector)
    changed = connector.place(files)
    connector.start()
    return running and changed


def remove(node: Node, workspace: Workspace, uninstall: Callable[[], None] | None) -> None:
    """Take the agent off its machine, then the node out of fleet.yaml: an agent is never left without a name.

    `uninstall` is None for a machine that is lost, or shall stay as it is.

    Raises:
        ConfigError: fleet.yaml cannot be edited safely; nothing was removed.
        StorageError: a disk refused.
        EdgeError: whatever `uninstall` raises; the node stays in fleet.yaml.
    """
    text = workspace.fleet_file.read_text(encoding="utf-8")
    if node.name in parse(text, folder=workspace.root).names:  # else it enrolled: fleet.yaml does not name it
        text = editing.remove(text, node.name, workspace.root)
    if uninstall is not None:
        uninstall()
    editing.save(workspace.fleet_file, text)
    (workspace.certificates / f"{node.name}.crt").unlink(missing_ok=True)  # nobody's concern any more


def _answers(connector: Connector) -> bool:
    try:
        connector.request("GET", "/v1/live", timeout_s=2.0)
    except NodeUnreachable as e:
        if e.reason in ("link", "untrusted", "expired", "not-installed"):  # nothing can be placed either
            raise
        return False
    return True
