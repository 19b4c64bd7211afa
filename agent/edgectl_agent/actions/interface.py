"""What a node does by itself when an alert opens or clears.

Effects happen once per `Key`, also when the agent is killed and makes the same alerts again: an action remembers on
disk what it has done, and says so when it is opened. What it remembers may end where the position of the last snapshot
begins, because no older alert can come again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from edgectl_agent.core.messages import Alert

Key = tuple[str, str, str]
"""(alert id, state, severity)."""


def key_of(alert: Alert) -> Key:
    """What makes a record of an alert one effect."""
    return alert.id, alert.state, alert.severity


class Action(ABC):
    """One configured action. The caller never fires a key that `open` returned, nor one twice."""

    @abstractmethod
    def open(self, position: int) -> frozenset[Key]:
        """Keys fired since `sync` returned `position` (0: since ever). Raises `StorageError`."""

    @abstractmethod
    def fire(self, alert: Alert) -> None:
        """Act. Raises `StorageError` if it could not; the runtime counts the failure and goes on detecting."""

    @abstractmethod
    def sync(self) -> int:
        """Put on stable storage what was fired, and return the position up to here. Raises `StorageError`."""

    def close(self) -> None:  # noqa: B027 - optional by contract
        """Release resources."""
