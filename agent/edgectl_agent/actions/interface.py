"""What a node does by itself when an alert opens or clears."""

from __future__ import annotations

from abc import ABC, abstractmethod

from edgectl_agent.core.messages import Alert


class Action(ABC):
    """One configured action. It is called once per (alert id, state, severity); replays after a crash are filtered."""

    @abstractmethod
    def fire(self, alert: Alert) -> None:
        """Act. Raises `StorageError` if it could not; the runtime counts the failure and goes on detecting."""

    def close(self) -> None:  # noqa: B027 - optional by contract
        """Release resources."""
