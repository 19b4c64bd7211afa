"""What `edgectl repo` shows of the signed roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from edgectl.core.errors import TrustError
from edgectl.trust import chain
from edgectl.trust.keys import GUARDED, KeyStore, Role
from edgectl.trust.publication import LIFE

_SIGNS: dict[Role, str] = {
    "root": "which keys count",
    "targets": "who may sign models and rollouts",
    "models": "releases and their bundles",
    "rollout": "which release runs on which nodes",
    "snapshot": "which versions belong together",
    "timestamp": "that this is the newest state",
}


class RoleRow(msgspec.Struct, frozen=True, kw_only=True):
    """One role. `due`: less than a quarter of its life is left. `key` is here, locked by a passphrase or elsewhere."""

    role: str
    version: int
    expires: str
    left_s: float
    due: bool
    key: str
    signs: str

    @property
    def left(self) -> str:
        """Short, for people."""
        if self.left_s <= 0:
            return "expired"
        return f"{self.left_s / 86400:.0f} d" if self.left_s >= 2 * 86400 else f"{self.left_s / 3600:.0f} h"

    @property
    def style(self) -> str:
        """How to colour `left`."""
        return "red" if self.left_s <= 0 else "yellow" if self.due else ""


def roles(repository: Path, keys: KeyStore, now: datetime) -> list[RoleRow]:
    """One row per role, most trusted first. Raises `TrustError` and `ConfigError` as `edgectl.trust.chain.load`."""
    current = chain.load(repository / "metadata").roles()
    return [
        RoleRow(
            role=role,
            version=current[role].version,
            expires=f"{current[role].expires:%Y-%m-%dT%H:%M:%SZ}",
            left_s=(current[role].expires - now).total_seconds(),
            due=current[role].expires - now < life / 4,
            key=_key(keys, role),
            signs=_SIGNS[role],
        )
        for role, life in LIFE.items()
    ]


def lockable(keys: KeyStore, role: Role) -> bool:
    """Whether a passphrase would let us sign as `role`."""
    return _key(keys, role) == "locked"


def refused(roles: Sequence[Role], expiries: Mapping[str, datetime]) -> TrustError:
    """The error for roles that `edgectl repo refresh` could not sign: their keys are locked or elsewhere."""
    ends = ", ".join(f"{role} ({expiries[role]:%Y-%m-%d})" for role in roles)
    hint = "give the passphrase with --passphrase-file" if any(role in GUARDED for role in roles) else None
    return TrustError(f"not signed anew, because their keys are locked or not here: {ends}", hint=hint)


def _key(keys: KeyStore, role: Role) -> str:
    try:
        return "locked" if keys.locked(role) else "here"
    except TrustError:
        return "elsewhere"
