"""Drives an update: verify in a child process, stage into the free slots, hand over what to activate, make it durable.

The caller (the runtime, from a worker thread) goes::

    found = updater.prepare(now_ns)            # or updater.rollback(recipe, epoch, reason)
    if isinstance(found, UpdateResult): report it        # unchanged or refused: nothing changed
    else:
        try:    load every found.activations[i].bundle_raw, run its golden vectors
        except EdgeError as e: report updater.abandon(found, e)       # what ran keeps running
        updater.commit(found)                  # slots flipped, floors raised; StorageError: what ran keeps running
        swap the loaded models in, confirm

No hostile byte is parsed in this process: signatures, metadata, ONNX and golden vectors are the child's business, which
has a memory limit, a CPU limit and a deadline.
"""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from edgectl_agent.confinement import Limits
from edgectl_agent.core import allowed, updates
from edgectl_agent.core import bundle as bundles
from edgectl_agent.core.airgap import Collected
from edgectl_agent.core.allowed import Rule
from edgectl_agent.core.bundle import Variant
from edgectl_agent.core.desired import Floor, Running, Staged, Standing, Verdict
from edgectl_agent.core.errors import AttackError, EdgeError, StorageError, UsageError
from edgectl_agent.core.messages import Epoch, TrustStatus, UpdateResult
from edgectl_agent.floorfile import FloorFile
from edgectl_agent.forked import AtRest
from edgectl_agent.slots import SlotContent, Slots
from edgectl_agent.verification import verify

_NOTHING = "0" * 64
"""A digest that no bundle has."""


@dataclass(frozen=True)
class Activation:
    """One bundle to load, check and swap in."""

    recipe: str
    version: str
    variant: Variant
    digest: str
    bundle_raw: bytes = field(repr=False)


@dataclass(frozen=True)
class Prepared:
    """Verified, admitted and on disk, not yet active. Valid until the next request."""

    kind: Literal["update", "rollback"]
    serial: int
    activations: tuple[Activation, ...]
    epoch: Epoch | None
    trust: TrustStatus | None
    reason: str = ""


class Updater:
    """One per agent; methods may be called from any thread, and one request runs at a time."""

    def __init__(
        self, data_dir: Path, node: str, slots: Slots, limits: Limits | None = None, at_rest: AtRest | None = None
    ) -> None:
        """`limits` of the verifying child, which is forked if `at_rest` says when (see `forked.run`)."""
        self._data_dir = data_dir
        self._node = node
        self._slots = slots
        self._limits, self._at_rest = limits or Limits(), at_rest
        self._floor = FloorFile(data_dir / "trust" / "floor.json")
        self._lock = threading.Lock()
        self._state: updates.State = "idle"
        self._serial = 0
        self.collected: Collected | None = None
        """What the operator has stored of this node's alerts, as the last verified spool says."""

    @property
    def state(self) -> updates.State:
        return self._state

    def trust(self) -> TrustStatus | None:
        """Highest trusted versions, for reports; None before the first update. Raises `StorageError`."""
        return self._floor.read().trust_status()

    def epoch(self) -> Epoch | None:
        """Newest accepted epoch; None before the first update. Raises `StorageError`."""
        return self._floor.read().epoch

    def allowed(self) -> tuple[Rule, ...]:
        """What this node's actions may do, as the newest accepted assignment says. Raises `StorageError`."""
        return allowed.read(self._floor.read().allow)

    def prepare(self, now_ns: int) -> Prepared | UpdateResult:
        """Verify what lies in the spool and stage what this node should run.

        Never raises a deliberate error: a refusal is an `UpdateResult` with reason and exit code. `now_ns` is the
        node's clock.
        """
        if not self._lock.acquire(blocking=False):
            return _refusal(StorageError("another update is being verified", reason="busy", hint="retry"))
        try:
            self._to("requested")
            verdict = verify(self._data_dir, self._node, now_ns, self._standing(), self._limits, self._at_rest)
            self.collected = verdict.collected
            if verdict.exit_code or not verdict.staged:
                self._to("refused" if verdict.exit_code else "unchanged")
                return _answer(verdict)
            self._to("verified")
            activations = tuple(self._stage(staged, verdict) for staged in verdict.staged)
            self._to("staged")
            return self._prepared("update", activations, verdict.epoch, verdict.trust)
        except EdgeError as e:
            self._to("failed")
            return _refusal(e)
        finally:
            shutil.rmtree(self._data_dir / "staging", ignore_errors=True)
            self._lock.release()

    def rollback(self, recipe: str, epoch_number: int, reason: str) -> Prepared | UpdateResult:
        """Decide the return to the other slot's bundle, which needs no network and no new signature.

        `epoch_number` is the command's epoch (0: the newest one seen here). What runs now is quarantined at `commit`:
        refused until a higher epoch. Refused: a lower epoch than seen, no other bundle, a bundle that the running
        release does not permit to return to.
        """
        if not self._lock.acquire(blocking=False):
            return _refusal(StorageError("an update is being verified", reason="busy", hint="retry"))
        try:
            self._to("reverting")
            floor = self._floor.read()
            activation = _activation(recipe, self._fallback(recipe, epoch_number, floor))
            self._to("permitted")
            seen = floor.epoch or Epoch(number=0, operator="")
            epoch = msgspec.structs.replace(seen, number=max(seen.number, epoch_number))
            return self._prepared("rollback", (activation,), epoch, floor.trust_status(), reason)
        except EdgeError as e:
            self._to("failed")
            return _refusal(e)
        finally:
            self._lock.release()

    def commit(self, prepared: Prepared) -> None:
        """Make `prepared` what runs after a restart. Call it when its bundles are loaded, before they are swapped in.

        Raises:
            StorageError: the disk refuses; what ran is still what runs after a restart, or with several recipes part of
                it, and the next `prepare` continues.
            UsageError: `prepared` was superseded by a later request.
        """
        with self._lock:
            self._require(prepared)
            self._to("committing")
            try:
                if prepared.kind == "rollback":
                    self._commit_rollback(prepared)
                else:
                    for activation in prepared.activations:
                        self._slots.activate(activation.recipe)
                self._raise_counters()
            except EdgeError:
                self._to("failed")
                raise
            self._to("done")

    def abandon(self, prepared: Prepared, error: EdgeError) -> UpdateResult:
        """Give `prepared` up because its bundles do not load or pass here; the answer to report."""
        with self._lock:
            self._require(prepared)
            self._to("abandoned")
        return _refusal(error, prepared.epoch, prepared.trust)

    # ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _to(self, event: updates.Event) -> None:
        self._state = updates.after(self._state, event)

    def _prepared(
        self,
        kind: Literal["update", "rollback"],
        activations: tuple[Activation, ...],
        epoch: Epoch | None,
        trust: TrustStatus | None,
        reason: str = "",
    ) -> Prepared:
        self._serial += 1
        return Prepared(kind, self._serial, activations, epoch, trust, reason)

    def _require(self, prepared: Prepared) -> None:
        if self._state != "prepared" or prepared.serial != self._serial:
            raise UsageError("this update was superseded by a later request", reason="superseded")

    def _standing(self) -> Standing:
        running = {}
        for recipe in self._slots.recipes():
            active = self._slots.active(recipe)
            if active is not None:
                running[recipe] = _running(active)
        return Standing(running=running, quarantined=self._slots.quarantined())

    def _stage(self, staged: Staged, verdict: Verdict) -> Activation:
        folder = self._data_dir / "staging" / staged.recipe
        try:
            raw, release_raw = (folder / "bundle.bin").read_bytes(), (folder / "release.json").read_bytes()
        except OSError as e:
            raise StorageError(f"{folder}: cannot be read: {e}") from e
        if bundles.digest(raw) != staged.bundle:
            raise StorageError(f"{folder / 'bundle.bin'}: damaged after it was verified")
        self._slots.stage(staged.recipe, raw, release_raw, epoch=verdict.epoch)
        return Activation(staged.recipe, staged.version, staged.variant, staged.bundle, raw)

    def _fallback(self, recipe: str, epoch_number: int, floor: Floor) -> SlotContent:
        seen = floor.epoch.number if floor.epoch else 0
        if 0 < epoch_number < seen:
            raise AttackError(f"rollback has epoch {epoch_number}, this node has seen epoch {seen}", reason="old-epoch")
        active, other = self._slots.active(recipe), self._slots.other(recipe)
        if active is None:
            raise UsageError(f"{self._node} runs no {recipe}", reason="unknown-recipe")
        if other is None:
            raise UsageError(f"{self._node} has no earlier {recipe} to return to", reason="no-fallback")
        if other.digest not in active.release.fallbacks:
            raise AttackError(
                f"{recipe} {active.release.version} does not permit to return to {other.release.version}",
                reason="not-permitted",
            )
        return other

    def _commit_rollback(self, prepared: Prepared) -> None:
        (activation,) = prepared.activations
        active = self._slots.active(activation.recipe)
        if active is None:
            raise StorageError(f"the active slot of {activation.recipe} is gone")
        # First the floor and the quarantine: a crash in between leaves the bad release running but refused, and the
        # command can be given again; the other way round the next update would install it again.
        self._raise_counters()
        epoch = prepared.epoch.number if prepared.epoch else 0
        self._slots.quarantine(activation.recipe, active.digest, epoch, prepared.reason)
        self._slots.revert(activation.recipe)

    def _raise_counters(self) -> None:
        """The highest release that ever ran, per recipe, never falls."""
        floor = self._floor.read()
        counters = dict(floor.counters)
        for recipe, running in self._standing().running.items():
            counters[recipe] = max(counters.get(recipe, 0), running.counter)
        if counters != floor.counters:
            self._floor.write(msgspec.structs.replace(floor, counters=counters))


def _running(content: SlotContent) -> Running:
    """What a slot has to say about the rules. A damaged bundle cannot run: it has the digest of nothing, so that the
    same release is wanted again; which counter ran, and what may follow, still holds."""
    release = content.release
    bundle = _NOTHING if content.damage() else content.digest
    return Running(version=release.version, bundle=bundle, counter=release.counter, fallbacks=release.fallbacks)


def _activation(recipe: str, content: SlotContent) -> Activation:
    variant = next(r.variant for r in content.release.variants if r.sha256 == content.digest)
    return Activation(recipe, content.release.version, variant, content.digest, content.bundle_raw)


def _answer(verdict: Verdict) -> UpdateResult:
    return UpdateResult(
        state="refused" if verdict.exit_code else "unchanged",
        reason=verdict.reason,
        message=verdict.message,
        exit_code=verdict.exit_code,
        epoch=verdict.epoch,
        trust=verdict.trust,
    )


def _refusal(error: EdgeError, epoch: Epoch | None = None, trust: TrustStatus | None = None) -> UpdateResult:
    return UpdateResult(
        state="refused",
        reason=error.reason,
        message=str(error),
        exit_code=error.exit_code,
        epoch=epoch,
        trust=trust,
    )
