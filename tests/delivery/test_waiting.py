"""Rollouts over nodes that report by themselves: proof is a report, and silence is told from failure."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from edgectl_agent.core.messages import UPDATE_REFUSED, Report, UpdateResult

from edgectl.core.errors import SILENT, NodeUnreachable
from edgectl.core.rollout import Progress, exit_code
from edgectl.delivery import deploy
from edgectl.delivery.interface import Detached
from edgectl.delivery.runner import Tools
from edgectl.delivery.survey import reports_of, survey
from edgectl.store.store import Store
from edgectl.testing import FakeNode, FakeRepository, fake_release
from tests.delivery.test_rollouts import Impatient

V1, V2 = (fake_release("press", version, i) for i, version in enumerate(("1", "2"), start=1))


class PullNode(FakeNode):
    """What the operator sees of a node that pulls: its last report; what it does, it does between two looks."""

    def __init__(self, name: str, store: Store, clock_ns: Callable[[], int]) -> None:
        super().__init__(name)
        self.store, self.now_ns = store, clock_ns
        self.ordered = self.dead = False
        self.refusal = ""
        self.looks = 0

    def status(self) -> Report:
        self.looks += 1
        if self.ordered and self.looks % 3 == 0:
            self.sync()
        record = self.store.nodes.get(self.name)
        if record is None or record.report is None:
            raise NodeUnreachable(f"node {self.name}: has never reported", reason=SILENT)
        return record.report

    def update(self, timeout_s: float = 60.0) -> UpdateResult:
        self.ordered = True
        return UpdateResult(state="ordered")

    def rollback(self, recipe: str, epoch: int) -> UpdateResult:
        return UpdateResult(state="ordered", message="told at its next report")

    def sync(self) -> None:
        """Poll, and report."""
        if self.dead:
            return
        if self._spool:
            super().update()
        self.clock_ns += 1
        report = super().status()
        if self.refusal:
            reasons = (f"repository: {UPDATE_REFUSED}{self.refusal}",)
            report = msgspec.structs.replace(report, reasons=reasons)
        self.store.nodes.save(report, self.now_ns())


class World:
    """A fleet of nodes that pull."""

    def __init__(self, folder: Path) -> None:
        self._ticks = itertools.count(1)
        self.store = Store("sqlite:///state.db", folder).open()
        self.repository = FakeRepository((V1, V2))
        self.nodes: Mapping[str, PullNode] = {n: PullNode(n, self.store, self.clock_ns) for n in ("a", "b", "c")}
        for node in self.nodes.values():
            node.sync()
        self.waited: list[tuple[int, float]] = []

    def clock_ns(self) -> int:
        return next(self._ticks)

    def tools(self) -> Tools:
        return Tools(
            store=self.store, repository=self.repository, connect=self.nodes.__getitem__, fleet="plant",
            operator="ann@desk:k1", clock_ns=self.clock_ns, monotonic_s=self.clock_ns, forks=2, stop=Impatient(),
            patience_s=lambda node: 200.0, waiting=lambda count, longest_s: self.waited.append((count, longest_s)),
        )  # fmt: skip

    def begin(self, version: str) -> Progress:
        request = deploy.Request(recipe="press", version=version, phases="1,100%", timeout_s=20)
        release = deploy.resolve("press", version, self.repository.releases(), {})
        connect = self.nodes.__getitem__
        answers = survey(self.nodes, connect=connect, store=self.store, forks=1, clock_ns=self.clock_ns)
        made = deploy.plan(
            request, release, sorted(self.nodes), reports_of(answers), repository=self.repository, store=self.store
        )
        assert made is not None
        return deploy.begin(made, "ann@desk", self.tools())[1].run()

    def canary(self) -> PullNode:
        return self.nodes[self.store.rollouts.all(limit=1)[0].plan.phases[0].nodes[0]]


@pytest.fixture
def world() -> Iterator[World]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        made = World(Path(folder))
        yield made
        made.store.close()


def test_every_node_proves_itself_by_its_own_report(world: World) -> None:
    progress = world.begin("1")
    assert (progress.state, exit_code(progress)) == ("done", 0)
    assert {m.version for node in world.nodes.values() for m in node.running.values()} == {"1"}
    assert [count for count, _ in world.waited] == [1, 2], "once per phase, for all of them together"
    assert all(longest_s > 200 for _, longest_s in world.waited)


def test_a_look_at_a_report_makes_it_no_younger(world: World) -> None:
    before = {name: record.received_ns for name, record in world.store.nodes.all().items()}
    for _ in range(2):
        survey(world.nodes, connect=world.nodes.__getitem__, store=world.store, forks=1, clock_ns=world.clock_ns)
    assert {name: record.received_ns for name, record in world.store.nodes.all().items()} == before


def test_a_canary_that_never_reports_again_is_silent_and_nobody_else_gets_it(world: World) -> None:
    for node in world.nodes.values():
        node.dead = True
    progress = world.begin("1")
    assert [p.state for p in progress.nodes.values()].count("silent") == 1
    assert progress.state == "stuck", "it cannot be brought back, as long as it is silent"
    assert exit_code(progress) == 21


def test_a_node_that_would_not_take_it_says_so_in_its_report(world: World) -> None:
    for node in world.nodes.values():
        node.refuses = {V1.variants[0].sha256}
        node.refusal = "model deviates from its golden vectors"
    progress = world.begin("1")
    assert "golden vectors" in progress.reason
    assert exit_code(progress) in (20, 21)


def test_a_rollout_that_waits_can_be_left_and_goes_on_with_what_was_reported_meanwhile(world: World) -> None:
    request = deploy.Request(recipe="press", version="1", phases="100%", timeout_s=20)
    made = deploy.plan(request, V1, sorted(world.nodes), {}, repository=world.repository, store=world.store)
    assert made is not None

    def leave(count: int, longest_s: float) -> None:
        raise KeyboardInterrupt

    record, runner = deploy.begin(made, "ann@desk", replace(world.tools(), waiting=leave))
    with pytest.raises(Detached, match="r-1"):
        runner.run()
    for node in world.nodes.values():
        node.sync()
    _, again = deploy.resume(record.name, world.tools())
    assert again.run().state == "done"
