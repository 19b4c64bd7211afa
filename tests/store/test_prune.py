"""Retention: what is past it goes; what somebody needs never does."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgectl_agent.core.units import DAY_NS
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.audit import Finding
from edgectl.core.records import RolloutRecord
from edgectl.core.retention import Retention, disposable
from edgectl.core.rollout import OPEN, RESUMABLE, ROLLOUT
from edgectl.store import prune as pruning
from edgectl.store.engine import Database
from edgectl.store.orders import Answer
from edgectl.store.prune import Pruned, prune
from edgectl.store.store import Store
from tests.support.full_store import alert, plan, report, rollout, sign
from tests.support.raw_store import raw

NOW = 1000 * DAY_NS
OLD, YOUNG = NOW - 100 * DAY_NS, NOW - DAY_NS
KEEP = Retention().older_than(90 * DAY_NS)


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "PORTION", 2)


def run(url: str, folder: Path, keep: Retention = KEEP, *, dry_run: bool = False) -> Pruned:
    database = Database(url, folder)
    database.open()
    try:
        return prune(database, keep, NOW, dry_run=dry_run, tick=lambda *_: None)
    finally:
        database.close()


def cleared(onset: int, **more: object) -> object:
    return alert(onset, **{"state": "cleared", "changed_ns": OLD, "accepted_ns": OLD, **more})


def test_only_old_cleared_alerts_that_somebody_has_seen_go(store: Store, url: str, tmp_path: Path) -> None:
    gone = [cleared(i) for i in range(1, 6)]
    seen, unseen = cleared(10, severity="critical"), cleared(11, severity="critical")
    open_ = alert(12, severity="critical", accepted_ns=OLD)
    late = [cleared(13, changed_ns=YOUNG), cleared(14, accepted_ns=YOUNG)]
    store.alerts.save([*gone, seen, unseen, open_, *late], [], OLD)  # type: ignore[list-item]
    store.alerts.save([cleared(15)], [], YOUNG)  # type: ignore[list-item]
    store.alerts.acknowledge([seen.id], "mona", OLD)  # type: ignore[attr-defined]
    before = store.alerts.find()
    assert run(url, tmp_path, dry_run=True).rows["alerts"] == 6
    assert store.alerts.find() == before, "a dry run deletes nothing"
    assert run(url, tmp_path).rows["alerts"] == 6
    assert sorted(r.alert.onset_ns for r in store.alerts.find()) == [11, 12, 13, 14, 15]
    assert sum(run(url, tmp_path).rows.values()) == 0


def test_the_newest_report_of_a_node_stays_however_old_it_is(store: Store, url: str, tmp_path: Path) -> None:
    for node in ("a", "b"):
        for i in range(3):
            store.nodes.save(report(node, clock_ns=i), OLD + i)
    store.nodes.save(report("b", clock_ns=9), YOUNG)
    assert run(url, tmp_path).rows["reports"] == 6
    assert {name: r.received_ns for name, r in store.nodes.all().items()} == {"a": OLD + 2, "b": YOUNG}


def test_findings_and_actions_go_when_they_are_settled(store: Store, url: str, tmp_path: Path) -> None:
    for kind in ("x", "y"):
        store.findings.replace([Finding(kind=kind, node="a", since_ns=OLD, detail="d")], OLD, tell=kind == "x")
    store.rollouts.log("mona", "audit", "", OLD)
    store.rollouts.log("mona", "audit", "", YOUNG)
    rows = run(url, tmp_path).rows
    assert (rows["findings"], rows["actions"]) == (1, 1)
    assert [f.kind for f in store.findings.standing()] == ["y"]


def test_what_waits_for_a_node_and_what_lets_one_in_stays(store: Store, url: str, tmp_path: Path) -> None:
    done = store.orders.put("a", "POST", "/v1/update", "{}", OLD, NOW + DAY_NS)
    store.orders.sync("a", [Answer(id=done.id, status=200)], OLD + 1)
    store.orders.put("a", "POST", "/v1/rollback", "{}", OLD, OLD + 5)
    waits = store.orders.put("a", "POST", "/v1/update", "{1}", OLD, NOW + DAY_NS)
    token = store.credentials.issue("a", OLD)
    store.credentials.issue("b", OLD, expires_ns=OLD + 1)
    store.invites.create("lyon", 3, OLD, OLD + 1)
    store.invites.create("lyon", 3, OLD, NOW + DAY_NS)
    rows = run(url, tmp_path).rows
    assert (rows["orders"], rows["credentials"], rows["invites"]) == (2, 1, 1)
    assert [o.id for o in store.orders.sync("a", [], NOW)] == [waits.id]
    assert store.credentials.match("a", token) is not None
    assert len(store.invites.all()) == 1


def test_rollouts_go_with_their_journals_and_the_assignment_in_force_keeps_its_own(
    store: Store, url: str, tmp_path: Path
) -> None:
    numbers = [rollout(store, "start", "finish", at_ns=OLD) for _ in range(4)]
    for epoch, number in enumerate([numbers[1], numbers[2], numbers[0]], start=1):
        sign(store, epoch, number, OLD)
    open_ = rollout(store, "start", "pause", recipe="other", at_ns=OLD)
    rollout(store, "start", "finish", recipe="third", at_ns=YOUNG)
    rows = run(url, tmp_path).rows
    assert [r.number for r in store.rollouts.all()] == [6, open_, numbers[3], numbers[0]]
    assert (rows["rollouts"], rows["rollout_journal"], rows["rollout_nodes"], rows["assignments"]) == (2, 4, 4, 2)
    desired = store.rollouts.desired()
    assert desired is not None
    assert desired.epoch.number == 3
    for record in store.rollouts.all():
        assert store.rollouts.progress(record).state == record.state
    assert raw(url, tmp_path, "SELECT count(*) FROM rollout_journal WHERE rollout NOT IN (1, 4, 5, 6)") == [(0,)]


def test_a_number_is_never_given_again(store: Store, url: str, tmp_path: Path) -> None:
    for _ in range(3):
        last = rollout(store, "start", "finish", at_ns=OLD)
    run(url, tmp_path)
    assert rollout(store, "start") == last + 1


def test_the_room_is_given_back(tmp_path: Path) -> None:
    with Store("sqlite:///s.db", tmp_path) as store:
        store.alerts.save([cleared(i) for i in range(1500)], [], OLD)  # type: ignore[misc]
    pruning.PORTION = 400
    size = (tmp_path / "s.db").stat().st_size
    done = run("sqlite:///s.db", tmp_path)
    assert (done.note, done.bytes_before) == ("", size)
    assert done.bytes_after == (tmp_path / "s.db").stat().st_size < size / 3


STATES = sorted({state for state, _ in ROLLOUT} | set(ROLLOUT.values()))


@given(
    st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from(["press", "host"]), st.integers(0, 100))),
    st.integers(1, 5),
    st.integers(0, 100),
    st.frozensets(st.integers(1, 9)),
)
def test_open_needed_and_newest_rollouts_are_never_disposable(
    made: list[tuple[str, str, int]], keep: int, age: int, needed: frozenset[int]
) -> None:
    records = [
        RolloutRecord(
            number=i, recipe=recipe, kind="deploy", operator="o", created_ns=at, changed_ns=at, state=state,  # type: ignore[arg-type]
            plan=plan(recipe),
        )
        for i, (state, recipe, at) in enumerate(made, start=1)
    ][::-1]  # fmt: skip
    gone = disposable(records, Retention(rollouts=keep, rollouts_ns=age), 100, needed)
    for record in records:
        if record.number in gone:
            newer = [r for r in records if r.recipe == record.recipe and r.number > record.number]
            assert record.state not in OPEN | RESUMABLE
            assert record.number not in needed
            assert len(newer) >= keep
            assert 100 - record.changed_ns > age
    assert not records or records[0].number not in gone
