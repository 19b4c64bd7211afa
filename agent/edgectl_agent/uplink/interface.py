"""What goes out from this node by itself, because nobody can come in: errands that repeat.

The promise, in both directions:

* `attempt` makes one try and returns whether it has more to do at once. It raises only `UplinkError`; anything it needs
  to remember through a crash is on disk already when it returns (positions are the outbox's, files the spool's).
* An errand runs in a thread of its own (`uplink.loop`), never on the worker: whatever the network does, detection goes
  on. It may be ended anywhere by SIGKILL.
* `problem` says what is wrong in one sentence; `act` whether the operator must do something about it, as for a token
  that was revoked, or only wait, as for a receiver that is down.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from edgectl_agent.core.errors import EdgeError


class UplinkError(EdgeError):
    """The other side does not answer, refuses, or sends what is not expected; tried again later."""

    exit_code, reason = 75, "uplink"

    def __init__(
        self, message: str, *, act: bool = False, retry_after_s: float = 0.0, status: int = 0, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.act = act
        """Time alone does not mend it."""
        self.retry_after_s = retry_after_s
        """What the other side asked for."""
        self.status = status
        """HTTP's; 0 without an answer."""


class Errand(ABC):
    """One kind of outbound work."""

    name: str
    """For metrics and reasons: ``repository``, ``receiver``."""

    news: Callable[[], None] = staticmethod(lambda: None)
    """Set by the loop; called when what was wrong before is not about what comes now."""

    @abstractmethod
    def attempt(self) -> bool:
        """Try once; returns whether to go on at once. Raises `UplinkError`."""

    def close(self) -> None:  # noqa: B027 - optional by contract
        """Release connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """How an errand fares. Times are the node's clock, ns since 1970, 0: never."""

    name: str
    attempts: int = 0
    failures: int = 0
    """Since the process started."""
    failing: int = 0
    """In a row, up to now."""
    failing_since_ns: int = 0
    last_success_ns: int = 0
    problem: str = ""
    act: bool = False
