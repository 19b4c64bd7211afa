"""Reads the repository's current metadata with every signature and digest checked, from the roots to the delegations.

Nothing in the folder is believed: a laptop's disk, a shared directory or a git checkout may have been changed by
anybody. Expiry is not checked here, because re-signing what has expired is the operator's way out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from edgectl.core.errors import ConfigError, TrustError

S = TypeVar("S", bound=Signed)
DELEGATED = ("models", "rollout")


@dataclass(frozen=True)
class Chain:
    """The verified current state.

    Attributes:
        roots: bytes of ``1.root.json`` and on; a client that trusts any of them reaches the last.
        models, rollout: the two delegated roles.
        files: names in ``metadata/`` that a client needs.
    """

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    models: Targets
    rollout: Targets
    roots: tuple[bytes, ...]
    files: tuple[str, ...]

    def roles(self) -> dict[str, Signed]:
        """Role → its metadata, most trusted first."""
        return {
            "root": self.root,
            "targets": self.targets,
            "models": self.models,
            "rollout": self.rollout,
            "snapshot": self.snapshot,
            "timestamp": self.timestamp,
        }


def load(folder: Path) -> Chain:
    """Read and verify ``metadata/`` in `folder`.

    Raises:
        ConfigError: there is no repository.
        TrustError: a file is missing, damaged, or not signed by whom it should be; names the file.
    """
    if not (folder / "timestamp.json").exists():
        raise ConfigError(f"{folder.parent}: no repository here", hint="edgectl init")
    roots = _roots(folder)
    root = Metadata[Root].from_bytes(roots[-1]).signed
    timestamp = _verified(folder / "timestamp.json", Timestamp, root, "timestamp", None)
    snapshot = _verified(
        folder / f"{timestamp.snapshot_meta.version}.snapshot.json", Snapshot, root, "snapshot", timestamp.snapshot_meta
    )
    meta = {name: _meta(folder, snapshot, name) for name in ("targets", *DELEGATED)}
    targets = _verified(folder / f"{meta['targets'].version}.targets.json", Targets, root, "targets", meta["targets"])
    models, rollout = (
        _verified(folder / f"{meta[name].version}.{name}.json", Targets, targets, name, meta[name])
        for name in DELEGATED
    )
    files = [f"{n}.root.json" for n in range(1, len(roots) + 1)]
    files += [f"{m.version}.{name}.json" for name, m in meta.items()]
    files += [f"{snapshot.version}.snapshot.json", "timestamp.json"]
    return Chain(root, timestamp, snapshot, targets, models, rollout, tuple(roots), tuple(files))


def _roots(folder: Path) -> list[bytes]:
    roots: list[bytes] = []
    previous: Root | None = None
    while (path := folder / f"{len(roots) + 1}.root.json").exists():
        root = _verified(path, Root, previous, "root", None)
        # The new root must also be accepted by itself, else nobody could ever follow it.
        _verified(path, Root, root, "root", None)
        roots.append(_read(path))
        if root.version != len(roots):
            raise TrustError(f"{path}: says version {root.version}", reason="malformed")
        previous = root
    if not roots:
        raise TrustError(f"{folder / '1.root.json'}: is missing", reason="incomplete")
    return roots


def _meta(folder: Path, snapshot: Snapshot, role: str) -> MetaFile:
    try:
        return snapshot.meta[f"{role}.json"]
    except KeyError:
        name = folder / f"{snapshot.version}.snapshot.json"
        raise TrustError(f"{name}: does not list {role}.json", reason="malformed") from None


def _verified(path: Path, kind: type[S], delegator: Root | Targets | None, role: str, meta: MetaFile | None) -> S:
    """One file, signed as `delegator` demands, with the digest and version that `meta` promises."""
    raw = _read(path)
    try:
        if meta is not None:
            meta.verify_length_and_hashes(raw)
        metadata = Metadata[Any].from_bytes(raw)
        if not isinstance(metadata.signed, kind):
            raise TrustError(f"{path}: is {metadata.signed.type} metadata, not {role}", reason="malformed")
        if delegator is not None:
            delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except LengthOrHashMismatchError as e:
        raise TrustError(f"{path}: is not what was signed: {e}", reason="digest") from e
    except RepositoryError as e:
        raise TrustError(f"{path}: {e}", reason="unsigned") from e
    if meta is not None and metadata.signed.version != meta.version:
        raise TrustError(f"{path}: says version {metadata.signed.version}", reason="malformed")
    return metadata.signed


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise TrustError(f"{path}: is missing", reason="incomplete") from None
    except OSError as e:
        raise TrustError(f"{path}: cannot be read: {e.strerror}", reason="incomplete") from e


def target_file(folder: Path, path: str, targets: Targets) -> Path:
    """Where ``targets/`` keeps a signed target: named by its digest, so that versions live side by side.

    Raises:
        TrustError: `targets` does not sign `path`.
    """
    info = targets.targets.get(path)
    if info is None:
        raise TrustError(f"{path} is not signed", reason="unsigned")
    return folder / target_name(path, info.hashes["sha256"])


def target_name(path: str, sha256: str) -> str:
    """``a/b.json`` → ``a/<sha256>.b.json``, as TUF's consistent snapshots have it."""
    parent, slash, name = path.rpartition("/")
    return f"{parent}{slash}{sha256}.{name}"


def read_target(folder: Path, path: str, targets: Targets) -> bytes:
    """Bytes of a signed target.

    Raises:
        TrustError: not signed, missing, truncated or changed; names the file.
    """
    file = target_file(folder, path, targets)
    raw, info = _read(file), targets.targets[path]
    if len(raw) != info.length:
        raise TrustError(f"{file}: has {len(raw)} bytes, {info.length} were signed", reason="digest")
    if hashlib.sha256(raw).hexdigest() != info.hashes["sha256"]:
        raise TrustError(f"{file}: is not what was signed: its SHA-256 differs", reason="digest")
    return raw
