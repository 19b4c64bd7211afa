"""How a node is reached. A new way to reach nodes is one new file and one entry in `connectors.registry`.

A connector has two halves: the *machine* half (`place`, `start`, `stop`, `remove`) manages the agent's files and
process; the *wire* half (`request`, `upload`) speaks to the running agent. `edgectl.connectors.client.NodeClient` turns
the wire half into typed calls. Connectors raise only the errors below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from edgectl.core.errors import NodeUnreachable, RemoteRefused

__all__ = ["Connector", "NodeUnreachable", "RemoteRefused"]


class Connector(ABC):
    """One node."""

    @abstractmethod
    def place(self, files: Mapping[str, bytes]) -> bool:
        """Write configuration files, relative to the node's base folder, each complete or not at all.

        Returns whether anything changed.
        """

    @abstractmethod
    def start(self, timeout_s: float = 30.0) -> None:
        """Start the agent unless it runs, and wait until it answers ``/v1/live``.

        Raises:
            NodeUnreachable: it did not come up; the message holds the last lines of its log.
        """

    @abstractmethod
    def stop(self, timeout_s: float = 15.0) -> None:
        """End the agent if it runs: politely first, by force at `timeout_s`."""

    @abstractmethod
    def remove(self, keep_data: bool = False) -> None:
        """Stop the agent and delete what `place` and the agent left; the outbox stays with `keep_data`."""

    @abstractmethod
    def request(self, method: str, path: str, body: bytes = b"", timeout_s: float = 10.0) -> bytes:
        """One call of the control API.

        Raises:
            NodeUnreachable: no answer (connection, timeout).
            RemoteRefused: an answer with status ≥ 400; carries status and message.
        """

    @abstractmethod
    def upload(self, files: Mapping[str, bytes | Path]) -> None:
        """Put files into the agent's spool under the given relative names: temporary name first, then renamed."""

    def close(self) -> None:  # noqa: B027 - optional by contract
        """Release connections."""
