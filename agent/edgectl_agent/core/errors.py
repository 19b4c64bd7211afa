"""Every error the agent raises on purpose, and the exit code of each.

An `EdgeError` is a sentence for a person: what was expected, what was found, what to do next. Anything else that
escapes is a bug and ends with exit code 1. The operator's side (`edgectl.core.errors`) extends this list.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of all deliberate errors; `exit_code` is the process's exit status, `reason` a stable machine word."""

    exit_code = 1
    reason = "internal"

    def __init__(self, message: str, *, reason: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if reason is not None:
            self.reason = reason

    def __str__(self) -> str:
        return f"{self.message} → {self.hint}" if self.hint else self.message


class UsageError(EdgeError):
    """The command line asks for something that does not exist."""

    exit_code, reason = 2, "usage"


class ConfigError(EdgeError):
    """A file that a person wrote (fleet.yaml, agent.yaml, recipe, data, plan) is wrong."""

    exit_code, reason = 3, "config"


class TrustError(EdgeError):
    """Bytes do not carry the signature, digest or form that they must."""

    exit_code, reason = 40, "trust"


class ExpiredError(TrustError):
    """Signed metadata is past its date."""

    exit_code, reason = 41, "expired"


class AttackError(TrustError):
    """Correctly signed, yet older, or not meant for this node, or not permitted: a replay or a mix-up."""

    exit_code, reason = 42, "attack"


class AdmissionError(TrustError):
    """A bundle is authentic but must not run here (size, operators, golden vectors)."""

    exit_code, reason = 40, "admission"


class StorageError(EdgeError):
    """The disk refused a write or returned damaged bytes; retry when it has room or was repaired."""

    exit_code, reason = 75, "storage"


class SourceError(EdgeError):
    """A source cannot be opened or read; the only family that a source lets out."""

    exit_code, reason = 75, "source"
