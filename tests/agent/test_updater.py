"""Updates and rollbacks with the real child process, the real slots and a real repository."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from edgectl_agent import forked, trust_client
from edgectl_agent.confinement import Limits
from edgectl_agent.core.bundle import digest, encode
from edgectl_agent.core.errors import AdmissionError, UsageError
from edgectl_agent.core.messages import Epoch, UpdateResult
from edgectl_agent.forked import AtRest
from edgectl_agent.slots import Slots
from edgectl_agent.updater import Prepared, Updater

from tests.support.bundles import make_bundle
from tests.support.operators import NODE, NodeFolder, Operator, deployed, ns


class Node:
    """A node as the runtime sees it: spool, slots, updater."""

    def __init__(
        self,
        folder: Path,
        operator: Operator,
        limits: Limits | None = None,
        at_rest: AtRest | None = lambda fork: fork(),
    ) -> None:
        self.operator = operator
        self.folder = NodeFolder(folder, operator)
        self.slots = Slots(folder / "slots")
        self.updater = Updater(folder, NODE, self.slots, limits, at_rest)

    def prepare(self) -> Prepared | UpdateResult:
        self.folder.push(self.operator)
        return self.updater.prepare(ns(self.operator.now))

    def update(self) -> Prepared:
        """Prepare and commit, as the runtime does when the bundle loads."""
        found = self.prepare()
        assert isinstance(found, Prepared), found
        self.updater.commit(found)
        return found

    def refused(self, found: Prepared | UpdateResult | None = None) -> UpdateResult:
        found = found or self.prepare()
        assert isinstance(found, UpdateResult)
        assert found.state == "refused"
        assert found.exit_code
        return found

    @property
    def version(self) -> str:
        active = self.slots.active("press")
        return active.release.version if active else ""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three worlds of an operator and a node, each the one before with one more update: new, first, second."""
    folder = tmp_path_factory.mktemp("template")
    mona = deployed(folder / "new" / "mona")
    node = Node(folder / "new" / NODE, mona)
    for name, updates in (("first", 1), ("second", 2)):
        shutil.copytree(folder / "new", folder / name, symlinks=True)
        mona = Operator(folder / name / "mona")
        node = Node(folder / name / NODE, mona)
        mona.raw["1.0.0"] = encode(make_bundle(1))
        node.update()
        if updates == 2:
            mona.release("1.1.0", seed=2, fallbacks=(digest(mona.raw["1.0.0"]),))
            mona.deploy("1.1.0", epoch=2)
            node.update()
    return folder


def world(template: Path, name: str, folder: Path) -> Node:
    shutil.copytree(template / name, folder / name, symlinks=True)
    mona = Operator(folder / name / "mona")
    mona.raw |= {"1.0.0": encode(make_bundle(1)), "1.1.0": encode(make_bundle(2))}
    return Node(folder / name / NODE, mona)


@pytest.fixture
def new(template: Path, tmp_path: Path) -> Node:
    """Has nothing; 1.0.0 is deployed to it."""
    return world(template, "new", tmp_path)


@pytest.fixture
def first(template: Path, tmp_path: Path) -> Node:
    """Runs 1.0.0, epoch 1."""
    return world(template, "first", tmp_path)


@pytest.fixture
def second(template: Path, tmp_path: Path) -> Node:
    """Runs 1.1.0, epoch 2, with 1.0.0 in the other slot."""
    return world(template, "second", tmp_path)


def test_the_first_update_hands_over_a_verified_bundle(new: Node) -> None:
    found = new.prepare()
    assert isinstance(found, Prepared)
    (activation,) = found.activations
    assert (activation.recipe, activation.version, activation.variant) == ("press", "1.0.0", "fp32")
    assert activation.bundle_raw == new.operator.raw["1.0.0"]
    assert found.epoch == Epoch(number=1, operator="mona")
    assert found.trust == new.operator.repository.versions() == new.updater.trust()
    assert new.version == ""  # nothing is active before the commit
    new.updater.commit(found)
    assert new.version == "1.0.0"
    assert not (new.folder.folder / "staging").exists()


def test_a_node_that_runs_it_already_answers_unchanged(first: Node) -> None:
    found = first.prepare()
    assert isinstance(found, UpdateResult)
    assert (found.state, found.exit_code, found.epoch) == ("unchanged", 0, Epoch(number=1, operator="mona"))
    assert found.trust == first.operator.repository.versions()
    assert first.updater.state == "idle"


def test_what_the_runtime_cannot_load_is_abandoned_and_the_old_one_stays(first: Node) -> None:
    mona = first.operator
    mona.release("1.1.0", seed=2)
    mona.deploy("1.1.0", epoch=2)
    found = first.prepare()
    assert isinstance(found, Prepared)
    answer = first.updater.abandon(found, AdmissionError("deviates", reason="golden"))
    assert (answer.state, answer.reason, answer.exit_code) == ("refused", "golden", 40)
    assert answer.trust == mona.repository.versions()
    assert first.version == "1.0.0"
    with pytest.raises(UsageError, match="superseded"):
        first.updater.commit(found)


def test_a_newer_request_supersedes_what_was_prepared(new: Node) -> None:
    earlier, later = new.prepare(), new.prepare()
    assert isinstance(earlier, Prepared)
    assert isinstance(later, Prepared)
    with pytest.raises(UsageError, match="superseded"):
        new.updater.commit(earlier)
    new.updater.commit(later)
    assert new.version == "1.0.0"


# ── rollback ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rollback_needs_neither_network_nor_signature(second: Node) -> None:
    shutil.rmtree(second.folder.spool)
    found = second.updater.rollback("press", 2, "flood of alerts")
    assert isinstance(found, Prepared)
    assert (found.kind, found.activations[0].bundle_raw) == ("rollback", second.operator.raw["1.0.0"])
    assert second.version == "1.1.0"
    second.updater.commit(found)
    assert second.version == "1.0.0"
    # What was rolled back ran, so it still counts for the floor.
    assert '"press": 2' in (second.folder.folder / "trust" / "floor.json").read_text()


def test_what_was_rolled_back_is_refused_until_a_higher_epoch(second: Node) -> None:
    found = second.updater.rollback("press", 0, "flood of alerts")
    assert isinstance(found, Prepared)
    second.updater.commit(found)
    answer = second.refused()
    assert (answer.reason, answer.exit_code) == ("quarantined", 40)
    assert "flood of alerts" in answer.message
    assert second.version == "1.0.0"
    second.operator.deploy("1.1.0", epoch=3)
    second.update()
    assert second.version == "1.1.0"


def test_a_rollback_that_must_not_be_is_refused(first: Node, second: Node) -> None:
    stale = second.refused(second.updater.rollback("press", 1, "flood"))
    assert (stale.exit_code, stale.reason) == (42, "old-epoch")
    unknown = second.refused(second.updater.rollback("pump", 2, "flood"))
    assert (unknown.exit_code, unknown.reason) == (2, "unknown-recipe")
    assert (second.version, second.slots.quarantined()) == ("1.1.0", ())

    assert first.refused(first.updater.rollback("press", 1, "flood")).reason == "no-fallback"
    first.operator.release("1.2.0", seed=3)  # lists no fallback
    first.operator.deploy("1.2.0", epoch=3)
    first.update()
    answer = first.refused(first.updater.rollback("press", 3, "flood"))
    assert (answer.exit_code, answer.reason) == (42, "not-permitted")
    assert first.version == "1.2.0"


def test_a_damaged_fallback_is_not_returned_to(second: Node) -> None:
    other = second.slots.other("press")
    assert other is not None
    other.path.write_bytes(other.path.read_bytes()[:-1])
    answer = second.refused(second.updater.rollback("press", 2, "flood"))
    assert answer.exit_code == 75
    assert second.version == "1.1.0"
    assert second.updater.state == "idle"


@pytest.mark.parametrize("damage", ["active", "both"])
def test_a_damaged_bundle_is_installed_again_by_the_same_release(second: Node, damage: str) -> None:
    held = [second.slots.active("press"), second.slots.other("press")]
    for slot in held if damage == "both" else held[:1]:
        assert slot is not None
        raw = bytearray(slot.path.read_bytes())
        raw[100:102] = bytes(b ^ 0xFF for b in raw[100:102])
        slot.path.write_bytes(raw)
    found = second.update()
    assert [(a.version, a.bundle_raw) for a in found.activations] == [("1.1.0", second.operator.raw["1.1.0"])]
    active = second.slots.active("press")
    assert active is not None
    assert (second.version, active.bundle_raw) == ("1.1.0", second.operator.raw["1.1.0"])
    again = second.prepare()
    assert isinstance(again, UpdateResult)
    assert again.state == "unchanged"


def test_damage_does_not_let_an_older_release_in(second: Node) -> None:
    mona = second.operator
    mona.release("1.2.0", seed=3)  # lists no fallback
    mona.deploy("1.2.0", epoch=3)
    second.update()
    active = second.slots.active("press")
    assert active is not None
    active.path.write_bytes(b"x" * 200)
    mona.deploy("1.0.0", epoch=4)
    answer = second.refused()
    assert (answer.exit_code, answer.reason) == (42, "old-release")


# ── models that misbehave while they load ───────────────────────────────────────────────────────────────────────────


WAYS: dict[str, AtRest | None] = {"forked": lambda fork: fork(), "a program": None}
"""Of beginning the child."""
either_way = pytest.mark.parametrize("way", WAYS)


STARVED = """
import sys
from pathlib import Path
from tests.agent.test_updater import NODE, WAYS, Limits, Slots, Updater
import edgectl_agent.inference

way, folder, now_ns = sys.argv[1:]
updater = Updater(Path(folder), NODE, Slots(Path(folder) / "slots"), Limits(memory_bytes=40 * 2**20), WAYS[way])
answer = updater.prepare(int(now_ns))
print(answer.state, answer.exit_code, answer.reason)
"""


def misbehaving(node: Node, kind: str, limits: Limits, way: str = "forked") -> Node:
    """1.1.0 is deployed to it and misbehaves."""
    node.operator.release("1.1.0", seed=2, kind=kind)
    node.operator.deploy("1.1.0", epoch=2)
    return Node(node.folder.folder, node.operator, limits, WAYS[way])


@either_way
def test_a_model_that_hangs_is_stopped_by_the_clock(first: Node, way: str) -> None:
    node = misbehaving(first, "hang", Limits(wall_s=2), way)
    answer = node.refused()
    assert (answer.exit_code, answer.reason) == (40, "timeout")
    assert node.version == "1.0.0"


@either_way
def test_a_model_that_asks_for_all_memory_is_refused(first: Node, way: str) -> None:
    node = misbehaving(first, "hog", Limits(), way)
    answer = node.refused()
    assert answer.exit_code == 40
    assert "bad_alloc" in answer.message or "memory" in answer.message
    assert node.version == "1.0.0"


@either_way
def test_a_child_without_room_to_start_is_a_refusal_too(new: Node, way: str) -> None:
    new.folder.push(new.operator)
    # In an interpreter of its own: a fork of this one has all the room that earlier tests' objects left in its heap.
    told = [way, str(new.folder.folder), str(ns(new.operator.now))]
    done = subprocess.run(
        [sys.executable, "-c", STARVED, *told], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "refused 40 child-failed\n"


def test_a_model_that_hangs_is_stopped_by_its_processor_time_and_others_wait(first: Node) -> None:
    node = misbehaving(first, "hang", Limits(cpu_s=2))
    node.folder.push(node.operator)
    answers: list[Prepared | UpdateResult] = []
    slow = threading.Thread(target=lambda: answers.append(node.updater.prepare(ns(node.operator.now))))
    slow.start()
    while node.updater.state != "verifying":
        slow.join(0.01)
    again = node.refused(node.updater.prepare(ns(node.operator.now)))
    back = node.refused(node.updater.rollback("press", 2, "flood"))
    assert (again.reason, again.exit_code, back.reason) == ("busy", 75, "busy")
    slow.join()
    answer = node.refused(answers[0])
    assert (answer.exit_code, answer.reason) == (40, "child-failed")
    assert "admitting press 1.1.0" in answer.message
    assert "processor time" in answer.message
    assert (node.version, node.updater.state) == ("1.0.0", "idle")


# ── a child that cannot be forked ───────────────────────────────────────────────────────────────────────────────────


def no_room(_: object) -> int:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_where_nothing_can_be_forked_a_program_verifies(new: Node, caplog: pytest.LogCaptureFixture) -> None:
    node = Node(new.folder.folder, new.operator, at_rest=no_room)
    node.update()
    assert node.version == "1.0.0"
    assert "verifying-process" in caplog.text


def test_a_lock_that_was_held_at_the_fork_holds_up_no_update(new: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.Lock()
    monkeypatch.setattr(forked, "FIRST_WORD_S", 0.3)
    monkeypatch.setattr(trust_client, "judge", lambda *_: lock.acquire())  # in the forked child alone
    with lock:
        new.update()
    assert new.version == "1.0.0"
