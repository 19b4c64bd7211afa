"""Deployments and rollbacks over a fleet in memory whose failures are data."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from edgectl_agent.core.messages import Assignment, Epoch, Placement

from edgectl.core.errors import ConfigError, LockHeld, NothingMatched, StorageError, TrustError, UsageError
from edgectl.core.releases import parse_model
from edgectl.core.rollout import Entry, Plan, Progress, exit_code
from edgectl.delivery import deploy, rollback
from edgectl.delivery.interface import Detached
from edgectl.delivery.runner import Tools
from edgectl.delivery.survey import check_epochs, check_pending, reports_of, survey
from edgectl.store.store import Store
from edgectl.testing import FakeFleet, FakeRepository, fake_release

V1, V2, V3 = (fake_release("press", version, i) for i, version in enumerate(("1", "2", "3"), start=1))
BAD = V2.variants[0].sha256
NAMES = ("a", "b", "c", "d", "e")


class Impatient(threading.Event):
    """Waits for nothing: pauses between two questions to a node take no time here."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


class World:
    """A fleet, a repository and a store that outlive the command under test."""

    def __init__(self, folder: Path, names: tuple[str, ...] = NAMES) -> None:
        self.fleet = FakeFleet(names)
        self.repository = FakeRepository((V1, V2, V3))
        self.store = Store("sqlite:///state.db", folder).open()
        self.seen: list[Entry] = []
        self._ticks = itertools.count(1)

    def tools(self, *, repository: bool = True, watch: Callable[[Entry, Progress], None] | None = None,
              operator: str = "ann@desk:k1") -> Tools:  # fmt: skip
        return Tools(
            store=self.store, repository=self.repository if repository else None, connect=self.fleet.connect,
            fleet="plant", operator=operator, clock_ns=lambda: next(self._ticks), monotonic_s=lambda: next(self._ticks),
            forks=2, stop=Impatient(), watch=watch or (lambda entry, _: self.seen.append(entry)),
        )  # fmt: skip

    def plan(self, version: str, phases: str = "1,100%", timeout_s: float = 20) -> Plan | None:
        request = deploy.Request(recipe="press", version=version, phases=phases, timeout_s=timeout_s)
        release = deploy.resolve("press", version, self.repository.releases(), {})
        reports = reports_of(
            survey(self.fleet, connect=self.fleet.connect, store=self.store, forks=2, clock_ns=lambda: 1)
        )
        check_epochs(reports, self.repository.assignment())
        return deploy.plan(request, release, sorted(self.fleet), reports, repository=self.repository, store=self.store)

    def deploy(self, version: str, phases: str = "1,100%") -> Progress:
        made = self.plan(version, phases)
        assert made is not None
        return deploy.begin(made, "ann@desk", self.tools())[1].run()

    def versions(self) -> dict[str, str]:
        return {name: node.running["press"].version for name, node in self.fleet.items() if "press" in node.running}

    def assigned(self) -> dict[str, str]:
        assignment = self.repository.assignment()
        places = assignment.models.get("press", ()) if assignment else ()
        return {node: place.version for place in places for node in place.nodes}

    def canary(self) -> str:
        return self.store.rollouts.all(limit=1)[0].plan.phases[0].nodes[0]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where possible: a disk's fsync takes minutes over these tests and proves nothing in them."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)


@pytest.fixture
def world(folder: Path) -> Iterator[World]:
    made = World(folder)
    yield made
    made.store.close()


def all_at(version: str) -> dict[str, str]:
    return dict.fromkeys(NAMES, version)


def test_a_deployment_reaches_every_node_canary_first(world: World) -> None:
    progress = world.deploy("1")
    assert (progress.state, exit_code(progress)) == ("done", 0)
    assert world.versions() == world.assigned() == all_at("1")
    confirmed = [entry.node for entry in world.seen if entry.event == "confirm"]
    assert confirmed[0] == world.canary()
    passed = [entry.event for entry in world.seen if not entry.node]
    assert passed == ["start", "assign", "assigned", "pass", "assign", "assigned", "finish"]


def test_each_signature_is_published_before_nodes_are_told_and_again_when_that_failed(world: World) -> None:
    made = world.plan("1")
    assert made is not None
    full, published = [True], list[set[str]]()

    def publish(nodes: tuple[str, ...]) -> None:
        if full:
            raise StorageError("the web server is full")
        assert set(world.assigned()) == set(nodes)
        published.append(set(nodes))

    record, runner = deploy.begin(made, "ann@desk", replace(world.tools(), signed=publish))
    with pytest.raises(StorageError, match=r"the web server is full → then edgectl deploy --resume r-1"):
        runner.run()
    assert world.versions() == {}
    full.clear()
    _, runner = deploy.resume(record.name, replace(world.tools(), signed=publish))
    assert runner.run().state == "done"
    assert published == [{world.canary()}, set(NAMES)]
    assignment = world.repository.assignment()
    assert assignment is not None
    assert assignment.epoch.number == 2


def test_nobody_but_the_canary_is_touched_before_it_is_confirmed(world: World) -> None:
    world.deploy("1")
    made = world.plan("2")
    assert made is not None
    canary = made.phases[0].nodes[0]

    def look(entry: Entry, _: Progress) -> None:
        if entry.event == "confirm" and entry.node == canary:
            assert world.versions() == {**all_at("1"), canary: "2"}
            assert world.assigned() == {**all_at("1"), canary: "2"}

    deploy.begin(made, "ann@desk", world.tools(watch=look))[1].run()
    assert world.versions() == all_at("2")


def test_what_runs_everywhere_already_needs_no_rollout(world: World) -> None:
    world.deploy("1")
    assert world.plan("1") is None
    world.fleet["c"].running.clear()
    made = world.plan("1")
    assert made is not None
    assert made.nodes == ("c",)


def test_a_canary_that_refuses_halts_the_rollout_and_goes_back(world: World) -> None:
    world.deploy("1")
    for node in world.fleet.values():
        node.refuses = {BAD}
    progress = world.deploy("2")
    assert (progress.state, exit_code(progress)) == ("halted", 20)
    assert world.versions() == world.assigned() == all_at("1")
    assert "golden vectors differ" in progress.reason
    assert progress.nodes[world.canary()].state == "reverted"


def test_canaries_that_run_the_new_release_go_back_with_the_one_that_failed(world: World) -> None:
    world.deploy("1")
    made = world.plan("2", "3,100%")
    assert made is not None
    world.fleet[made.phases[0].nodes[2]].refuses = {BAD}
    progress = deploy.begin(made, "ann@desk", world.tools())[1].run()
    assert exit_code(progress) == 20
    assert progress.count("reverted") == 3
    assert world.versions() == world.assigned() == all_at("1")


def test_a_canary_with_bad_golden_vectors_is_not_confirmed(world: World) -> None:
    world.deploy("1")
    for node in world.fleet.values():
        node.golden = {BAD: 1.5}
    assert exit_code(world.deploy("2")) == 20
    assert world.versions() == all_at("1")


def test_a_canary_that_falls_silent_halts_and_cannot_be_reverted(world: World) -> None:
    world.deploy("1")
    for node in world.fleet.values():
        node.dies_of = {BAD}
    progress = world.deploy("2")
    canary = world.canary()
    assert (progress.state, exit_code(progress)) == ("stuck", 21)
    assert progress.nodes[canary].stuck
    assert world.assigned() == all_at("1")

    world.fleet[canary].unreachable = False  # it comes back: a resume finishes the way back
    _, runner = deploy.resume("r-2", world.tools())
    assert exit_code(runner.resume()) == 20
    assert world.versions() == all_at("1")


def test_nodes_that_took_it_in_silence_end_the_rollout_when_it_is_asked_for_again(world: World) -> None:
    world.deploy("1")
    for node in world.fleet.values():
        node.dies_of = {BAD}
    assert world.deploy("2", "100%").state == "incomplete"
    for node in world.fleet.values():
        node.unreachable = False
    assert world.versions() == all_at("2")
    assert world.plan("2") is None, "every node runs it"

    def unproven(names: Iterable[str] = NAMES, version: str = "2", sha256: str = BAD, kind: str = "deploy") -> str:
        return deploy.unproven(kind, "press", dict.fromkeys(names, ""), world.store, version, sha256)

    assert unproven() == "r-2"
    others = (unproven(NAMES[1:]), unproven(version="1"), unproven(sha256="0" * 64), unproven(kind="rollback"))
    assert not any(others)
    assert deploy.resume("r-2", world.tools())[1].resume().state == "done"
    assert unproven() == ""


def test_an_unreachable_canary_pauses_and_a_resume_goes_on(world: World) -> None:
    made = world.plan("1")
    assert made is not None
    canary = world.fleet[made.phases[0].nodes[0]]
    canary.unreachable = True
    progress = deploy.begin(made, "ann@desk", world.tools())[1].run()
    assert (progress.state, exit_code(progress)) == ("paused", 22)
    assert world.versions() == {}
    canary.unreachable = False
    assert exit_code(deploy.resume("r-1", world.tools())[1].resume()) == 0
    assert world.versions() == all_at("1")


@pytest.mark.parametrize(("fault", "code"), [("refuses", 30), ("unreachable", 31), ("dies_of", 32)])
def test_failures_after_the_canary_have_their_exit_codes_and_can_be_resumed(
    world: World, fault: str, code: int
) -> None:
    world.deploy("1")
    made = world.plan("2")
    assert made is not None
    victim = world.fleet[made.phases[1].nodes[0]]
    setattr(victim, fault, True if fault == "unreachable" else {BAD})
    progress = deploy.begin(made, "ann@desk", world.tools())[1].run()
    assert (progress.state, exit_code(progress)) == ("incomplete", code)
    assert progress.count("confirmed") == 4
    victim.unreachable, victim.refuses, victim.dies_of = False, set(), set()
    assert exit_code(deploy.resume("r-2", world.tools())[1].resume()) == 0
    assert world.versions() == all_at("2")


def test_the_first_deployment_cannot_be_unsaid_where_it_runs(world: World) -> None:
    made = world.plan("2", "2,100%")
    assert made is not None
    good, bad = made.phases[0].nodes
    world.fleet[bad].refuses = {BAD}
    progress = deploy.begin(made, "ann@desk", world.tools())[1].run()
    assert exit_code(progress) == 21
    assert progress.nodes[bad].state == "reverted"
    assert "ran no press before" in progress.nodes[good].detail
    assert world.assigned() == {}


# ── interruptions ───────────────────────────────────────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """The process ends here, without any clean-up of ours."""


def outcome(world: World) -> tuple[object, ...]:
    record = world.store.rollouts.all(limit=1)[0]
    progress = world.store.rollouts.progress(record)
    nodes = {name: node.state for name, node in progress.nodes.items()}
    return progress.state, nodes, world.versions(), world.assigned()


def bad_fleet(world: World) -> None:
    for node in world.fleet.values():
        node.refuses = {BAD}


SCENARIOS: dict[str, Callable[[World], None]] = {
    "all good": lambda world: None,
    "bad model": bad_fleet,
}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_journal_write_a_resume_ends_in_the_same_state(folder: Path, scenario: str, when: str) -> None:
    def prepare(at: Path) -> World:
        at.mkdir()
        world = World(at, ("a", "b", "c"))
        world.deploy("1")
        SCENARIOS[scenario](world)
        world.seen.clear()
        return world

    straight = prepare(folder / "straight")
    straight.deploy("2")
    expected, writes = outcome(straight), len(straight.seen)
    straight.store.close()
    assert writes > 8
    for moment in range(writes):
        world = prepare(folder / f"{moment}")
        made = world.plan("2")
        assert made is not None
        _die_at(world, moment, when)
        with pytest.raises(Killed):
            deploy.begin(made, "ann@desk", world.tools())[1].run()
        world.store.rollouts.append = type(world.store.rollouts).append.__get__(world.store.rollouts)  # type: ignore[method-assign]
        deploy.resume("r-2", world.tools())[1].resume()
        assert outcome(world) == expected, f"killed {when} write {moment}"
        world.store.close()


def _die_at(world: World, moment: int, when: str) -> None:
    """End the process at the write of entry number `moment`: just before it reaches the disk, or just after."""
    real, count = world.store.rollouts.append, itertools.count()

    def append(number: int, progress: Progress, entry: Entry) -> Progress:
        here = next(count)
        if here > moment or (here == moment and when == "before"):
            raise Killed
        after = real(number, progress, entry)
        if here == moment:
            raise Killed
        return after

    world.store.rollouts.append = append  # type: ignore[method-assign]


@pytest.mark.parametrize("call", ["push", "update", "status"])
def test_ctrl_c_at_a_node_detaches_and_says_how_to_resume(world: World, call: str) -> None:
    made = world.plan("1")
    assert made is not None
    canary = world.fleet[made.phases[0].nodes[0]]
    real = getattr(canary, call)

    def interrupted(*args: object, **options: object) -> object:
        setattr(canary, call, real)
        raise KeyboardInterrupt

    setattr(canary, call, interrupted)
    with pytest.raises(Detached, match="edgectl deploy --resume r-1") as e:
        deploy.begin(made, "ann@desk", world.tools())[1].run()
    assert e.value.exit_code == 130
    assert exit_code(deploy.resume("r-1", world.tools())[1].resume()) == 0
    assert world.versions() == all_at("1")


def test_ctrl_c_between_canary_and_rest_leaves_the_rest_untouched(world: World) -> None:
    made = world.plan("1")
    assert made is not None
    tools = world.tools(watch=lambda entry, _: tools.stop.set() if entry.event == "pass" else None)
    with pytest.raises(Detached, match="1 of 5 nodes confirmed"):
        deploy.begin(made, "ann@desk", tools)[1].run()
    assert len(world.versions()) == 1
    assert exit_code(deploy.resume("r-1", world.tools())[1].resume()) == 0


def test_a_journal_that_cannot_be_written_stops_the_rollout_with_the_way_on(world: World) -> None:
    made = world.plan("1")
    assert made is not None

    def full(number: int, progress: Progress, entry: Entry) -> Progress:
        raise StorageError("no space left for the store", hint="free space and repeat")

    record, runner = deploy.begin(made, "ann@desk", world.tools())
    world.store.rollouts.append = full  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="then edgectl deploy --resume r-1"):
        runner.run()
    assert world.versions() == {}
    assert record.name == "r-1"


# ── several operators ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_node_that_follows_another_operator_stops_the_deployment(world: World) -> None:
    world.deploy("1")
    world.fleet["c"].epoch = Epoch(number=9, operator="bob@laptop:k1")
    with pytest.raises(LockHeld, match=r"node c follows epoch 9 of bob@laptop:k1, this repository is at 2"):
        world.plan("2")


def test_a_second_signature_in_between_is_refused_by_compare_and_set(world: World) -> None:
    made = world.plan("1")
    assert made is not None

    def meanwhile(entry: Entry, _: Progress) -> None:
        if entry.event == "assign":
            world.repository.publish(fake_release("mill", "1", 1))

    with pytest.raises(LockHeld, match="somebody else"):
        deploy.begin(made, "ann@desk", world.tools(watch=meanwhile))[1].run()
    assert world.versions() == {}


def test_an_equal_epoch_of_another_operator_is_found_after_the_push(world: World) -> None:
    made = world.plan("1")
    assert made is not None
    world.fleet[made.phases[0].nodes[0]].epoch = Epoch(number=1, operator="bob@laptop:k1")
    with pytest.raises(LockHeld, match="another operator"):
        deploy.begin(made, "ann@desk", world.tools())[1].run()


def test_a_newer_deployment_supersedes_an_interrupted_one_and_returns_to_the_proven_release(world: World) -> None:
    world.deploy("1")
    made = world.plan("2")
    assert made is not None
    tools = world.tools(watch=lambda entry, _: tools.stop.set() if entry.event == "pass" else None)
    with pytest.raises(Detached):
        deploy.begin(made, "ann@desk", tools)[1].run()
    for node in world.fleet.values():
        node.refuses = {V3.variants[0].sha256}
    later = world.plan("3", "4,100%")
    assert later is not None
    progress = deploy.begin(later, "ann@desk", world.tools())[1].run()
    assert exit_code(progress) == 20
    back = set(later.phases[0].nodes)
    assert {world.versions()[name] for name in back} == {"1"}, "not the 2 that nobody judged"
    with pytest.raises(LockHeld, match="superseded by r-3"):
        deploy.resume("r-2", world.tools())


def test_resuming_what_has_ended_changes_nothing(world: World) -> None:
    world.deploy("1")
    calls = [list(node.calls) for node in world.fleet.values()]
    assert exit_code(deploy.resume("r-1", world.tools())[1].resume()) == 0
    assert [node.calls for node in world.fleet.values()] == calls
    with pytest.raises(NothingMatched, match="no rollout 'r-9'"):
        deploy.resume("r-9", world.tools())


# ── choosing a release ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_newest_signed_release_is_the_default() -> None:
    assert deploy.resolve("press", "", (V2, V3, V1), {}) is V3
    assert deploy.resolve("press", "2", (V2, V3, V1), {}) is V2


def test_an_unsigned_model_is_a_trust_error_that_names_the_command() -> None:
    with pytest.raises(TrustError, match="edgectl models sign press@1"):
        deploy.resolve("press", "", (), {"press": ("1",)})
    with pytest.raises(TrustError, match="edgectl models sign press@4"):
        deploy.resolve("press", "4", (V1,), {"press": ("1", "4")})


def test_an_unknown_model_or_version_names_the_closest() -> None:
    with pytest.raises(NothingMatched, match="did you mean 'press'"):
        deploy.resolve("pres", "", (V1,), {})
    with pytest.raises(NothingMatched, match="press@1"):
        deploy.resolve("press", "11", (V1,), {})
    with pytest.raises(UsageError, match="it ships fp32"):
        deploy.choose(V1, "int8")
    with pytest.raises(UsageError, match="NAME@VERSION"):
        parse_model("press@")


# ── rollback ────────────────────────────────────────────────────────────────────────────────────────────────────────


def roll_back(world: World, *, keys: bool = True, to: str = "", nodes: tuple[str, ...] = NAMES) -> Progress:
    reports = reports_of(survey(nodes, connect=world.fleet.connect, store=world.store, forks=2, clock_ns=lambda: 1))
    made, _ = rollback.plan(
        "press", nodes, reports, to=to, releases=world.repository.releases() if keys else (),
        current=world.repository.assignment() if keys else None, timeout_s=20,
    )  # fmt: skip
    return deploy.begin(made, "ann@desk", world.tools(repository=keys))[1].run()


def test_a_rollback_tells_the_nodes_first_and_signs_what_they_fell_back_to(world: World) -> None:
    world.deploy("1")
    world.deploy("2")
    before = world.repository.assignment()
    assert before is not None
    progress = roll_back(world)
    assert exit_code(progress) == 0
    assert world.versions() == world.assigned() == all_at("1")
    after = world.repository.assignment()
    assert after is not None
    assert after.epoch.number == before.epoch.number + 1
    assert all(node.calls.index("rollback") < len(node.calls) for node in world.fleet.values())


def test_a_rollback_without_keys_holds_and_a_later_one_only_signs(world: World) -> None:
    world.deploy("1")
    world.deploy("2")
    progress = roll_back(world, keys=False)
    assert exit_code(progress) == 0
    assert world.versions() == all_at("1")
    assert world.assigned() == all_at("2"), "pending"
    told = sum(node.calls.count("rollback") for node in world.fleet.values())
    assert exit_code(roll_back(world)) == 0
    assert world.versions() == world.assigned() == all_at("1"), "not back to 2"
    assert sum(node.calls.count("rollback") for node in world.fleet.values()) == told


def test_a_rollback_to_a_version_goes_by_the_assignment_where_the_other_slot_has_another(world: World) -> None:
    for version in ("1", "2", "3"):
        world.deploy(version)
    assert exit_code(roll_back(world, to="1")) == 0
    assert world.versions() == world.assigned() == all_at("1")
    assert all("rollback" not in node.calls for node in world.fleet.values())


def test_a_rollback_leaves_out_nodes_that_cannot_go_back(world: World) -> None:
    world.deploy("1")
    with pytest.raises(NothingMatched, match="a has no release before 1"):
        roll_back(world)
    world.deploy("2")
    world.fleet["b"].unreachable = True
    made, skipped = rollback.plan("press", NAMES, reports_of(
        survey(NAMES, connect=world.fleet.connect, store=world.store, forks=2, clock_ns=lambda: 1)
    ))  # fmt: skip
    assert set(made.nodes) == set(NAMES) - {"b"}
    assert [(s.node, s.why) for s in skipped] == [("b", "does not answer")]


def test_an_assignment_of_one_model_keeps_those_of_others(world: World) -> None:
    other = Placement(version="1", sha256="f" * 64, variant="fp32", nodes=NAMES)
    world.repository.assign(
        Assignment(fleet="plant", epoch=Epoch(number=1, operator="ann@desk:k1"), models={"mill": (other,)}),
        None, 1,  # type: ignore[arg-type]
    )  # fmt: skip
    world.deploy("1")
    assignment = world.repository.assignment()
    assert assignment is not None
    assert assignment.models["mill"] == (other,)


def test_a_pending_rollback_must_be_signed_before_anything_else_is_deployed(world: World) -> None:
    world.deploy("1")
    world.deploy("2")
    roll_back(world, keys=False, nodes=("a",))
    with pytest.raises(ConfigError, match=r"a rolled press 2 back .* → edgectl rollback press"):
        check_pending(world.store.nodes.all(), world.repository.assignment())
    roll_back(world, nodes=("a",))
    check_pending(world.store.nodes.all(), world.repository.assignment())
    assert world.versions() == {**all_at("2"), "a": "1"}


def test_a_canary_that_rolled_back_without_keys_does_not_get_the_release_back(world: World) -> None:
    world.deploy("1")
    world.deploy("2")
    canary, current = world.canary(), world.repository.assignment()
    assert current is not None
    node = world.fleet[canary]
    assert node.epoch is not None
    assert node.epoch.number == current.epoch.number - 1, "it has not heard of the assignment for all"
    roll_back(world, keys=False, nodes=(canary,))
    assert [q.epoch for q in node.quarantined] == [current.epoch.number]
    node.push(world.repository.slice_for(canary))
    node.update()
    assert world.versions() == {**all_at("2"), canary: "1"}, "the assignment for all does not bring it back"


def test_a_rollback_below_the_newest_epoch_is_pending_too(world: World) -> None:
    world.deploy("1")
    world.deploy("2")
    canary = world.canary()
    epoch = world.fleet[canary].epoch
    assert epoch is not None
    world.fleet[canary].rollback("press", epoch.number)
    survey((canary,), connect=world.fleet.connect, store=world.store, forks=1, clock_ns=lambda: 1)
    with pytest.raises(ConfigError, match=f"{canary} rolled press 2 back"):
        check_pending(world.store.nodes.all(), world.repository.assignment())
    roll_back(world, nodes=(canary,))
    check_pending(world.store.nodes.all(), world.repository.assignment())
    assert world.versions() == world.assigned() == {**all_at("2"), canary: "1"}
