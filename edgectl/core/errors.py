"""The operator's errors and all exit codes of `edgectl`; `edgectl help exit-codes` prints `EXIT_CODES`."""

from __future__ import annotations

from edgectl_agent.core.errors import (
    AdmissionError,
    AttackError,
    ConfigError,
    EdgeError,
    ExpiredError,
    StorageError,
    TrustError,
    UsageError,
)

__all__ = [
    "BY_HAND",
    "EXIT_CODES",
    "NOT_TRIED",
    "SILENT",
    "AdmissionError",
    "AttackError",
    "ConfigError",
    "DownloadFailed",
    "EdgeError",
    "ExpiredError",
    "IndexUnreachable",
    "LockHeld",
    "NodeUnreachable",
    "NodeUntrusted",
    "NothingMatched",
    "RemoteRefused",
    "StorageError",
    "TrustError",
    "UsageError",
]

EXIT_CODES: dict[int, str] = {
    0: "done and confirmed",
    1: "internal error (a bug; please report it)",
    2: "usage",
    3: "invalid config, recipe, data or plan",
    4: "nothing matched",
    10: "audit or plan found differences",
    20: "halted, everything reverted",
    21: "halted, not everything reverted",
    22: "inconclusive, paused",
    30: "some nodes failed",
    31: "some nodes unreachable",
    32: "some nodes silent after activation",
    40: "trust: signature, digest, certificate, host key or admission",
    41: "signed metadata or a certificate expired",
    42: "attack refused (rollback, mix-and-match, not permitted)",
    50: "lock or epoch held by another operator",
    75: "temporary failure, retry",
    130: "interrupted; the message says how to resume",
}


class NothingMatched(EdgeError):
    """A name or selector fits nothing; the message lists the closest names."""

    exit_code, reason = 4, "nothing-matched"


class LockHeld(EdgeError):
    """Another operator is at work, or has signed a newer epoch."""

    exit_code, reason = 50, "locked"


BY_HAND = "by-hand"
"""Reason of `NodeUnreachable` for a node that no network reaches: nobody tried."""
SILENT = "silent"
"""Reason of `NodeUnreachable` for a node that reports by itself and has not: nobody tried to reach it."""


NOT_TRIED = frozenset({BY_HAND, SILENT})


class NodeUnreachable(EdgeError):
    """No answer from a node."""

    exit_code, reason = 31, "unreachable"


class NodeUntrusted(NodeUnreachable):
    """Something answered and did not prove to be the node, or the node does not accept who asks.

    Nothing was sent to it, so a rollout treats the node as unreachable; `exit_code` is 41 for what has expired.
    """

    exit_code, reason = 40, "untrusted"

    def __init__(self, message: str, *, hint: str | None = None, expired: bool = False) -> None:
        super().__init__(message, reason="expired" if expired else None, hint=hint)
        if expired:
            self.exit_code = ExpiredError.exit_code


class IndexUnreachable(EdgeError):
    """The package index does not answer."""

    exit_code, reason = 75, "index"


class DownloadFailed(EdgeError):
    """A public address does not answer, or not with what was asked for."""

    exit_code, reason = 75, "download"


class RemoteRefused(EdgeError):
    """A node answered, and said no. `status` is HTTP's; `exit_code` is the node's own if it gave one, else 30."""

    exit_code, reason = 30, "refused"

    def __init__(
        self, message: str, *, status: int, hint: str | None = None, reason: str | None = None, exit_code: int = 30
    ) -> None:
        super().__init__(message, hint=hint, reason=reason)
        self.status = status
        self.exit_code = exit_code
