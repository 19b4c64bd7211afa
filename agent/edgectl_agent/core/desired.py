"""What a node may be told to run: the rules between a verified assignment and a bundle that may be installed.

TUF proves who signed what, and which version of the metadata is newest. It does not know epochs, release counters,
permitted fallbacks, quarantine, or which bundle belongs to which placement; these rules do, over values alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from edgectl_agent.core.airgap import Collected
from edgectl_agent.core.bundle import Bundle, Variant
from edgectl_agent.core.errors import AdmissionError, AttackError, ExpiredError, TrustError
from edgectl_agent.core.messages import Assignment, Epoch, Placement, Quarantine, Release, Sha256, TrustStatus
from edgectl_agent.core.units import iso

SIGNED_FIELD = "x-edgectl-signed"
"""Field of all signed metadata: when it was signed, ISO 8601 in UTC. TUF itself tells only when metadata ends."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class _Value(msgspec.Struct, frozen=True):
    """Immutable; unknown fields are ignored, so that an older agent reads a newer one's files."""


class Running(_Value, frozen=True, kw_only=True):
    """What one recipe's active slot holds."""

    version: str
    bundle: Sha256
    counter: int
    fallbacks: tuple[Sha256, ...] = ()


class Standing(_Value, frozen=True, kw_only=True):
    """What a node runs and refuses, by recipe."""

    running: dict[str, Running] = {}
    quarantined: tuple[Quarantine, ...] = ()


class Floor(_Value, frozen=True, kw_only=True):
    """What this node must never go below; kept in ``trust/floor.json``, fsynced.

    python-tuf keeps the newest metadata without fsync and knows no epochs, so a power cut could make a node forget.
    """

    roles: dict[str, int] = {}
    """Highest trusted version per TUF role."""
    signers: dict[str, tuple[str, ...]] = {}
    """Key ids that root names for ``timestamp`` and ``snapshot``. When a new root replaces them, the floors of the old
    keys fall: this is how a fleet recovers from a thief who signed version 2^31 (TUF specification 1.0.33, 5.3.11)."""
    newest_signed_ns: int = 0
    epoch: Epoch | None = None
    assignment_sha256: str = ""
    counters: dict[str, int] = {}
    """Highest counter of a release that ran, per recipe."""
    expires_ns: int = 0
    allow: tuple[dict[str, Any], ...] = ()
    """The signed rules for this node's actions (`core.allowed`), of the newest assignment that it accepted."""

    def trust_status(self) -> TrustStatus | None:
        """The versions as reports carry them; None before the first refresh."""
        if not self.roles:
            return None
        return TrustStatus(
            root=self.roles["root"],
            timestamp=self.roles["timestamp"],
            snapshot=self.roles["snapshot"],
            assignment_sha256=self.assignment_sha256,
            expires_ns=self.expires_ns,
        )


@dataclass(frozen=True)
class Refreshed:
    """What a finished TUF refresh found.

    Attributes:
        versions: role → version of all metadata that was loaded.
        expires_ns: role → end of life.
        signed_ns: newest signing time among them.
        signers: key ids of ``timestamp`` and ``snapshot``.
    """

    versions: dict[str, int]
    expires_ns: dict[str, int]
    signed_ns: int
    signers: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Wanted:
    """A placement that names this node and is not what it runs."""

    recipe: str
    placement: Placement
    running: Running | None


def raise_floor(floor: Floor, found: Refreshed, now_ns: int) -> Floor:
    """The floor after a refresh.

    Raises:
        AttackError: a role is older than one seen before.
        ExpiredError: a role ended before the newest time that was ever signed; the node's clock may say otherwise.
    """
    known = dict(floor.roles)
    newest = floor.newest_signed_ns
    if found.versions["root"] > known.get("root", 0):
        # The specification's recovery from a fast-forward attack: new keys begin to count anew.
        for role, signers in found.signers.items():
            if signers != floor.signers.get(role, signers):
                known.pop(role, None)
                newest = 0
    for role, version in found.versions.items():
        if version < known.get(role, 0):
            raise AttackError(
                f"{role} metadata is version {version}, this node has seen version {known[role]}", reason="rollback"
            )
    newest = max(newest, found.signed_ns)
    for role, end in found.expires_ns.items():
        if end <= max(now_ns, newest):
            raise ExpiredError(
                f"{role} metadata expired at {iso(end)}, it is {iso(max(now_ns, newest))} at the earliest"
            )
    return msgspec.structs.replace(
        floor,
        roles=known | found.versions,
        signers=found.signers,
        newest_signed_ns=newest,
        expires_ns=min(found.expires_ns.values()),
    )


def accept_epoch(floor: Floor, assignment: Assignment, sha256: str, node: str = "") -> Floor:
    """The floor of `node` after taking `assignment`, whose bytes have digest `sha256`.

    Raises:
        AttackError: its epoch is lower than one seen, or equal to one that another operator signed with other content.
    """
    new, seen = assignment.epoch, floor.epoch
    if seen is not None and new.number < seen.number:
        raise AttackError(
            f"assignment has epoch {new.number}, this node has seen epoch {seen.number}", reason="old-epoch"
        )
    if seen is not None and new.number == seen.number and new.operator != seen.operator:
        if sha256 == floor.assignment_sha256:
            return floor
        raise AttackError(
            f"epoch {new.number} was signed by {seen.operator} and now, with other content, by {new.operator}",
            reason="forked-epoch",
        )
    return msgspec.structs.replace(floor, epoch=new, assignment_sha256=sha256, allow=assignment.allowed(node))


def wanted(assignment: Assignment, node: str, standing: Standing) -> tuple[Wanted, ...]:
    """The placements that `node` does not run yet, by recipe.

    Raises:
        TrustError: the node is in two placements of a recipe; a recipe's name is none (it becomes a folder's name).
        AdmissionError: a placement is quarantined here and the epoch has not risen since.
    """
    found = []
    for recipe, placements in sorted(assignment.models.items()):
        mine = [p for p in placements if node in p.nodes]
        if not mine:
            continue
        if _NAME.fullmatch(recipe) is None:
            raise TrustError(f"assignment names a recipe {recipe!r}, which is no name", reason="malformed")
        if len(mine) > 1:
            raise TrustError(f"assignment places {node} twice for {recipe}", reason="malformed")
        placement, running = mine[0], standing.running.get(recipe)
        for q in standing.quarantined:
            if (q.recipe, q.bundle) == (recipe, placement.sha256) and assignment.epoch.number <= q.epoch:
                raise AdmissionError(
                    f"{recipe} {placement.version} is quarantined here since epoch {q.epoch}: {q.reason}",
                    reason="quarantined",
                    hint="deploy another release, or this one again with a higher epoch",
                )
        if running is None or (running.version, running.bundle) != (placement.version, placement.sha256):
            found.append(Wanted(recipe, placement, running))
    return tuple(found)


def check_release(want: Wanted, release: Release, floor: Floor) -> int:
    """The length in bytes that `release` promises for the wanted bundle.

    Raises:
        AttackError: the manifest is not of this release or does not list this bundle; or the release is older than one
            that ran here and the running release does not permit to return to it.
    """
    place = want.placement
    name = f"{want.recipe} {place.version}"
    if (release.recipe, release.version) != (want.recipe, place.version):
        raise AttackError(f"manifest of {name} says {release.recipe} {release.version}", reason="mix-and-match")
    lengths = [r.length for r in release.variants if (r.sha256, r.variant) == (place.sha256, place.variant)]
    if not lengths:
        raise AttackError(
            f"assignment places bundle {place.sha256[:12]} ({place.variant}) as {name}, which does not contain it",
            reason="mix-and-match",
        )
    running = want.running
    highest = max(floor.counters.get(want.recipe, 0), running.counter if running else 0)
    if release.counter < highest and (running is None or place.sha256 not in running.fallbacks):
        raise AttackError(
            f"{name} has release counter {release.counter}, counter {highest} ran here and the running release does"
            " not list it as a fallback",
            reason="old-release",
        )
    return lengths[0]


def check_bundle(recipe: str, variant: Variant, bundle: Bundle) -> None:
    """Raise `AttackError` if a bundle says that it is something else than its placement does."""
    if (bundle.recipe, bundle.variant) != (recipe, variant):
        raise AttackError(
            f"bundle placed as {recipe} ({variant}) is {bundle.recipe} ({bundle.variant})", reason="mix-and-match"
        )


# ── between the verifying child and its parent ──────────────────────────────────────────────────────────────────────


class Staged(_Value, frozen=True, kw_only=True):
    """A bundle that was verified and admitted; it lies in ``staging/<recipe>/``."""

    recipe: str
    version: str
    variant: Variant
    bundle: Sha256


class Verdict(_Value, frozen=True, kw_only=True):
    """Last line of the child's output. ``staged`` empty and ``exit_code`` 0: the node already runs what it should."""

    staged: tuple[Staged, ...] = ()
    epoch: Epoch | None = None
    trust: TrustStatus | None = None
    collected: Collected | None = None
    """What the operator has stored of this node's alerts, as a signed receipt says."""
    reason: str = ""
    message: str = ""
    exit_code: int = 0
