"""What the signed repository wants a web server to hold, now and as of an earlier snapshot."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edgectl.core.errors import LockHeld, TrustError
from edgectl.trust import chain as chains

TIMESTAMP = "metadata/timestamp.json"
_SNAPSHOT = re.compile(r"metadata/(\d+)\.snapshot\.json")
_OURS = re.compile(
    r"metadata/(\d+\.(root|targets|models|rollout|snapshot)\.json)|targets/(bundles|releases|assignments)/.+"
)


@dataclass(frozen=True)
class State:
    """The repository as it is, verified.

    Attributes:
        folder: where it lies.
        files: all that clients need, each before whatever names it; the timestamp is the last.
    """

    folder: Path
    chain: chains.Chain
    files: tuple[str, ...]

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def timestamp(self) -> bytes:
        return self.path(TIMESTAMP).read_bytes()


def read(folder: Path) -> State:
    """The verified state in `folder`. Raises `TrustError` and `ConfigError` as `edgectl.trust.chain.load`."""
    chain = chains.load(folder / "metadata")
    targets = _targets(folder, chain.models) + _targets(folder, chain.rollout)
    rank = {"root": 2, "snapshot": 1}  # a root last: until the timestamp follows, its new keys have signed nothing
    metadata = sorted(
        (name for name in chain.files if name != "timestamp.json"), key=lambda name: rank.get(name.split(".")[1], 0)
    )
    return State(folder, chain, (*targets, *(f"metadata/{name}" for name in metadata), TIMESTAMP))


def needed_by(folder: Path, snapshot: int) -> frozenset[str]:
    """Files that a client needs who has seen the snapshot of that version, without roots and timestamp.

    Raises:
        TrustError: the repository no longer has that snapshot or what it names.
    """
    metadata = folder / "metadata"
    try:
        name = f"{snapshot}.snapshot.json"
        meta = Metadata[Snapshot].from_bytes((metadata / name).read_bytes()).signed.meta
        names = {role: f"{meta[f'{role}.json'].version}.{role}.json" for role in ("targets", *chains.DELEGATED)}
        roles = [Metadata[Targets].from_bytes((metadata / names[r]).read_bytes()).signed for r in chains.DELEGATED]
    except (OSError, KeyError, RepositoryError) as e:
        raise TrustError(
            f"{folder}: does not hold what its snapshot {snapshot} needed: {e}", reason="incomplete"
        ) from e
    targets = [target for role in roles for target in _targets(folder, role)]
    return frozenset([f"metadata/{n}" for n in (name, *names.values())] + targets)


def check_place(where: str, theirs: bytes | None, their_root: bytes | None, ours: State) -> int | None:
    """The version of the snapshot that is published, if ours may follow it; None if nothing is published.

    Args:
        theirs, their_root: the published ``timestamp.json`` and ``1.root.json``.

    Raises:
        TrustError: what is published there is another fleet's, or was altered.
        LockHeld: it is newer than this repository, or a fork: somebody else has published.
    """
    if their_root is not None and their_root != ours.chain.roots[0]:
        raise TrustError(f"{where}: holds the repository of another fleet", hint="publish elsewhere", reason="fleet")
    if theirs is None or theirs == ours.timestamp:
        return None if theirs is None else ours.chain.snapshot.version
    published = _timestamp(where, theirs, ours.chain.roots)
    mine, other = ours.chain.timestamp.version, published.version
    if other > mine:
        raise LockHeld(
            f"{where}: holds version {other}, this repository is at {mine}: somebody else has published",
            reason="published-newer",
            hint="work in the repository that signed it, or bring it here",
        )
    snapshot = published.snapshot_meta
    local = ours.folder / "metadata" / f"{snapshot.version}.snapshot.json"
    known = local.exists() and hashlib.sha256(local.read_bytes()).hexdigest() == (snapshot.hashes or {}).get("sha256")
    if not known or other == mine:
        raise LockHeld(
            f"{where}: its version {other} was not signed in this repository: two operators have signed",
            reason="published-fork",
            hint="keep the repository that the nodes follow (`edgectl audit` names it), and publish that one",
        )
    return snapshot.version


def version_of(timestamp: bytes | None) -> int:
    """The version that a timestamp which was checked says; 0 without one."""
    return Metadata[Timestamp].from_bytes(timestamp).signed.version if timestamp is not None else 0


def superfluous(names: Iterable[str], state: State) -> tuple[str, ...]:
    """Files among the published `names` that neither the current nor the previous metadata need; foreign files stay."""
    names = tuple(names)
    current = state.chain.snapshot.version
    older = sorted(int(m.group(1)) for m in map(_SNAPSHOT.fullmatch, names) if m and int(m.group(1)) < current)
    keep = set(state.files) | (needed_by(state.folder, older[-1]) if older else set())
    roots = {name for name in names if name.endswith(".root.json")}
    return tuple(sorted(name for name in names if _OURS.fullmatch(name) and name not in keep | roots))


def _targets(folder: Path, role: Targets) -> list[str]:
    files = (chains.target_file(folder / "targets", path, role) for path in role.targets)
    return [file.relative_to(folder).as_posix() for file in files]


def _timestamp(where: str, raw: bytes, roots: tuple[bytes, ...]) -> Timestamp:
    """A timestamp that any of our roots' keys has signed."""
    try:
        metadata = Metadata[Timestamp].from_bytes(raw)
    except RepositoryError as e:
        raise TrustError(f"{where}: its timestamp.json is no signed metadata: {e}", reason="malformed") from e
    for root in reversed(roots):
        try:
            Metadata[Root].from_bytes(root).signed.verify_delegate(
                Timestamp.type, metadata.signed_bytes, metadata.signatures
            )
        except RepositoryError:
            continue
        return metadata.signed
    raise TrustError(
        f"{where}: its timestamp.json is signed by another fleet, or was altered",
        hint="publish elsewhere",
        reason="fleet",
    )
