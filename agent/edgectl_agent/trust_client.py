"""The child process that verifies an update: ``python -m edgectl_agent.trust_client DATA_DIR NODE --now NS``.

Reads what the node runs (`Standing`, JSON) on standard input and the spool, ``trust/`` and ``slots/`` below DATA_DIR.
Writes ``trust/metadata/`` (python-tuf's cache), ``trust/floor.json``, and for every bundle that should be installed
``staging/<recipe>/{bundle.bin,release.json}``. Standard output has a ``# doing …`` line per step, and last a `Verdict`.

A process of its own, because it handles hostile bytes: limits on memory, processor time and wall time end it without
harm to the detection that goes on in the parent, and the 80 MB that TUF and a second ONNX Runtime take are gone after.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp

from edgectl_agent.admission import admit
from edgectl_agent.checked import write_all
from edgectl_agent.confinement import Limits, confine
from edgectl_agent.core import bundle as bundles
from edgectl_agent.core.airgap import Collected
from edgectl_agent.core.desired import (
    SIGNED_FIELD,
    Floor,
    Refreshed,
    Staged,
    Standing,
    Verdict,
    Wanted,
    accept_epoch,
    check_bundle,
    check_release,
    raise_floor,
    wanted,
)
from edgectl_agent.core.errors import AdmissionError, AttackError, EdgeError, ExpiredError, StorageError, TrustError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import ASSIGNMENT_TARGET, Assignment, Release, release_target
from edgectl_agent.core.units import event_time_ns
from edgectl_agent.floorfile import FloorFile
from edgectl_agent.ngclient import Updater as TufUpdater
from edgectl_agent.receipt import collected
from edgectl_agent.spool import METADATA_URL, TARGET_URL, UNSAFE_HINT, SpoolFetcher, UnsafeSpool

MAX_MANIFEST_BYTES = 256 * 1024
MAX_ASSIGNMENT_BYTES = 32 * 1024 * 1024


_ROLES = (Root.type, Timestamp.type, Snapshot.type, Targets.type, "models", "rollout")
T = TypeVar("T")


class TrustClient:
    """One verification of a spool: metadata, assignment, manifests, bundles."""

    def __init__(self, data_dir: Path, node: str, now_ns: int, say: Callable[[str], None]) -> None:
        self._data_dir = data_dir
        self._node = node
        self._now_ns = now_ns
        self._say = say
        self._fetcher = SpoolFetcher(data_dir / "spool")
        self._floors = FloorFile(data_dir / "trust" / "floor.json")
        self._floor = Floor()
        self._collected: Collected | None = None

    def run(self, standing: Standing) -> Verdict:
        """Verify everything; a refusal is a `Verdict` with an exit code. Raises only what is this process's
        own failure: a bug, or too little memory."""
        try:
            staged = self._verify(standing)
        except EdgeError as e:
            return self._verdict(reason=e.reason, message=str(e), exit_code=e.exit_code)
        except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as e:
            _unless_starved(e)
            error = _translate(e, self._fetcher.last)
            return self._verdict(reason=error.reason, message=str(error), exit_code=error.exit_code)
        except OSError as e:
            _unless_starved(e)
            message = f"{e.filename or self._data_dir}: {e.strerror or e}"
            return self._verdict(reason=StorageError.reason, message=message, exit_code=StorageError.exit_code)
        return self._verdict(staged=staged)

    def _verdict(
        self, *, staged: tuple[Staged, ...] = (), reason: str = "", message: str = "", exit_code: int = 0
    ) -> Verdict:
        floor = self._floor
        return Verdict(
            staged=staged,
            epoch=floor.epoch,
            trust=floor.trust_status(),
            collected=self._collected,
            reason=reason,
            message=message,
            exit_code=exit_code,
        )

    def _verify(self, standing: Standing) -> tuple[Staged, ...]:
        self._say("verifying metadata")
        self._floor = self._floors.read()
        client = self._client()
        client.refresh()
        target = client.get_targetinfo(ASSIGNMENT_TARGET)
        self._keep(raise_floor(self._floor, _found(client), self._now_ns))
        self._collected = collected(self._data_dir / "spool", client._trusted_set.targets, self._node)
        if target is None:
            return ()
        assignment = self._assignment(client, target)
        staged = tuple(self._fetch(client, want) for want in wanted(assignment, self._node, standing))
        for item in staged:
            self._admit(item)
        return staged

    def _client(self) -> TufUpdater:
        trust = self._data_dir / "trust"
        try:
            bootstrap = (trust / "root.json").read_bytes()
        except FileNotFoundError:
            raise TrustError(
                f"{trust / 'root.json'}: no such file: this node trusts nobody yet", reason="not-enrolled"
            ) from None
        metadata = trust / "metadata"
        metadata.mkdir(parents=True, exist_ok=True)
        client = TufUpdater(
            str(metadata),
            METADATA_URL,
            target_base_url=TARGET_URL,
            fetcher=self._fetcher,
            bootstrap=bootstrap,
        )
        # The shim for the time floor. python-tuf 7.0.1 reads the clock once, here, and has no argument for it; without
        # a battery clock a node wakes up in 1970, when nothing has expired. So the time is the newest one that anybody
        # trusted ever signed, if the clock is behind it.
        time_ns = max(self._now_ns, self._floor.newest_signed_ns)
        client._trusted_set.reference_time = datetime.fromtimestamp(time_ns / 1e9, UTC)
        return client

    def _keep(self, floor: Floor) -> None:
        """Write the floor before anything that rests on it is done."""
        if floor != self._floor:
            self._floors.write(floor)
            self._floor = floor

    def _assignment(self, client: TufUpdater, target: TargetFile) -> Assignment:
        if target.length > MAX_ASSIGNMENT_BYTES:
            raise TrustError(f"assignment has {target.length} bytes, more than {MAX_ASSIGNMENT_BYTES}")
        raw = self._download(client, target, self._staging() / "assignment.json")
        assignment = _decode(raw, Assignment, "assignment")
        self._keep(accept_epoch(self._floor, assignment, bundles.digest(raw), self._node))
        return assignment

    def _fetch(self, client: TufUpdater, want: Wanted) -> Staged:
        """Bring manifest and bundle of one placement into the staging folder, verified, not yet admitted."""
        place = want.placement
        self._say(f"fetching {want.recipe} {place.version}")
        folder = self._staging() / want.recipe
        manifest = self._target(client, release_target(want.recipe, place.version))
        self._keep(raise_floor(self._floor, _found(client), self._now_ns))
        if manifest.length > MAX_MANIFEST_BYTES:
            raise TrustError(f"{manifest.path} has {manifest.length} bytes, more than {MAX_MANIFEST_BYTES}")
        release = _decode(self._download(client, manifest, folder / "release.json"), Release, manifest.path)
        length = check_release(want, release, self._floor)
        if length > bundles.MAX_BUNDLE_BYTES:
            raise AdmissionError(f"bundle has {length} bytes, more than {bundles.MAX_BUNDLE_BYTES}", reason="oversized")
        info = self._target(client, f"bundles/{place.sha256}.bundle")
        if info.length != length:
            raise AttackError(
                f"{info.path} has {info.length} bytes, its manifest says {length}", reason="mix-and-match"
            )
        raw = self._held(client, info)
        if raw is None:
            raw = self._download(client, info, folder / "bundle.bin")
        else:
            (folder / "bundle.bin").write_bytes(raw)
        if bundles.digest(raw) != place.sha256:
            raise AttackError(f"{info.path} is signed with another content's digest", reason="mix-and-match")
        return Staged(recipe=want.recipe, version=place.version, variant=place.variant, bundle=place.sha256)

    def _admit(self, item: Staged) -> None:
        self._say(f"admitting {item.recipe} {item.version} ({item.bundle[:12]})")
        bundle = bundles.decode((self._staging() / item.recipe / "bundle.bin").read_bytes())
        check_bundle(item.recipe, item.variant, bundle)
        admit(bundle)

    def _target(self, client: TufUpdater, path: str) -> TargetFile:
        found = client.get_targetinfo(path)
        if found is None:
            raise TrustError(f"{path} is placed on this node, but no trusted role signs it", reason="unsigned")
        return found

    def _held(self, client: TufUpdater, target: TargetFile) -> bytes | None:
        """The bundle from a slot that has it: a push leaves out what the node holds already."""
        for held in self._data_dir.glob("slots/*/[ab]/bundle.bin"):
            if client.find_cached_target(target, str(held)):
                return held.read_bytes()
        return None

    def _download(self, client: TufUpdater, target: TargetFile, into: Path) -> bytes:
        """Bytes of a target in the spool that have their signed length and digest."""
        into.parent.mkdir(parents=True, exist_ok=True)
        return Path(client.download_target(target, str(into))).read_bytes()

    def _staging(self) -> Path:
        return self._data_dir / "staging"


def _found(client: TufUpdater) -> Refreshed:
    """Versions, ends and signing times of all metadata that the client has verified."""
    trusted = client._trusted_set
    loaded = {name: trusted[name] for name in _ROLES if name in trusted}
    signed = [s.unrecognized_fields.get(SIGNED_FIELD) for s in loaded.values()]
    try:
        times = [event_time_ns(s) for s in signed if isinstance(s, str)]
    except ValueError as e:
        raise TrustError(f"metadata says when it was signed in an unknown form: {e}", reason="malformed") from e
    return Refreshed(
        versions={name: s.version for name, s in loaded.items()},
        expires_ns={name: event_time_ns(s.expires.isoformat()) for name, s in loaded.items()},
        signed_ns=max(times, default=0),
        signers={role: tuple(sorted(trusted.root.roles[role].keyids)) for role in (Timestamp.type, Snapshot.type)},
    )


def _decode(raw: bytes, into: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(raw, type=into)
    except UNREADABLE as e:
        raise TrustError(f"{name} does not decode: {e}", reason="malformed") from e


def _unless_starved(error: BaseException) -> None:
    """Raise what `error` comes from, if that is this process: too little memory, for which python-tuf calls metadata
    malformed and an import looks like a bad disk."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | ImportError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            raise cause
        cause = cause.__cause__ or cause.__context__


def _translate(error: Exception, file: str) -> EdgeError:
    """python-tuf's errors in our words; `file` is what it read last from the spool."""
    text = f"{file}: {error}"
    if isinstance(error, tuf_errors.ExpiredMetadataError):
        return ExpiredError(text)
    if isinstance(error, tuf_errors.BadVersionNumberError):
        return AttackError(text, reason="rollback")
    if isinstance(error, tuf_errors.UnsignedMetadataError):
        return TrustError(text, reason="unsigned")
    if isinstance(error, tuf_errors.LengthOrHashMismatchError | tuf_errors.DownloadLengthMismatchError):
        return TrustError(text, reason="digest")
    if isinstance(error, UnsafeSpool):
        return TrustError(str(error), reason="unsafe-path", hint=UNSAFE_HINT)
    if isinstance(error, tuf_errors.DownloadHTTPError):
        return TrustError(str(error), reason="incomplete", hint="push it again")
    if isinstance(error, tuf_errors.DownloadError):
        return StorageError(text)
    return TrustError(text, reason="malformed")


def judge(data_dir: Path, node: str, now_ns: int, standing: Standing, write: Callable[[bytes], None]) -> None:
    """The whole of the child's work: writes a ``# doing …`` line per step, and last the `Verdict` as a line of JSON."""
    staging = data_dir / "staging"
    staging.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(staging)  # python-tuf downloads into temporary files; a node may write nowhere but here
    client = TrustClient(data_dir, node, now_ns, lambda doing: write(f"# {doing}\n".encode()))
    write(msgspec.json.encode(client.run(standing)) + b"\n")


def main(arguments: list[str]) -> int:
    """Verify, print the verdict; 0 unless this program is broken."""
    parser = argparse.ArgumentParser(prog="edgectl_agent.trust_client")
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("node")
    parser.add_argument("--now", type=int, required=True, help="nanoseconds since 1970, UTC")
    parser.add_argument("--memory", type=int, default=1 << 30, help="bytes of address space")
    parser.add_argument("--cpu", type=int, default=60, help="seconds of processor time")
    parser.add_argument("--wall", type=int, default=120, help="seconds until it ends itself")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process that it ends with")
    given = parser.parse_args(arguments)
    confine(Limits(given.memory, given.cpu, given.wall), given.parent)
    standing = msgspec.json.decode(sys.stdin.buffer.read(), type=Standing)
    judge(given.data_dir, given.node, given.now, standing, lambda said: write_all(1, said))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
