"""Where the agent's parts lie on a machine, and which name each part has in messages and in `Connector.place`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgectl.inventory.types import Node

AGENT = "edgectl-agent"
"""Name of the agent's distribution, command, service and user."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Absolute paths on the node. The default needs root; with ``root=False`` everything is the SSH user's own."""

    config: str = f"/etc/{AGENT}"
    """Configuration, read-only to the agent."""
    data: str = f"/var/lib/{AGENT}"
    """The agent's data folder, the only one that it writes to."""
    home: str = f"/opt/{AGENT}"
    """Environments, one folder per version, and ``current``, the link to the one that runs."""
    unit: str = f"/etc/systemd/system/{AGENT}.service"
    user: str = AGENT
    root: bool = True

    @classmethod
    def within(cls, folder: str) -> Layout:
        """Everything below one folder of the SSH user, for machines where root is not to be had."""
        return cls(config=folder, data=f"{folder}/data", home=f"{folder}/agent", unit=f"{folder}/none", root=False)

    @property
    def agent_yaml(self) -> str:
        return f"{self.config}/agent.yaml"

    @property
    def current(self) -> str:
        """The environment that runs."""
        return f"{self.home}/current"

    @property
    def spool(self) -> str:
        return f"{self.data}/spool"

    @property
    def api_json(self) -> str:
        """Where the running agent says how it is reached."""
        return f"{self.data}/api.json"

    def path(self, name: str) -> str:
        """The absolute path of a file that `Connector.place` calls `name`: ``data/…`` is below `data`, else `config`.

        Raises:
            ValueError: `name` is absolute, empty, or leads out of the folder.
        """
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise ValueError(f"not a name inside the node's folder: {name!r}")
        if parts[0] == "data":
            return str(PurePosixPath(self.data, *parts[1:]))
        return str(PurePosixPath(self.config, *parts))


def of(node: Node) -> Layout:
    """Where `node` has its agent: as root installs it, or below ``agent.folder``."""
    return Layout.within(node.agent.folder) if node.agent.folder else Layout()
