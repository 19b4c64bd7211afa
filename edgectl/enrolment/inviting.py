"""What `edgectl nodes invite` does below its verb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgectl_agent.core.units import duration_ns

from edgectl.core.errors import ConfigError, UsageError
from edgectl.core.names import unknown
from edgectl.enrolment.enrolling import authority_of
from edgectl.files import write_file
from edgectl.fleet import membership
from edgectl.inventory import shorthand
from edgectl.inventory.agent_config import Columns
from edgectl.inventory.reading import load
from edgectl.inventory.types import Inventory, Node
from edgectl.machine import invitation
from edgectl.store.enrolments import Enrolment
from edgectl.workspace import Workspace


def life_ns(valid: str) -> int:
    """Raises `UsageError` for anything but a duration of at least a minute."""
    try:
        life = duration_ns(valid)
    except ConfigError as e:
        raise UsageError(f"--valid: {e.message}") from e
    if life < duration_ns("1m"):
        raise UsageError(f"--valid: expected at least 1m, found {valid!r}")
    return life


def checked(
    fleet: Inventory,
    workspace: Workspace,
    columns: Callable[[str], Columns],
    site: str,
    profiles: Sequence[str],
    labels: Sequence[str],
) -> dict[str, Any]:
    """The settings of the nodes to come, of which it is certain now that they make a node.

    Raises:
        ConfigError: there is no receiver, or a node with these settings would make no sense.
        NothingMatched: an unknown site or profile.
    """
    if not fleet.receiver_url:
        raise ConfigError(
            "nodes behind NAT need a receiver, and fleet.yaml names none",
            hint="say receiver: {url: https://…} as they see `edgectl serve`",
        )
    if site not in fleet.sites:
        raise unknown("site", site, fleet.sites)
    for name in profiles:
        if name not in fleet.profiles:
            raise unknown("profile", name, fleet.profiles)
    given: dict[str, Any] = {"profiles": list(profiles), "labels": dict(shorthand.labels(labels))}
    trial = Enrolment(node="invited", machine="", invite="", site=site, settings=given, enrolled_ns=0)
    node = load(workspace.fleet_file, enrolled=lambda file: (trial,)).node("invited")
    membership.agent_yaml(node, workspace, columns)
    return given


def script(workspace: Workspace, fleet: Inventory) -> str:
    """The install script, kept under its digest for as long as a line may name it. Raises `StorageError`."""
    text = invitation.script(fleet.receiver_url, authority_of(workspace, fleet), fleet.fleet)
    write_file(workspace.installs / invitation.file_name(text), text.encode())
    return text


def line(fleet: Inventory, script: str, token: str) -> str:
    """What somebody types on each machine."""
    return invitation.line(fleet.receiver_url, script, token)


def removal_line(workspace: Workspace, fleet: Inventory, node: Node) -> str:
    """What the owner of a machine that nobody logs in to types there to take the agent off; empty where operators do
    that, and where no receiver hands the script out. Raises `StorageError`, and as `authority_of`.
    """
    if node.via != "pull" or node.connect.user or not fleet.receiver_url:
        return ""
    return invitation.removal_line(fleet.receiver_url, script(workspace, fleet), node.agent.folder)
