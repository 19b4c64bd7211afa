"""Polls a TUF repository on any static web server into the spool, and has the agent look at it when it changed.

``timestamp.json`` is asked for conditionally. Only if it is new: the roots that follow, snapshot, targets, the
delegated roles, the assignment, and the manifests and bundles that this node is placed on and lacks. The timestamp goes
into the spool last, so that a poll that was killed is done again; what is whole in the spool is not fetched again.

Nothing here decides what runs. It is the verifying child that trusts or refuses what lies in the spool.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from edgectl_agent.beneath import Beneath
from edgectl_agent.core import listing
from edgectl_agent.core.bundle import MAX_BUNDLE_BYTES
from edgectl_agent.core.errors import TrustError
from edgectl_agent.core.listing import FileInfo, Wanted
from edgectl_agent.core.messages import UPDATE_REFUSED, UpdateResult
from edgectl_agent.uplink import download
from edgectl_agent.uplink.download import status_error
from edgectl_agent.uplink.interface import Errand, UplinkError
from edgectl_agent.uplink.web import Web

TIMESTAMP = "metadata/timestamp.json"
_MOST_ROOTS = 64
"""Per poll; the next one goes on."""
_MAX_TARGET_BYTES = max(MAX_BUNDLE_BYTES, 32 * 1024 * 1024)
_STALE_S = 3600.0
"""What nothing names any more is kept so long: somebody else may be filling the spool just now."""


class Poller(Errand):
    """One repository. `attempt` is the loop's; `poll` and `order` tell what became of it."""

    name = "repository"

    def __init__(
        self,
        url: str,
        web: Web,
        data_dir: Path,
        node: str,
        held: Callable[[], frozenset[str]],
        update: Callable[[], UpdateResult],
    ) -> None:
        """`held`: digests of the bundles in the slots; `update`: what ``POST /v1/update`` does."""
        self._url, self._web, self._node = url.rstrip("/"), web, node
        self._spool, self._bootstrap = Beneath(data_dir / "spool"), data_dir / "trust" / "root.json"
        self._held, self._update = held, update
        self._seen, self._etag = b"", ""
        """The timestamp whose update is settled on this boot, and what the server calls it. Never one that was only
        fetched: what it leads to might be missing, and the next poll would be told that nothing is new."""
        self._lock = threading.Lock()

    def attempt(self) -> bool:
        """Poll once. Raises `UplinkError`, also for an update that was refused."""
        result = self.poll()
        if result is not None and result.state == "refused":
            why = result.message or result.reason
            if result.exit_code == UplinkError.exit_code:
                raise UplinkError(f"update put off: {why}")
            raise UplinkError(f"{UPDATE_REFUSED}{why}", act=True)
        return False

    def poll(self) -> UpdateResult | None:
        """Fetch what is new and have it applied; None if nothing is new. Raises `UplinkError`."""
        with self._lock:
            try:
                found = self._timestamp()
                if found is None:
                    return None
                self._follow(found[0])
            except TrustError as e:  # not what a repository holds; nothing was judged by it
                raise UplinkError(f"{self._url}: {e.message}", act=True) from e
            except OSError as e:
                raise UplinkError(
                    f"{e.filename or self._spool.root}: cannot be written: {e.strerror or e}", act=True
                ) from e
            self.news()
            result = self._update()
            # After a refusal all of it is looked at again next time.
            self._seen, self._etag = (b"", "") if result.state == "refused" else found
            return result

    def order(self) -> UpdateResult:
        """Poll, and say how it stands, also if nothing was new. Never raises a deliberate error."""
        try:
            return self.poll() or self._update()
        except UplinkError as e:
            return UpdateResult(state="refused", reason=e.reason, message=str(e), exit_code=e.exit_code)

    def close(self) -> None:
        self._web.close()

    # ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _timestamp(self) -> tuple[bytes, str] | None:
        """The repository's timestamp and its ETag; None if it is the one that is settled."""
        limit = listing.LIMITS["timestamp"]
        conditional = {"If-None-Match": self._etag} if self._etag else {}
        url = self._at(TIMESTAMP)
        with self._web.get(url, {"Cache-Control": "no-cache", **conditional}, limit) as reply:
            if reply.status == 304 and conditional:
                return None
            if reply.status != 200:
                raise status_error(reply, url)
            raw = reply.read(limit)
            etag = reply.headers.get("etag", "")[:200]
        return None if raw == self._seen else (raw, etag)

    def _follow(self, timestamp: bytes) -> None:
        """Have in the spool what `timestamp` leads to, and it itself last."""
        info = listing.file_of(timestamp, "timestamp", "snapshot")
        self._roots()
        names = {TIMESTAMP, f"metadata/{info.version}.snapshot.json"}
        snapshot = self._metadata("snapshot", info)
        signed = {}
        for role in ("targets", *listing.DELEGATED):
            listed = listing.file_of(snapshot, "snapshot", role)
            names.add(f"metadata/{listed.version}.{role}.json")
            signed[role] = self._metadata(role, listed)
        for wanted in self._targets(signed):
            names.add(wanted.name)
            self._target(wanted)
        self._put(TIMESTAMP, timestamp)
        self._prune(names)

    def _targets(self, signed: dict[str, bytes]) -> list[Wanted]:
        """Assignment, manifests and bundles that concern this node; the assignment is fetched to know the others."""
        assignment = listing.assignment(listing.targets(signed["rollout"], "rollout"))
        if assignment is None:
            return []
        self._target(assignment)
        places = listing.placed(self._spool.read(assignment.name), self._node)
        if not places:
            return [assignment]
        models, have = listing.targets(signed["models"], "models"), self._held()
        found = [assignment]
        for recipe, version, sha256 in places:
            found.append(listing.release(models, recipe, version))
            if sha256 not in have:
                found.append(listing.bundle(models, sha256))
        return found

    def _roots(self) -> None:
        """Every root after the one that this node was enrolled with; the first that is missing ends the chain."""
        try:
            version = listing.root_version(self._bootstrap.read_bytes())
        except FileNotFoundError as e:
            raise UplinkError(
                f"{self._bootstrap}: no such file: this node trusts nobody yet", act=True, hint="enrol it"
            ) from e
        while self._spool.exists(f"metadata/{version + 1}.root.json"):
            version += 1
        for following in range(version + 1, version + 1 + _MOST_ROOTS):
            name, limit = f"metadata/{following}.root.json", listing.LIMITS["root"]
            with self._web.get(self._at(name), length=limit) as reply:
                if reply.status in (403, 404):  # some stores say 403 of what is not there
                    return
                if reply.status != 200:
                    raise status_error(reply, self._at(name))
                raw = reply.read(limit)
            found = listing.root_version(raw)
            if found != following:
                raise TrustError(f"{name} says that it is version {found}", reason="malformed")
            self._put(name, raw)

    def _metadata(self, role: str, info: FileInfo) -> bytes:
        """One version of `role`'s metadata, from the spool if it is there."""
        name, limit = f"metadata/{info.version}.{role}.json", listing.LIMITS[role]
        if info.length is not None and info.length > limit:
            raise TrustError(f"{role} metadata has {info.length} bytes, more than {limit}", reason="oversized")
        if info.hashes is not None and info.length is not None:
            self._target(Wanted(name=name, sha256=info.hashes.sha256, length=info.length))
            return self._spool.read(name)
        with self._web.get(self._at(name), length=limit) as reply:  # its digest is not said: fetched anew each time
            if reply.status != 200:
                raise status_error(reply, self._at(name))
            raw = reply.read(limit)
        self._put(name, raw)
        return raw

    def _target(self, wanted: Wanted) -> None:
        if wanted.length > _MAX_TARGET_BYTES:
            raise TrustError(
                f"{wanted.name} has {wanted.length} bytes, more than {_MAX_TARGET_BYTES}", reason="oversized"
            )
        if not download.held(self._spool, wanted):
            download.fetch(self._web, self._at(wanted.name), self._spool, wanted)

    def _put(self, name: str, raw: bytes) -> None:
        with self._spool.replacing(name) as file:
            file.write(raw)

    def _prune(self, needed: set[str]) -> None:
        """Delete what no state of the repository that a node may still follow names; roots stay."""
        before = time.time() - _STALE_S

        def stale(name: str, found: os.stat_result) -> bool:
            ours = name.startswith(("metadata/", "targets/")) and not name.endswith(".root.json")
            return ours and name not in needed and found.st_mtime < before

        self._spool.remove(stale)

    def _at(self, name: str) -> str:
        return f"{self._url}/{quote(name)}"
