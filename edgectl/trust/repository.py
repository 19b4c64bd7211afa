"""The fleet's signed repository: releases under ``models``, the desired state under ``rollout``.

::

    repo/metadata/   1.root.json …  N.targets.json  N.models.json  N.rollout.json  N.snapshot.json  timestamp.json
    repo/targets/    bundles/  releases/<recipe>/  assignments/        (each file named by its digest)

Every method reads the current state anew and verifies it; nothing is cached, so several processes may use one folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from edgectl_agent.core.messages import (
    ASSIGNMENT_TARGET,
    Assignment,
    Release,
    TrustStatus,
    release_target,
)
from edgectl_agent.core.units import event_time_ns
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edgectl.core.errors import ExpiredError, LockHeld, TrustError, UsageError
from edgectl.trust import chain as chains
from edgectl.trust.contents import Contents, check_content
from edgectl.trust.keys import GUARDED, KeyStore, Role
from edgectl.trust.publication import LIFE, Publication, meta_file, publishing, sign, write_all

_TOP: tuple[Role, ...] = ("root", "targets", "snapshot", "timestamp")
_PATHS: dict[Role, list[str]] = {"models": ["bundles/*", "releases/*/*"], "rollout": ["assignments/*"]}


@dataclass(frozen=True)
class Verification:
    """A release whose signatures and digests were checked.

    Attributes:
        key_ids: who signed it (role ``models``).
        files: the checked files below ``targets/``.
        expires: end of the ``models`` role.
    """

    release: Release
    key_ids: tuple[str, ...]
    files: tuple[str, ...]
    expires: datetime


class Repository:
    """A TUF repository in a folder. Times are UTC."""

    def __init__(self, folder: Path, keys: KeyStore) -> None:
        self._folder = folder
        self._keys = keys
        self._metadata = folder / "metadata"
        self._targets = folder / "targets"

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def exists(self) -> bool:
        return (self._metadata / "timestamp.json").exists()

    def releases(self) -> tuple[Release, ...]:
        """All signed releases, by recipe and counter. Raises `TrustError`."""
        return self._contents().releases()

    def release(self, recipe: str, version: str) -> Release:
        """Raises `NothingMatched` with the closest names, and `TrustError`."""
        return self._contents().release(recipe, version)

    def bundle(self, sha256: str) -> bytes:
        """A signed bundle's bytes. Raises `TrustError` naming the file if it is missing, truncated or changed."""
        return self._contents().bundle(sha256)

    def assignment(self) -> Assignment | None:
        """The signed desired state; None before the first deploy. Raises `TrustError`."""
        return self._contents().assignment()

    def verify(self, recipe: str, version: str) -> Verification:
        """Check a release from root to the last byte of its bundles.

        Raises:
            TrustError: a signature or digest is wrong, or a bundle is not what its manifest says; names the file.
            NothingMatched: no such release.
        """
        contents = self._contents()
        release, chain = contents.release(recipe, version), contents.chain
        paths = [release.target, *(ref.target for ref in release.variants)]
        for ref in release.variants:
            check_content(release, ref, contents.bundle(ref.sha256))
        return Verification(
            release,
            tuple(chain.targets.get_delegated_role("models").keyids),
            tuple(str(chains.target_file(self._targets, p, chain.models).relative_to(self._targets)) for p in paths),
            chain.models.expires,
        )

    def expiries(self) -> dict[str, datetime]:
        """Role → when its metadata ends."""
        return {role: signed.expires for role, signed in self._contents().chain.roles().items()}

    def check_lasting(self, now: datetime) -> None:
        """Raises `ExpiredError` if nodes refuse whatever is signed now, because a role that no rollout signs ended."""
        expiries = self.expiries()
        for role in ("root", "targets", "models"):
            if expiries[role] <= now:
                raise ExpiredError(
                    f"{role} metadata expired at {expiries[role]:%Y-%m-%dT%H:%M:%SZ}, so nodes would refuse it",
                    hint="edgectl repo refresh",
                )

    def versions(self) -> TrustStatus:
        """What a node that has everything reports."""
        chain = self._contents().chain
        info = chain.rollout.targets.get(ASSIGNMENT_TARGET)
        return TrustStatus(
            root=chain.root.version,
            timestamp=chain.timestamp.version,
            snapshot=chain.snapshot.version,
            assignment_sha256=info.hashes["sha256"] if info else "",
            expires_ns=min(event_time_ns(s.expires.isoformat()) for s in chain.roles().values()),
        )

    def root_bytes(self) -> bytes:
        """The current root, with which a node is enrolled."""
        return self._contents().chain.roots[-1]

    def slice_for(
        self, node: str, have: frozenset[str] = frozenset(), grant: Mapping[str, bytes] | None = None
    ) -> dict[str, bytes | Path]:
        """Spool name → file, of all that `node` needs: metadata with every root, assignment, manifests, bundles.

        Bundles whose digest is in `have` are left out; the node takes them from its slots. What a `grant` signed takes
        the place of the main line's metadata.
        """
        contents = self._contents()
        chain = contents.chain
        granted = {_role(name) for name in grant or ()}
        found: dict[str, bytes | Path] = {f"metadata/{name}": raw for name, raw in (grant or {}).items()}
        found |= {f"metadata/{name}": self._metadata / name for name in chain.files if _role(name) not in granted}
        assignment = contents.assignment()
        if assignment is None:
            return found
        wanted = [(ASSIGNMENT_TARGET, chain.rollout)]
        for recipe in assignment.models:
            place = assignment.placement(recipe, node)
            if place is not None:
                wanted.append((release_target(recipe, place.version), chain.models))
                if place.sha256 not in have:
                    wanted.append((f"bundles/{place.sha256}.bundle", chain.models))
        for path, role in wanted:
            file = chains.target_file(self._targets, path, role)
            found[file.relative_to(self._folder).as_posix()] = file
        return found

    # ── signing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, now: datetime, passphrase: str | None = None) -> bool:
        """Sign an empty repository with all six keys; returns False, and changes nothing, if it is there.

        Raises:
            TrustError: a key is missing or locked.
        """
        with publishing(self._folder, now):
            if self.exists():
                return False
            keys = {role: self._keys.signer(role, passphrase).public_key for role in LIFE}
            root = Root(version=1, consistent_snapshot=True)
            for role in _TOP:
                root.add_key(keys[role], role)
            delegated: dict[str, DelegatedRole] = {
                r: DelegatedRole(r, [], 1, terminating=True, paths=paths) for r, paths in _PATHS.items()
            }
            targets = Targets(version=1, delegations=Delegations({}, delegated))
            for name in _PATHS:
                targets.add_key(keys[name], name)
            written = {"1.root.json": sign(root, "root", root, self._keys, now, passphrase)}
            snapshot = Snapshot(version=1, meta={})
            for name, signed in (("targets", targets), ("models", Targets(1)), ("rollout", Targets(1))):
                delegator = root if name == "targets" else targets
                raw = sign(signed, name, delegator, self._keys, now, passphrase)
                written[f"1.{name}.json"] = raw
                snapshot.meta[f"{name}.json"] = meta_file(1, raw)
            raw = written["1.snapshot.json"] = sign(snapshot, "snapshot", root, self._keys, now, None)
            timestamp = Timestamp(version=1, snapshot_meta=meta_file(1, raw))
            written["timestamp.json"] = sign(timestamp, "timestamp", root, self._keys, now, None)
            write_all(self._folder, {}, written)
            return True

    def add_release(
        self, release: Release, content: Mapping[str, bytes], passphrase: str | None, now: datetime
    ) -> None:
        """Sign a release and its bundles (role ``models``). Signing the very same release again changes nothing.

        Args:
            content: digest → bytes of every variant.

        Raises:
            TrustError: key missing, locked or wrong passphrase; a bundle that is missing or not what the manifest says;
                a version that exists with other content; a counter that does not rise; an unknown fallback.
        """
        raw = msgspec.json.encode(release)
        with publishing(self._folder, now):
            contents = self._contents()
            if contents.find(release.recipe, release.version) == release:
                return
            contents.check_new(release)
            publication = Publication(contents.chain, self._keys, now, passphrase)
            files = {release.target: raw}
            for ref in release.variants:
                if ref.sha256 not in content:
                    raise TrustError(f"{release.recipe} {release.version}: the {ref.variant} bundle is missing")
                check_content(release, ref, content[ref.sha256])
                files[ref.target] = content[ref.sha256]
            _place(contents.chain.models, publication, files)
            publication.add_roles("models")
            publication.write(self._folder)

    def assign(self, assignment: Assignment, now: datetime, expect_timestamp: int) -> None:
        """Sign the desired state (role ``rollout``), if nobody published since `expect_timestamp` was read.

        Raises:
            LockHeld: another operator published in between, or has signed this or a higher epoch.
            TrustError: a placement names a release, bundle or variant that is not signed; a bundle is damaged.
        """
        with publishing(self._folder, now):
            contents = self._contents()
            chain = contents.chain
            if chain.timestamp.version != expect_timestamp:
                raise LockHeld(
                    f"the repository is at version {chain.timestamp.version}, expected {expect_timestamp}:"
                    " somebody published in between",
                    reason="published-in-between",
                    hint="look at `edgectl status`, then repeat the command",
                )
            contents.check_epoch(assignment)
            for recipe, placements in assignment.models.items():
                contents.check_placements(recipe, placements)
            publication = Publication(chain, self._keys, now)
            _place(chain.rollout, publication, {ASSIGNMENT_TARGET: msgspec.json.encode(assignment)})
            publication.add_roles("rollout")
            publication.write(self._folder)

    def grant(self, now: datetime, until: datetime) -> dict[str, bytes]:
        """Metadata that lives until `until`, for nodes that get a slice by hand: name in ``metadata/`` → bytes.

        It takes the next version numbers for itself, and the main line goes on behind them at once: a node that has
        followed a grant accepts the main line later, and none accepts the grant after the main line.

        Raises:
            UsageError: a role that needs the offline keys ends before `until`.
            TrustError: an online key is missing.
        """
        with publishing(self._folder, now):
            chain = self._contents().chain
            for role in ("root", "targets", "models"):
                ends = chain.roles()[role].expires
                if ends < until:
                    raise UsageError(
                        f"a grant until {until:%Y-%m-%d} outlives the {role} metadata, which ends {ends:%Y-%m-%d}",
                        hint=f"grant at most {max(0, (ends - now).days)}d",
                    )
            outlived: tuple[Role, ...] = ("rollout",) if chain.rollout.expires < until else ()
            granted = Publication(chain, self._keys, now, until=until)
            granted.add_roles(*outlived)
            main = Publication(chain, self._keys, now)
            main.add_roles(*outlived)
            main.write(self._folder)
            return granted.metadata

    def due(self, now: datetime) -> tuple[Role, ...]:
        """Roles with less than a quarter of their life left."""
        expiries = self.expiries()
        return tuple(role for role, life in LIFE.items() if expiries[role] - now < life / 4)

    def refresh(self, now: datetime, passphrase: str | None = None) -> tuple[Role, ...]:
        """Sign anew what is `due`, as far as the keys are at hand; for cron.

        Returns:
            The roles that were signed. Roles that are still `due` need the passphrase, or a key from elsewhere.

        Raises:
            TrustError: an online key is missing; the passphrase is wrong.
        """
        with publishing(self._folder, now):
            due = [r for r in self.due(now) if r not in GUARDED or self._unlocked(r, passphrase)]
            if not due:
                return ()
            publication = Publication(self._contents().chain, self._keys, now, passphrase)
            if "root" in due:
                publication.add_root()
            inner = [role for role in due if role in ("targets", "models", "rollout")]
            if inner or "snapshot" in due:
                publication.add_roles(*inner)
            elif "timestamp" in due:
                publication.add_timestamp()
            publication.write(self._folder)
            return tuple(due)

    def _contents(self) -> Contents:
        return Contents(self._targets, chains.load(self._metadata))

    def _unlocked(self, role: Role, passphrase: str | None) -> bool:
        try:
            return not self._keys.locked(role) or bool(passphrase)
        except TrustError:  # the key is kept elsewhere
            return False


def _role(name: str) -> str:
    """``7.snapshot.json`` → ``snapshot``."""
    return name.removesuffix(".json").rpartition(".")[2]


def _place(role: Targets, publication: Publication, files: Mapping[str, bytes]) -> None:
    """Name `files` in `role` and add them to the publication."""
    for path, content in files.items():
        info = TargetFile.from_data(path, content, ["sha256"])
        role.targets[path] = info
        publication.add_target(chains.target_name(path, info.hashes["sha256"]), content)
