"""Brings nodes into the fleet and out of it: fleet.yaml, the node's own files and its agent, in the order that a
Ctrl-C at any point can be followed by the same command again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgectl.connectors.interface import Connector, NodeUnreachable
from edgectl.inventory import editing
from edgectl.inventory.agent_config import Columns, render
from edgectl.inventory.reading import parse
from edgectl.inventory.types import Node
from edgectl.workspace import Workspace


def files(node: Node, workspace: Workspace, columns: Callable[[str], Columns], root: bytes) -> dict[str, bytes]:
    """What a node needs before its agent can start: its configuration, and whom to trust.

    Raises:
        ConfigError: as `edgectl.inventory.agent_config.render`, and for a wrong recipe.
        NothingMatched: there is no such recipe.
    """
    needs = {recipe: columns(recipe) for recipe in node.models}
    data: Path = workspace.node(node.name) / "data"
    text = render(node, needs, data, workspace.resolve)
    return {"agent.yaml": text.encode(), "data/trust/root.json": root}


def add(
    entry: dict[str, Any],
    workspace: Workspace,
    columns: Callable[[str], Columns],
    root: bytes,
    connector: Callable[[Node], Connector],
) -> Node:
    """Write the node's files, then name it in fleet.yaml: a node that fleet.yaml names can always be started.

    Raises:
        ConfigError: the name is taken, or the node does not make sense; nothing was written.
        StorageError: a disk refused.
    """
    text = editing.add(workspace.fleet_file.read_text(encoding="utf-8"), entry)
    node = parse(text).node(entry["name"])
    connector(node).place(files(node, workspace, columns, root))
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


def remove(node: Node, workspace: Workspace, connector: Connector, keep_data: bool) -> None:
    """Stop the agent, delete its files, then take it out of fleet.yaml: an agent is never left without a name.

    Raises:
        ConfigError: fleet.yaml cannot be edited safely; nothing was removed.
        StorageError: a disk refused.
    """
    text = editing.remove(workspace.fleet_file.read_text(encoding="utf-8"), node.name)
    connector.remove(keep_data=keep_data)
    editing.save(workspace.fleet_file, text)


def _answers(connector: Connector) -> bool:
    try:
        connector.request("GET", "/v1/live", timeout_s=2.0)
    except NodeUnreachable:
        return False
    return True
