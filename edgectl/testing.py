"""A fleet in memory, for tests of everything that commands nodes: failures are data, time passes only when told.

`FakeFleet` has the nodes, `FakeRepository` signs nothing and keeps versions as the real one does; both outlive the
"process" under test, so that a test can end it anywhere and begin again.

Example::

    fleet = FakeFleet(["a", "b"])
    fleet["b"].refuses = {bad_digest}
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec
from edgectl_agent.core.messages import (
    Alert,
    AlertPage,
    Assignment,
    BundleRef,
    Epoch,
    ModelStatus,
    OutboxRecord,
    OutboxStatus,
    Quarantine,
    Release,
    Report,
    TrustStatus,
    UpdateResult,
)

from edgectl.core.errors import LockHeld, NodeUnreachable, RemoteRefused


class FakeRepository:
    """Releases and the assignment, with the timestamp's version and its compare-and-set."""

    def __init__(self, releases: Iterable[Release] = ()) -> None:
        self._releases = tuple(releases)
        self._assignment: Assignment | None = None
        self._timestamp = 1

    def assignment(self) -> Assignment | None:
        return self._assignment

    def releases(self) -> tuple[Release, ...]:
        return self._releases

    def publish(self, release: Release) -> None:
        """One more signed release."""
        self._releases = (*self._releases, release)
        self._timestamp += 1

    def versions(self) -> TrustStatus:
        return TrustStatus(
            root=1, timestamp=self._timestamp, snapshot=self._timestamp, assignment_sha256=_digest(self._assignment)
        )

    def assign(self, assignment: Assignment, now: datetime, expect_timestamp: int) -> None:
        del now
        if expect_timestamp != self._timestamp:
            raise LockHeld("somebody else has published meanwhile")
        self._assignment = assignment
        self._timestamp += 1

    def slice_for(self, node: str, have: frozenset[str] = frozenset()) -> dict[str, bytes | Path]:
        del node, have
        return {"assignment": msgspec.json.encode(self._assignment), "trust": msgspec.json.encode(self.versions())}


def _digest(assignment: Assignment | None) -> str:
    return hashlib.sha256(msgspec.json.encode(assignment)).hexdigest() if assignment else ""


@dataclass
class FakeNode:
    """One node's agent and, in the upper half, what is wrong with it."""

    name: str
    unreachable: bool = False
    refuses: set[str] = field(default_factory=set)
    """Bundles that do not pass admission."""
    dies_of: set[str] = field(default_factory=set)
    """Bundles after whose activation the node never answers again."""
    golden: dict[str, float] = field(default_factory=dict)
    """Golden error per bundle; others have 0."""
    interrupt: BaseException | None = None
    """Raised by the next call, as a Ctrl-C would be."""

    running: dict[str, ModelStatus] = field(default_factory=dict)
    epoch: Epoch | None = None
    quarantined: tuple[Quarantine, ...] = ()
    trust: TrustStatus | None = None
    clock_ns: int = 0
    outbox: list[OutboxRecord] = field(default_factory=list)
    released: int = 0
    log_id: str = ""
    """Of the outbox; empty as from agents that do not tell."""
    calls: list[str] = field(default_factory=list)
    _spool: dict[str, bytes] = field(default_factory=dict)

    def status(self) -> Report:
        self._answer("status")
        records = [r for r in self.outbox if r.seq > self.released]
        return Report(
            node=self.name, agent="0", boot="b", clock_ns=self.clock_ns, uptime_s=1.0, state="healthy",
            epoch=self.epoch, models=tuple(self.running.values()), quarantined=self.quarantined, trust=self.trust,
            outbox=OutboxStatus(
                records=len(records), bytes=0, limit_bytes=1000, head_seq=len(self.outbox), log_id=self.log_id
            ),
        )  # fmt: skip

    def have(self) -> frozenset[str]:
        self._answer("have")
        return frozenset(model.bundle for model in self.running.values())

    def push(self, files: Mapping[str, bytes | Path]) -> None:
        self._answer("push")
        self._spool.update({name: raw for name, raw in files.items() if isinstance(raw, bytes)})

    def update(self, timeout_s: float = 60.0) -> UpdateResult:
        del timeout_s
        self._answer("update")
        order = msgspec.json.decode(self._spool["assignment"], type=Assignment)
        if self.epoch and order.epoch.number < self.epoch.number:
            return UpdateResult(state="refused", reason="epoch", message="lower epoch", exit_code=50)
        if self.epoch and order.epoch.number == self.epoch.number and order.epoch.operator != self.epoch.operator:
            return UpdateResult(state="refused", reason="epoch", message="another operator's epoch", exit_code=50)
        self.epoch = order.epoch
        self.trust = msgspec.json.decode(self._spool["trust"], type=TrustStatus)
        for recipe in order.models:
            refusal = self._move(recipe, order)
            if refusal:
                return UpdateResult(state="refused", reason="admission", message=refusal, exit_code=40)
        return UpdateResult(state="confirmed", epoch=self.epoch)

    def _move(self, recipe: str, order: Assignment) -> str:
        place = order.placement(recipe, self.name)
        old = self.running.get(recipe)
        if place is None or (old and old.bundle == place.sha256):
            return ""
        if any(q.bundle == place.sha256 and q.epoch >= order.epoch.number for q in self.quarantined):
            return "quarantined"
        if place.sha256 in self.refuses:
            refused = Quarantine(
                recipe=recipe, bundle=place.sha256, epoch=order.epoch.number, reason="golden vectors differ"
            )
            self.quarantined = (*self.quarantined, refused)
            return refused.reason
        self.running[recipe] = ModelStatus(
            recipe=recipe, version=place.version, bundle=place.sha256, variant=place.variant,
            golden_error=self.golden.get(place.sha256, 0.0), inferences=1, activated_ns=1,
            previous=old.bundle if old else "",
        )  # fmt: skip
        self._versions[place.sha256] = place.version
        if place.sha256 in self.dies_of:
            self.unreachable = True
        return ""

    @property
    def _versions(self) -> dict[str, str]:
        return self.__dict__.setdefault("_known", {})  # type: ignore[no-any-return]

    def rollback(self, recipe: str, epoch: int) -> UpdateResult:
        self._answer("rollback")
        model = self.running.get(recipe)
        if model is None or not model.previous:
            raise RemoteRefused(f"{self.name} has nothing to go back to", status=409, exit_code=42)
        left = Quarantine(recipe=recipe, bundle=model.bundle, epoch=epoch, reason="rolled back by the operator")
        self.quarantined = (*self.quarantined, left)
        version = self._versions.get(model.previous, "")
        self.running[recipe] = msgspec.structs.replace(
            model, bundle=model.previous, version=version, previous=model.bundle
        )
        return UpdateResult(state="reverted")

    def raise_alert(self, alert: Alert) -> None:
        """Put `alert` into the outbox."""
        self.outbox.append(OutboxRecord(boot="b", seq=len(self.outbox) + 1, alert=alert))

    def alerts(self, after: int = 0, limit: int = 500, wait_s: float = 0.0) -> AlertPage:
        del wait_s
        self._answer("alerts")
        records = tuple(r for r in self.outbox if r.seq > max(after, self.released))[:limit]
        next_after = records[-1].seq if records else after
        return AlertPage(node=self.name, records=records, next_after=next_after, log_id=self.log_id)

    def release(self, through: int, log_id: str = "") -> None:
        self._answer("release")
        if log_id not in ("", self.log_id):
            raise RemoteRefused(f"{self.name} has another outbox than {log_id}", status=409)
        self.released = max(self.released, through)

    def close(self) -> None:
        """Nothing to close."""

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.interrupt is not None:
            error, self.interrupt = self.interrupt, None
            raise error
        if self.unreachable:
            raise NodeUnreachable(f"{self.name} does not answer")


class FakeFleet(dict[str, FakeNode]):
    """Nodes by name."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__({name: FakeNode(name) for name in names})

    def connect(self, name: str) -> FakeNode:
        return self[name]


def fake_release(recipe: str, version: str, counter: int) -> Release:
    """A release of one fp32 bundle whose digest follows from its name."""
    sha256 = hashlib.sha256(f"{recipe}@{version}".encode()).hexdigest()
    return Release(
        recipe=recipe,
        version=version,
        counter=counter,
        variants=(BundleRef(variant="fp32", sha256=sha256, length=1),),
    )
