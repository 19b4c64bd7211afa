"""What a node does by itself when an alert opens or clears.

Effects happen once per `Key`, also when the agent is killed and makes the same alerts again. An `Action` acts on the
worker and remembers on disk what it has done: it says so when it is opened. What it remembers may end where the
position of the last snapshot begins, because no older alert can come again. An `Effector` reaches beyond the agent, in
a thread of its own; `edgectl_agent.actions.responder` sees to it that it is asked at most once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from edgectl_agent.core.messages import Alert
from edgectl_agent.core.template import Values

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


class EffectFailed(Exception):
    """The effect did not happen as it should: it was refused, or ended badly. The text says why."""


class EffectUnknown(Exception):
    """Nobody can say whether it happened: the text says why."""


class Effector(ABC):
    """How one kind of action reaches out. All but `abort` is called from one thread."""

    @abstractmethod
    def describe(self, values: Values) -> str:
        """What `run` would do, for a dry run. Raises `EffectFailed`."""

    @abstractmethod
    def run(self, values: Values, key: str, allowed: frozenset[str]) -> None:
        """Do it, within the action's timeout, and return when it is done.

        Args:
            values: of the fields.
            key: one per effect: whoever gets it twice may take the second for the first.
            allowed: SHA-256 of programs that may run; empty: whatever they contain.

        Raises:
            EffectFailed, EffectUnknown: as they say.
        """

    def start(self) -> None:  # noqa: B027 - optional by contract
        """Prepare what takes time; called once, before the first `run`. Never raises for what may mend itself."""

    def abort(self) -> None:  # noqa: B027 - optional by contract
        """End a `run` that is under way, and release resources; may be called from another thread."""
