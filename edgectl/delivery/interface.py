"""What delivery needs of the world: nodes that answer, a repository that signs. Implementations are elsewhere
(`edgectl.connectors.client`, `edgectl.trust.repository`); `edgectl.testing` has both in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from edgectl_agent.core.messages import AlertPage, Assignment, Release, Report, TrustStatus, UpdateResult

from edgectl.core.errors import EdgeError


class Node(Protocol):
    """One node's agent. Every call raises `NodeUnreachable` without an answer and `RemoteRefused` for a refusal."""

    def status(self) -> Report: ...

    def have(self) -> frozenset[str]:
        """Digests of the bundles that the node has already."""

    def push(self, files: Mapping[str, bytes | Path]) -> None:
        """Put a slice of the repository into the node's spool."""

    def update(self, timeout_s: float = 60.0) -> UpdateResult:
        """Order the node to apply what its spool holds."""

    def rollback(self, recipe: str, epoch: int) -> UpdateResult:
        """Order the node to return to the bundle in its other slot, without any signature."""

    def alerts(self, after: int = 0, limit: int = 500, wait_s: float = 0.0) -> AlertPage:
        """Acknowledged records after a position; waits up to `wait_s` for the first."""

    def release(self, through: int, log_id: str = "") -> None:
        """The records up to `through` of the outbox `log_id` are stored durably here: the node may delete them."""

    def close(self) -> None: ...


Connect = Callable[[str], Node]
"""Name → connection; must not do I/O. Called from several threads, a connection is used by one."""


class Repository(Protocol):
    """The fleet's signed metadata, as far as delivery uses it."""

    def assignment(self) -> Assignment | None: ...

    def releases(self) -> tuple[Release, ...]: ...

    def versions(self) -> TrustStatus: ...

    def assign(self, assignment: Assignment, now: datetime, expect_timestamp: int) -> None:
        """Sign; raises `LockHeld` if the timestamp's version is not `expect_timestamp` any more."""

    def slice_for(self, node: str, have: frozenset[str] = frozenset()) -> dict[str, bytes | Path]:
        """The files that `node` needs to verify and run what it is assigned."""


class Detached(EdgeError):
    """Ctrl-C: the state is in the journal, and the message says how to go on."""

    exit_code, reason = 130, "detached"
