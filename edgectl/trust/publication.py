"""Signs new versions of metadata and puts them into the repository so that every moment in between is a valid state.

Everything is signed in memory first: a missing key or a wrong passphrase writes nothing. Then targets, delegated roles,
snapshot, and last ``timestamp.json``, the only file that is replaced: until then clients see the state before.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from edgectl_agent.core.desired import SIGNED_FIELD
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Targets

from edgectl.core.errors import LockHeld, StorageError, TrustError
from edgectl.files import write_file
from edgectl.trust.chain import DELEGATED, Chain
from edgectl.trust.keys import KeyStore, Role

_YEAR = timedelta(days=365)
LIFE: dict[Role, timedelta] = {
    "root": _YEAR,
    "targets": _YEAR,
    "models": _YEAR,
    "rollout": timedelta(days=30),
    "snapshot": timedelta(days=30),
    "timestamp": timedelta(days=7),
}
_CLOCK_TOLERANCE = timedelta(minutes=5)


class Publication:
    """New versions of some roles of a `Chain`, signed as they are added; `write` puts them in place."""

    def __init__(
        self,
        chain: Chain,
        keys: KeyStore,
        now: datetime,
        passphrase: str | None = None,
        until: datetime | None = None,
    ) -> None:
        """With `until`, what is signed lives until then, whatever the role.

        Raises `TrustError` if `now` is before what was signed last: nodes would refuse what we sign.
        """
        self._chain = chain
        self._keys = keys
        self._now = _not_before(newest_signed(chain), now)
        self._passphrase = passphrase
        self._until = until
        self._targets: dict[str, bytes] = {}
        self._metadata: dict[str, bytes] = {}

    def add_target(self, name: str, content: bytes) -> None:
        """A file for ``targets/``, under its consistent-snapshot name."""
        self._targets[name] = content

    def add_root(self) -> None:
        root = self._chain.root
        raw = self._sign("root", root)
        self._metadata[f"{root.version}.root.json"] = raw

    def add_roles(self, *roles: Role) -> None:
        """New versions of top-level targets or delegated roles, and of snapshot and timestamp over them."""
        for role in roles:
            signed = self._chain.roles()[role]
            raw = self._sign(role, signed)
            self._metadata[f"{signed.version}.{role}.json"] = raw
            self._chain.snapshot.meta[f"{role}.json"] = meta_file(signed.version, raw)
        snapshot = self._chain.snapshot
        raw = self._sign("snapshot", snapshot)
        self._metadata[f"{snapshot.version}.snapshot.json"] = raw
        self._chain.timestamp.snapshot_meta = meta_file(snapshot.version, raw)
        self.add_timestamp()

    def add_timestamp(self) -> None:
        self._metadata["timestamp.json"] = self._sign("timestamp", self._chain.timestamp)

    @property
    def metadata(self) -> dict[str, bytes]:
        """What was signed so far, by its name in ``metadata/``."""
        return dict(self._metadata)

    def write(self, folder: Path) -> None:
        """Put all in place, the timestamp last. Raises `StorageError`; clients then still see the state before."""
        write_all(folder, self._targets, self._metadata)

    def _sign(self, role: Role, signed: Signed) -> bytes:
        signed.version += 1
        delegator: Root | Targets = self._chain.targets if role in DELEGATED else self._chain.root
        return sign(signed, role, delegator, self._keys, self._now, self._passphrase, self._until)


def sign(
    signed: Signed,
    role: Role,
    delegator: Root | Targets,
    keys: KeyStore,
    now: datetime,
    passphrase: str | None,
    until: datetime | None = None,
) -> bytes:
    """Metadata bytes that live from `now` for the role's `LIFE`, or until `until`.

    Raises:
        TrustError: as `KeyStore.signer` does, and if `delegator` does not name our key for `role`.
    """
    signer = keys.signer(role, passphrase)
    if signer.public_key.keyid not in delegator.get_delegated_role(role).keyids:
        raise TrustError(
            f"the key of role {role} is not the one that this repository names",
            reason="foreign-key",
            hint="these keys belong to another fleet",
        )
    signed.expires = (until or now + LIFE[role]).replace(microsecond=0)
    signed.unrecognized_fields[SIGNED_FIELD] = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata = Metadata[Any](signed)
    metadata.sign(signer)
    return metadata.to_bytes()


def write_all(folder: Path, targets: Mapping[str, bytes], metadata: Mapping[str, bytes]) -> None:
    """Files of a publication in crash-safe order. Raises `StorageError`."""
    for stale in (*folder.glob("targets/**/.*.tmp"), *folder.glob("metadata/.*.tmp")):
        stale.unlink(missing_ok=True)  # of a publication that was killed
    for name, content in targets.items():
        write_file(folder / "targets" / name, content)
    for name in sorted(metadata, key=lambda name: (name == "timestamp.json", "snapshot" in name)):
        write_file(folder / "metadata" / name, metadata[name])


def meta_file(version: int, raw: bytes) -> MetaFile:
    """What snapshot and timestamp say of a metadata file: version, length and digest."""
    return MetaFile.from_data(version, raw, ["sha256"])


def newest_signed(chain: Chain) -> datetime:
    """When any current metadata was last signed."""
    times = [s.unrecognized_fields.get(SIGNED_FIELD) for s in chain.roles().values()]
    return max((datetime.fromisoformat(t) for t in times if t), default=datetime.fromtimestamp(0, UTC))


def _not_before(newest: datetime, now: datetime) -> datetime:
    if now < newest - _CLOCK_TOLERANCE:
        raise TrustError(
            f"this machine's clock says {now:%Y-%m-%d %H:%M}, but the repository was signed at {newest:%Y-%m-%d %H:%M}",
            reason="clock",
            hint="set the clock",
        )
    return max(newest, now)


@contextmanager
def publishing(folder: Path, now: datetime) -> Iterator[None]:
    """One writer at a time, across processes; the kernel lets go when the holder dies.

    Raises:
        LockHeld: another process publishes; says who and since when.
        StorageError: the folder cannot be written.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as e:
        raise StorageError(f"{path}: cannot be written: {e.strerror}") from e
    with open(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise LockHeld(f"{folder}: {_holder(file.read())} is publishing", hint="retry in a moment") from e
        file.truncate(0)
        who = f"{getpass.getuser()}@{socket.gethostname()} (process {os.getpid()})"
        file.write(json.dumps({"who": who, "since": f"{now:%Y-%m-%d %H:%M:%S} UTC"}))
        file.flush()
        yield


def _holder(text: str) -> str:
    try:
        said = json.loads(text)
        return f"since {said['since']} {said['who']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
