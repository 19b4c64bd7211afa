"""Publishes the signed repository, for `edgectl repo publish` and for every command that has just signed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from edgectl.cli import wiring
from edgectl.cli.output import note, progress
from edgectl.core.errors import EdgeError, UsageError
from edgectl.workspace import Workspace

if TYPE_CHECKING:
    from edgectl.inventory.types import Inventory
    from edgectl.publishing.interface import Place
    from edgectl.publishing.publish import Changes

TOKEN = "EDGECTL_PUBLISH_TOKEN"


def open_place(workspace: Workspace, fleet: Inventory, target: str = "", token_file: Path | None = None) -> Place:
    """Where to publish: `target`, else what fleet.yaml says. Raises `UsageError` if neither says anything."""
    from edgectl.publishing.places import place

    target = target or fleet.repository_publish
    if not target:
        raise UsageError(
            "expected a folder or URL to publish to", hint="name it, or say repository.publish in fleet.yaml"
        )

    def secret() -> str:
        import os

        if token_file is not None:
            return wiring.first_line(token_file, "token")
        if TOKEN in os.environ or fleet.repository_publish_token is None or target != fleet.repository_publish:
            return os.environ.get(TOKEN, "")
        return wiring.secret(workspace)(fleet.repository_publish_token)

    return place(target, workspace.resolve, secret)


def publish(
    workspace: Workspace,
    fleet: Inventory,
    place: Place,
    *,
    prune: bool = False,
    verify: bool = False,
    dry_run: bool = False,
) -> Changes:
    """Bring `place` up to date, with a progress bar; returns what was done, or would be. The caller holds the lock."""
    from edgectl.publishing import publish as publishing
    from edgectl.publishing.state import read

    state = read(workspace.resolve(fleet.repository_dir))
    with progress("comparing"):
        changes = publishing.plan(state, place, prune=prune, verify=verify)
    if not dry_run:
        with progress("publishing", total=changes.bytes) as bar:
            publishing.carry_out(changes, state, place, bar.advance)
    return changes


def after_signing(workspace: Workspace, fleet: Inventory) -> Callable[[Iterable[str]], None]:
    """What a command does when it has signed for some nodes: publish, where fleet.yaml says where.

    What the web server holds matters to nodes that fetch by themselves: if one of them is meant, a place that refuses
    is an error; else it is said, and the next publication makes up for it.
    """
    fetching = {node.name for node in fleet.nodes if str(node.via) == "pull"}

    def signed(nodes: Iterable[str]) -> None:
        if not fleet.repository_publish:
            return
        try:
            with closing(open_place(workspace, fleet)) as place:
                publish(workspace, fleet, place)
        except EdgeError as e:
            if fetching & set(nodes):
                raise
            note(f"not published: {e}")

    return signed
