"""Nodes that enrol by themselves: who did, the files that each gets, and whom it shall trust as the receiver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgectl.core.errors import ConfigError
from edgectl.inventory.types import FleetFile
from edgectl.store.enrolments import Enrolment
from edgectl.store.store import Store
from edgectl.workspace import Workspace

if TYPE_CHECKING:
    from edgectl.inventory.agent_config import Columns
    from edgectl.inventory.types import Inventory


class Request(Protocol):
    """What a machine says of itself."""

    @property
    def token(self) -> str: ...
    @property
    def machine(self) -> str: ...
    @property
    def credential(self) -> str: ...
    @property
    def folder(self) -> str: ...
    @property
    def facts(self) -> dict[str, str]: ...


def unnamed(text: str, folder: Path, enrolments: tuple[Enrolment, ...]) -> list[Enrolment]:
    """Those that fleet.yaml with this `text` does not name. Raises `ConfigError`."""
    from edgectl.inventory.reading import parse

    named = parse(text, folder=folder).names
    return [enrolment for enrolment in enrolments if enrolment.node not in named]


def read(file: FleetFile, root: Path) -> tuple[Enrolment, ...]:
    """Who has enrolled; nobody where there is no receiver. Raises as `Store.open`."""
    from edgectl.secrets import with_password

    if not file.receiver.url:
        return ()
    with Store(with_password(file.store, file.store_password, root), root) as store:
        return store.enrolments.all()


def files_for(
    workspace: Workspace, columns: Callable[[str], Columns], store: Store, said: Request, now_ns: int
) -> dict[str, Any]:
    """Enrol the machine and say what it must write. Raises as `Enrolments.enrol`, and `ConfigError`."""
    from edgectl.inventory.reading import load

    fleet = load(workspace.fleet_file, enrolled=lambda file: ())
    made = store.enrolments.enrol(
        said.token, said.machine, said.credential, facts=said.facts, taken=fleet.names, now_ns=now_ns
    )
    fleet = load(workspace.fleet_file, enrolled=lambda file: (made,))
    files = _files(workspace, columns, fleet, made.node, said.folder)
    return {"node": made.node, "systemd": not said.folder, "files": files}


def authority_of(workspace: Workspace, fleet: Inventory) -> str:
    """PEM of whom nodes trust to be the receiver; empty for the public authorities. Raises as `Authority.trusted`."""
    from edgectl.trust.authority import Authority

    if not fleet.receiver_url.startswith("https:") or fleet.receiver_ca == "system":
        return ""
    if fleet.receiver_ca == "fleet":
        return Authority(workspace.keys, workspace.certificates, fleet.fleet).trusted("nodes").decode()
    path = workspace.resolve(fleet.receiver_ca)
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"receiver.ca: {path} cannot be read: {getattr(e, 'strerror', None) or e}") from e


def _files(
    workspace: Workspace, columns: Callable[[str], Columns], fleet: Inventory, name: str, folder: str
) -> list[dict[str, Any]]:
    """Absolute path, text and mode of each; what is to be kept belongs to the agent once it is there."""
    from edgectl_agent import yamlfile
    from edgectl_agent.config import Config

    from edgectl.fleet import membership
    from edgectl.inventory.agent_config import CA_FILE
    from edgectl.machine import supervisor, unit
    from edgectl.machine.layout import Layout
    from edgectl.trust.keys import KeyStore
    from edgectl.trust.repository import Repository

    layout = Layout.within(folder) if folder else Layout()
    text = membership.agent_yaml(fleet.node(name), workspace, columns, layout)
    root = Repository(workspace.resolve(fleet.repository_dir), KeyStore(workspace.keys)).root_bytes().decode()
    found = [
        (layout.agent_yaml, text, "640", False),
        (f"{layout.data}/trust/root.json", root, "640", True),
        (supervisor.script_file(layout), supervisor.script(layout), "755", False),
    ]
    if not folder:
        config = yamlfile.parse(text, Config, name)
        found.append((layout.unit, unit.render(layout, config), "644", False))
    ca = authority_of(workspace, fleet)
    if ca:
        found.append((f"{layout.config}/{CA_FILE}", ca, "644", False))
    return [{"path": path, "text": text, "mode": mode, "keep": keep} for path, text, mode, keep in found]
