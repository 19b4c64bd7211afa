"""What one verified state of the repository holds, and what may be added to it."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from edgectl_agent.core import bundle as bundles
from edgectl_agent.core.desired import check_bundle
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import (
    ASSIGNMENT_TARGET,
    Assignment,
    BundleRef,
    Placement,
    Release,
    release_target,
)

from edgectl.core.errors import AttackError, LockHeld, NothingMatched, TrustError
from edgectl.trust import chain as chains
from edgectl.trust.chain import Chain

T = TypeVar("T")


@dataclass(frozen=True)
class Contents:
    """The targets below `folder` as `chain` signs them. Reading raises `TrustError` naming the file."""

    folder: Path
    chain: Chain

    def bundle(self, sha256: str) -> bytes:
        return chains.read_target(self.folder, f"bundles/{sha256}.bundle", self.chain.models)

    def assignment(self) -> Assignment | None:
        if ASSIGNMENT_TARGET not in self.chain.rollout.targets:
            return None
        raw = chains.read_target(self.folder, ASSIGNMENT_TARGET, self.chain.rollout)
        return _decode(raw, Assignment, ASSIGNMENT_TARGET)

    def releases(self) -> tuple[Release, ...]:
        """By recipe and counter."""
        paths = [path for path in self.chain.models.targets if path.startswith("releases/")]
        return tuple(sorted(map(self._manifest, paths), key=lambda r: (r.recipe, r.counter)))

    def find(self, recipe: str, version: str) -> Release | None:
        path = release_target(recipe, version)
        return self._manifest(path) if path in self.chain.models.targets else None

    def release(self, recipe: str, version: str) -> Release:
        """Raises `NothingMatched` with the closest names."""
        found = self.find(recipe, version)
        if found is not None:
            return found
        names = [f"{r.recipe} {r.version}" for r in self.releases()]
        close = difflib.get_close_matches(f"{recipe} {version}", names, 3, 0.4)
        hint = f"did you mean {', '.join(close)}?" if close else "edgectl models list"
        raise NothingMatched(f"no signed release {recipe} {version}", hint=hint)

    def _manifest(self, path: str) -> Release:
        return _decode(chains.read_target(self.folder, path, self.chain.models), Release, path)

    # ── what may be added ───────────────────────────────────────────────────────────────────────────────────────────

    def check_new(self, release: Release) -> None:
        """Raise `TrustError` unless `release` is a new version with a rising counter and signed fallbacks."""
        name, signed = f"{release.recipe} {release.version}", self.chain.models.targets
        if release.target in signed:
            raise TrustError(f"{name} is signed already, with other content", reason="exists", hint="raise the version")
        if not release.version or any(c in release.version for c in "/\\ *?[]"):
            raise TrustError(f"{release.version!r} is not a version", reason="malformed")
        highest = max((r.counter for r in self.releases() if r.recipe == release.recipe), default=0)
        if release.counter <= highest:
            raise TrustError(f"{name} has counter {release.counter}, {highest} is signed already", reason="counter")
        for sha256 in release.fallbacks:
            if f"bundles/{sha256}.bundle" not in signed:
                raise TrustError(f"{name} names the fallback {sha256[:12]}, which is not signed", reason="unsigned")

    def check_epoch(self, assignment: Assignment) -> None:
        """Raise `LockHeld` if somebody signed a higher epoch, or somebody else the same one."""
        current = self.assignment()
        if current is None:
            return
        old, new = current.epoch, assignment.epoch
        if new.number < old.number or (new.number == old.number and new.operator != old.operator):
            raise LockHeld(
                f"{old.operator} has signed epoch {old.number}, ours is {new.number}",
                reason="old-epoch",
                hint="look at `edgectl status`, then repeat the command",
            )

    def check_placements(self, recipe: str, placements: tuple[Placement, ...]) -> None:
        """A node would refuse a placement that does not fit: raise `TrustError` before it is signed."""
        name, times = Counter(node for p in placements for node in p.nodes).most_common(1)[0] if placements else ("", 0)
        if times > 1:
            raise TrustError(f"{recipe}: {name} is placed twice", reason="malformed")
        for place in placements:
            release = self.find(recipe, place.version)
            if release is None:
                raise TrustError(f"no signed release {recipe} {place.version}", reason="unsigned")
            if not any((r.sha256, r.variant) == (place.sha256, place.variant) for r in release.variants):
                raise AttackError(
                    f"{recipe} {place.version} has no {place.variant} bundle {place.sha256[:12]}",
                    reason="mix-and-match",
                )
            self.bundle(place.sha256)


def check_content(release: Release, ref: BundleRef, raw: bytes) -> None:
    """Raise `TrustError` if `raw` is not the bundle that `release` lists as `ref`."""
    name = f"{release.recipe} {release.version} ({ref.variant})"
    if (len(raw), bundles.digest(raw)) != (ref.length, ref.sha256):
        raise TrustError(f"the bundle of {name} is not what its manifest says: {len(raw)} bytes", reason="digest")
    check_bundle(release.recipe, ref.variant, bundles.decode(raw))


def _decode(raw: bytes, into: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(raw, type=into)
    except UNREADABLE as e:
        raise TrustError(f"{name} does not decode: {e}", reason="malformed") from e
