"""Which files of a TUF repository this node needs, read from metadata that nobody has verified yet.

Nothing here is trusted: the names only say what to fetch into the spool, where the verifying child judges every byte.
What is read is typed and small; a name that could leave the spool is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec

from edgectl_agent.core.errors import TrustError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import ASSIGNMENT_TARGET, Assignment, Sha256, release_target

LIMITS: Mapping[str, int] = {
    "timestamp": 16_384, "root": 512_000, "snapshot": 2_000_000, "targets": 5_000_000, "models": 5_000_000,
    "rollout": 5_000_000,
}  # fmt: skip
"""Bytes per role, as python-tuf has them: what is larger would be refused anyway."""
DELEGATED = ("models", "rollout")
_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")

T = TypeVar("T")
Version = Annotated[int, msgspec.Meta(ge=1, le=2**31)]


class _Hashes(msgspec.Struct, frozen=True):
    sha256: Sha256


class FileInfo(msgspec.Struct, frozen=True):
    """What one metadata file says of another."""

    version: Version
    length: int | None = None
    hashes: _Hashes | None = None


class TargetInfo(msgspec.Struct, frozen=True):
    """What a role says of a target."""

    length: Annotated[int, msgspec.Meta(ge=0)]
    hashes: _Hashes


class _Meta(msgspec.Struct, frozen=True):
    meta: dict[str, FileInfo]


class _Targets(msgspec.Struct, frozen=True):
    targets: dict[str, TargetInfo]


class _Root(msgspec.Struct, frozen=True):
    version: Version
    type_: str = msgspec.field(name="_type", default="")


class _Signed(msgspec.Struct, frozen=True):
    signed: msgspec.Raw


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A file to have in the spool: its name there, its digest, and its length as promised (0: not known)."""

    name: str
    sha256: str
    length: int


for _type in (_Meta, _Targets, _Root, _Signed):  # not first in two threads at once: see core.messages
    msgspec.json.Decoder(_type)


def file_of(raw: bytes, role: str, listed: str) -> FileInfo:
    """What `role`'s metadata says of ``<listed>.json``. Raises `TrustError`."""
    found = _signed(raw, role, _Meta).meta.get(f"{listed}.json")
    if found is None:
        raise TrustError(f"{role} metadata does not list {listed}.json", reason="malformed")
    return found


def root_version(raw: bytes) -> int:
    """The version that root metadata says it has. Raises `TrustError`."""
    root = _signed(raw, "root", _Root)
    if root.type_ != "root":
        raise TrustError(f"expected root metadata, found {root.type_[:40]!r}", reason="malformed")
    return root.version


def targets(raw: bytes, role: str) -> Mapping[str, TargetInfo]:
    """The targets that `role` signs. Raises `TrustError`."""
    return _signed(raw, role, _Targets).targets


def assignment(signed: Mapping[str, TargetInfo]) -> Wanted | None:
    """The assignment's file; None before the first deployment. Raises `TrustError`."""
    return _wanted(ASSIGNMENT_TARGET, signed[ASSIGNMENT_TARGET]) if ASSIGNMENT_TARGET in signed else None


def placed(raw: bytes, node: str) -> tuple[tuple[str, str, str], ...]:
    """(recipe, version, digest of the bundle) of what the assignment `raw` places on `node`. Raises `TrustError`."""
    said = _decode(raw, Assignment, "assignment")
    places = ((recipe, said.placement(recipe, node)) for recipe in said.models)
    return tuple((recipe, place.version, place.sha256) for recipe, place in places if place is not None)


def release(signed: Mapping[str, TargetInfo], recipe: str, version: str) -> Wanted:
    """The manifest's file. Raises `TrustError` if nobody signs it, or its name is none."""
    for part in (recipe, version):
        if _COMPONENT.fullmatch(part) is None:
            raise TrustError(f"assignment names a release {part[:100]!r}, which is no name", reason="malformed")
    return _find(signed, release_target(recipe, version))


def bundle(signed: Mapping[str, TargetInfo], sha256: str) -> Wanted:
    """The bundle's file. Raises `TrustError` if nobody signs it."""
    return _find(signed, f"bundles/{sha256}.bundle")


def _find(signed: Mapping[str, TargetInfo], path: str) -> Wanted:
    if path not in signed:
        raise TrustError(f"{path[:200]} is placed on this node, but not listed", reason="incomplete")
    return _wanted(path, signed[path])


def _wanted(path: str, info: TargetInfo) -> Wanted:
    parts = path.split("/")
    if not all(_COMPONENT.fullmatch(part) for part in parts):
        raise TrustError(f"{path[:200]!r} is not a name that a target can have", reason="malformed")
    name = "/".join(["targets", *parts[:-1], f"{info.hashes.sha256}.{parts[-1]}"])
    return Wanted(name=name, sha256=info.hashes.sha256, length=info.length)


def _signed(raw: bytes, role: str, into: type[T]) -> T:
    return _decode(_decode(raw, _Signed, f"{role} metadata").signed, into, f"{role} metadata")


def _decode(raw: bytes | msgspec.Raw, into: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(raw, type=into)
    except UNREADABLE as e:
        raise TrustError(f"{what} is not as expected: {e}", reason="malformed") from e
