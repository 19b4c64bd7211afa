"""Puts the parts together for a verb: what fleet.yaml names becomes the store, the repository and the connections.

Nothing is opened before it is asked for, and nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli.output import Settings, interactive
from edgectl.core.errors import ConfigError
from edgectl.workspace import Workspace, find

if TYPE_CHECKING:
    from edgectl_agent.core.bundle import Variant

    from edgectl.connectors import Context
    from edgectl.connectors.client import NodeClient
    from edgectl.connectors.interface import Connector
    from edgectl.connectors.ssh_reach import Reach
    from edgectl.evaluation.replaying import Subject
    from edgectl.inventory.agent_config import Columns
    from edgectl.inventory.types import FleetFile, Inventory, Node, SecretRef
    from edgectl.machine.interface import Host
    from edgectl.registry.directory import DirectoryRegistry
    from edgectl.store.engine import Database
    from edgectl.store.enrolments import Enrolment
    from edgectl.store.store import Store
    from edgectl.trust.authority import Authority
    from edgectl.trust.keys import KeyStore, Role
    from edgectl.trust.repository import Repository

PassphraseOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="File with the signing keys' passphrase (default: EDGECTL_PASSPHRASE)."),
]


def now() -> datetime:
    """The present: read here and handed on, so that everything below takes time as an argument."""
    return datetime.now(UTC)


def inventory(workspace: Workspace) -> Inventory:
    """fleet.yaml, read, and where there is a receiver the nodes that enrolled. Raises `ConfigError`, `StorageError`."""
    from edgectl.inventory.reading import load

    def enrolled(file: FleetFile) -> tuple[Enrolment, ...]:
        if not file.receiver.url:
            return ()
        from edgectl.enrolment.enrolling import read

        return read(file, workspace.root)

    return load(workspace.fleet_file, enrolled)


def keys(workspace: Workspace) -> KeyStore:
    """The fleet's private keys; none is read yet."""
    from edgectl.trust.keys import KeyStore

    return KeyStore(workspace.keys)


def repository(workspace: Workspace, fleet: Inventory, store: KeyStore | None = None) -> Repository:
    """The signed repository that fleet.yaml names."""
    from edgectl.trust.repository import Repository

    return Repository(workspace.resolve(fleet.repository_dir), store or keys(workspace))


def authority(workspace: Workspace, fleet: Inventory) -> Authority:
    """The fleet's own certificate authority; nothing is read yet."""
    from edgectl.trust.authority import Authority

    return Authority(workspace.keys, workspace.certificates, fleet.fleet)


def registry(workspace: Workspace) -> DirectoryRegistry:
    """What was trained here."""
    from edgectl.registry.directory import DirectoryRegistry

    return DirectoryRegistry(workspace.registry)


def models(settings: Settings) -> Path | None:
    """The operator's own recipes, if there is a workspace; what knows no fleet needs none."""
    folder = find(settings.folder).models
    return folder if folder.is_dir() else None


def subject(settings: Settings, model: str, variant: Variant, seed: int | None) -> Subject:
    """The recipe, trained model or bundle that `model` names, to be evaluated."""
    from edgectl.evaluation.subjects import named

    return named(model, models(settings), registry(find(settings.folder)), variant, seed)


def store(workspace: Workspace, fleet: Inventory) -> Store:
    """The fleet state store; the caller opens it with ``with``."""
    from edgectl.secrets import with_password
    from edgectl.store.store import Store

    return Store(with_password(fleet.store_url, fleet.store_password, workspace.root), workspace.root)


def database(workspace: Workspace, fleet: Inventory) -> Database:
    """What lies below the store, for its own care; the caller opens and closes it."""
    from edgectl.secrets import with_password
    from edgectl.store.engine import Database

    return Database(with_password(fleet.store_url, fleet.store_password, workspace.root), workspace.root)


def secret(workspace: Workspace) -> Callable[[SecretRef], str]:
    """Fetches what fleet.yaml keeps by reference. Raises `ConfigError`."""
    from edgectl.secrets import fetch

    return lambda ref: fetch(ref, workspace.root)


def context(workspace: Workspace, fleet: Inventory, store: Store | None = None) -> Context:
    """What connectors may need beside a node's settings; `store` is open already."""
    from edgectl.connectors import Context

    return Context(workspace=workspace, fleet=fleet, secret=secret(workspace), store=store)


def connecting(workspace: Workspace, fleet: Inventory, store: Store | None = None) -> Callable[[Node], Connector]:
    """How any node of the fleet is reached; no connection is made yet."""
    from edgectl.connectors import CONNECTORS

    given = context(workspace, fleet, store)
    return lambda node: CONNECTORS[node.via](node, given)


def connector(workspace: Workspace, fleet: Inventory, node: Node, store: Store | None = None) -> Connector:
    """How `node` is reached; no connection is made yet."""
    return connecting(workspace, fleet, store)(node)


def connect(workspace: Workspace, fleet: Inventory, store: Store | None = None) -> Callable[[str], NodeClient]:
    """Name of a node → typed calls to its agent (`edgectl.delivery.interface.Connect`)."""
    from edgectl.connectors.client import NodeClient

    reach = connecting(workspace, fleet, store)

    def to(name: str) -> NodeClient:
        return NodeClient(name, reach(fleet.node(name)))

    return to


def machine(workspace: Workspace, fleet: Inventory, node: Node) -> Host:
    """The machine that `node` runs on, as its administrator; by SSH, however its agent is reached."""
    from edgectl.connectors.ssh_host import host

    return host(node, context(workspace, fleet))


def ssh_reach(workspace: Workspace, fleet: Inventory, node: Node) -> Reach:
    """How `node` is reached by SSH; no connection is made yet."""
    from edgectl.connectors.ssh_reach import reach

    return reach(node, context(workspace, fleet))


def columns(workspace: Workspace) -> Callable[[str], Columns]:
    """Recipe → where its data has what the recipe needs. Raises as `edgectl.training.recipe.find`."""
    import msgspec

    from edgectl.inventory.agent_config import Columns
    from edgectl.training.recipe import find

    def of(name: str) -> Columns:
        recipe = find(name, workspace.models)
        names: Sequence[str] = [channel.name for channel in recipe.features.channels]
        join = recipe.features.join
        if join:
            names = join.columns or names
        return Columns(
            stream=recipe.stream_column or f"={recipe.name}",
            time=recipe.time_column,
            zone=recipe.zone,
            channels=dict(zip(names, recipe.columns, strict=True)),
            categories=dict(zip(recipe.features.categories, recipe.category_columns, strict=True)),
            joined=bool(join),
            log=None if recipe.log is None else msgspec.to_builtins(recipe.log),
        )

    return of


def passphrase(file: Path | None, settings: Settings, locked: bool) -> str | None:
    """From the file, else EDGECTL_PASSPHRASE, else asked for on a terminal if a key is `locked`; None without one."""
    import os

    if file is not None:
        return first_line(file, "passphrase")
    found = os.environ.get("EDGECTL_PASSPHRASE")
    if not found and locked and interactive(settings):
        found = typer.prompt("Passphrase of the signing keys", hide_input=True, err=True)
    return found or None


def unlock(store: KeyStore, role: Role, file: Path | None, settings: Settings) -> str | None:
    """The passphrase for signing as `role`, if its key needs one."""
    return passphrase(file, settings, store.locked(role))


def new_passphrase(file: Path | None, settings: Settings) -> str | None:
    """For keys in the making; on a terminal it may be left empty."""
    found = passphrase(file, settings, locked=False)
    if found is None and interactive(settings):
        found = typer.prompt(
            "Passphrase for the signing keys (empty: none)",
            default="",
            hide_input=True,
            confirmation_prompt=True,
            show_default=False,
            err=True,
        )
    return found or None


def first_line(file: Path, what: str) -> str:
    """The secret in `file`. Raises `ConfigError`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{what} file {file} cannot be read: {getattr(e, 'strerror', e)}") from e
    if not lines or not lines[0]:
        raise ConfigError(f"{what} file {file}: expected the {what} on its first line, found nothing")
    return lines[0]
