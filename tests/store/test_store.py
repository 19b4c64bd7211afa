"""The fleet state store: idempotent, order-free, durable, and clear about what is wrong with it."""

from __future__ import annotations

import gzip
import itertools
import multiprocessing
import random
import sqlite3
from pathlib import Path

import msgspec
import pytest
from edgectl_agent.core.messages import (
    Alert,
    Allowance,
    Assignment,
    Epoch,
    supersedes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from edgectl.core.audit import Finding
from edgectl.core.errors import ConfigError, LockHeld, NothingMatched, StorageError
from edgectl.core.rollout import Entry, IllegalEvent, begin
from edgectl.store import engine, schema, sqlite
from edgectl.store.alerts import Position
from edgectl.store.nodes import HISTORY
from edgectl.store.store import Store
from tests.support.full_store import alert, plan, report
from tests.support.raw_store import raw

# ── alerts ──────────────────────────────────────────────────────────────────────────────────────────────────────────

VARIANTS = [
    alert(), alert(score=2.0), alert(severity="critical"), alert(state="cleared", changed_ns=9),
    alert(state="cleared", severity="critical", changed_ns=9, score=7.0), alert(onset=2),
]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.permutations(VARIANTS + VARIANTS), st.integers(1, 12))
def test_alerts_end_up_the_same_in_any_order_and_any_batches(records: list[Alert], size: int) -> None:
    with Store("sqlite://", Path()) as store:
        for i in range(0, len(records), size):
            store.alerts.save(records[i : i + size], [], now_ns=i + 1)
        found = {r.alert.id: r.alert for r in store.alerts.find()}
    assert found == {VARIANTS[4].id: VARIANTS[4], VARIANTS[5].id: VARIANTS[5]}


def test_saving_returns_only_what_changed_and_keeps_the_first_time(store: Store) -> None:
    first, cleared = alert(), alert(state="cleared", changed_ns=5)
    assert supersedes(cleared, first)
    assert store.alerts.save([first, first], [], 10) == (first,)
    assert store.alerts.save([first], [], 20) == ()
    assert store.alerts.save([cleared], [], 30) == (cleared,)
    assert store.alerts.save([first], [], 40) == ()
    (record,) = store.alerts.find()
    assert (record.alert, record.stored_ns) == (cleared, 10)


def test_a_position_moves_in_the_same_transaction_as_its_alerts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.alerts.position("a") == Position(node="a")
    store.alerts.save([alert()], [Position(node="a", after=4, lost=((1, 2),))], 1)
    assert store.alerts.position("a") == Position(node="a", after=4, lost=((1, 2),))

    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("edgectl.store.alerts._move", broken)
    with pytest.raises(RuntimeError):
        store.alerts.save([alert(onset=9)], [Position(node="a", after=5)], 1)
    assert len(store.alerts.find()) == 1
    assert store.alerts.position("a").after == 4


def test_thousands_of_alerts_are_one_batch(store: Store) -> None:
    assert len(store.alerts.save([alert(onset=i) for i in range(2990)], [], 1)) == 2990
    assert len(store.alerts.save([alert(onset=i) for i in range(2990, 3000)], [], 5)) == 10
    assert [store.alerts.count(since) for since in (1, 5, 6)] == [3000, 10, 0]
    assert len(store.alerts.find(limit=7)) == 7


def test_an_alert_is_found_by_a_beginning_that_fits_only_one(store: Store) -> None:
    one, two = (alert(onset=i) for i in (1, 2))
    store.alerts.save([one, two], [], 1)
    assert store.alerts.get(one.id).alert == one
    assert store.alerts.get(one.id[2:9]).alert == one
    with pytest.raises(NothingMatched, match="beginning of several"):
        store.alerts.get("a-")
    with pytest.raises(NothingMatched, match="no alert"):
        store.alerts.get("a-%")


def test_the_first_acknowledgement_stays(store: Store) -> None:
    store.alerts.save([alert()], [], 1)
    assert store.alerts.acknowledge([alert().id], "mona", 5) == 1
    assert store.alerts.acknowledge([alert().id], "ben", 6) == 0
    store.alerts.save([alert(state="cleared")], [], 7)
    (record,) = store.alerts.find(state="cleared")
    assert (record.acknowledged_by, record.acknowledged_ns) == ("mona", 5)


# ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_failure_keeps_the_last_report_and_remembers_since_when(store: Store) -> None:
    store.nodes.save(report(clock_ns=130), 100)
    store.nodes.save_failure("a", "no answer", 200)
    store.nodes.save_failure("a", "still none", 300)
    found = store.nodes.all()["a"]
    assert (found.received_ns, found.skew_ns, found.failing_since_ns, found.error) == (100, 30, 200, "still none")
    assert found.report == report(clock_ns=130)
    store.nodes.save(report(), 400)
    assert (store.nodes.all()["a"].error, store.nodes.all()["a"].failing_since_ns) == ("", 0)


def test_the_same_report_again_is_as_old_as_it_was(store: Store) -> None:
    store.nodes.save(report(clock_ns=130), 100)
    store.nodes.save_failure("a", "no answer", 150)
    store.nodes.save(report(clock_ns=130), 200)
    found = store.nodes.all()["a"]
    assert (found.received_ns, found.skew_ns, found.attempted_ns, found.error) == (100, 30, 200, "")
    store.nodes.save(report(clock_ns=131), 300)
    assert store.nodes.all()["a"].received_ns == 300


def test_the_history_of_reports_is_short_and_forgotten_with_the_node(store: Store, url: str, tmp_path: Path) -> None:
    for i in range(HISTORY + 5):
        store.nodes.save(report(clock_ns=i), i + 1)
    assert raw(url, tmp_path, "SELECT count(*), min(received_ns) FROM reports") == [(HISTORY, 6)]
    store.nodes.forget("a")
    assert store.nodes.all() == {}


# ── rollouts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_journal_is_the_truth_and_the_tables_reflect_it(store: Store, url: str, tmp_path: Path) -> None:
    record = store.rollouts.create(plan(), "mona", 1)
    progress = begin(record.plan)
    for i, (event, node) in enumerate([("start", ""), ("offer", "a"), ("lose", "a")]):
        progress = store.rollouts.append(
            record.number, progress, Entry(event=event, node=node, at_ns=i + 2, detail="no answer" if node else "")
        )
    with Store(url, tmp_path) as other:
        again = other.rollouts.get("r-1")
        assert other.rollouts.progress(again) == progress
        assert (again.state, again.changed_ns, again.plan) == ("running", 4, plan())
        assert other.rollouts.create(plan(), "mona", 1).name == "r-2"
    rows = raw(url, tmp_path, "SELECT state, detail FROM rollout_nodes WHERE node = 'a' AND rollout = 1")
    assert rows == [("unreachable", "no answer")]


def test_an_illegal_event_writes_nothing(store: Store) -> None:
    record = store.rollouts.create(plan(), "mona", 1)
    with pytest.raises(IllegalEvent):
        store.rollouts.append(record.number, begin(record.plan), Entry(event="finish", at_ns=2))
    assert store.rollouts.journal(record.number) == ()


def test_a_gap_in_a_journal_is_damage(store: Store, url: str, tmp_path: Path) -> None:
    record = store.rollouts.create(plan(), "mona", 1)
    progress = store.rollouts.append(record.number, begin(plan()), Entry(event="start", at_ns=2))
    store.rollouts.append(record.number, progress, Entry(event="assign", at_ns=3, epoch=1))
    raw(url, tmp_path, "DELETE FROM rollout_journal WHERE sequence = 1")
    with pytest.raises(StorageError, match="journal of r-1 has a gap"):
        store.rollouts.journal(record.number)


def test_the_newest_signed_assignment_is_what_is_desired(store: Store) -> None:
    assert store.rollouts.desired() is None
    for number in (1, 3, 2):
        assignment = Assignment(fleet="f", epoch=Epoch(number=number, operator="mona"), models={})
        store.rollouts.signed(assignment, "s", None, "", number)
        store.rollouts.signed(assignment, "s", None, "", 99)
    desired = store.rollouts.desired()
    assert desired is not None
    assert desired.epoch.number == 3


def test_other_rules_for_actions_within_an_epoch_are_what_is_desired(store: Store) -> None:
    first = Assignment(fleet="f", epoch=Epoch(number=1, operator="mona"), models={})
    ruled = Allowance(nodes=("n1",), rules=({"type": "file", "path": "/var/log/plant"},))
    store.rollouts.signed(first, "s", None, "", 1)
    for allow in ((ruled,), ()):
        store.rollouts.signed(msgspec.structs.replace(first, allow=allow), "t", None, "nodes allow", 2)
        desired = store.rollouts.desired()
        assert desired is not None
        assert desired.allow == allow


# ── findings ────────────────────────────────────────────────────────────────────────────────────────────────────────


def finding(kind: str, since_ns: int = 10) -> Finding:
    return Finding(kind=kind, node="a", since_ns=since_ns, detail=kind)


def test_what_is_new_and_what_is_resolved_is_told_once(store: Store) -> None:
    replace = store.findings.replace
    told = replace([finding("x"), finding("y")], 10, tell=True)
    assert [f.kind for f in told.new] == ["x", "y"]
    told = replace([finding("x", 50)], 50, tell=True)
    assert (told.new, [f.kind for f in told.resolved]) == ((), ["y"])
    assert told.standing[0].since_ns == 10, "it has stood since the first time"
    told = replace([finding("x", 60)], 60, tell=True)
    assert (told.new, told.resolved) == ((), ())


def test_a_look_in_between_neither_tells_nor_hides(store: Store) -> None:
    replace = store.findings.replace
    replace([finding("x")], 10, tell=True)
    assert [f.kind for f in replace([finding("z")], 20, tell=False).standing] == ["z"]
    assert [f.kind for f in store.findings.standing()] == ["z"]
    told = replace([finding("z", 30)], 30, tell=True)
    assert [f.kind for f in told.new] == ["z"]
    assert [f.kind for f in told.resolved] == ["x"]
    replace([finding("q")], 40, tell=False)
    assert replace([], 50, tell=True).resolved == (finding("z"),), "q came and went unseen"


# ── what is wrong with a store ──────────────────────────────────────────────────────────────────────────────────────


def test_a_store_of_a_newer_edgectl_is_refused(store: Store, url: str, tmp_path: Path) -> None:
    store.close()
    raw(url, tmp_path, "INSERT INTO schema_version VALUES (99, 0)")
    with pytest.raises(ConfigError, match=rf"schema 99, this edgectl knows {schema.VERSION} → use the newer edgectl"):
        Store(url, tmp_path).open()


def test_an_older_store_is_brought_forward_in_one_transaction(url: str, tmp_path: Path) -> None:
    Store(url, tmp_path).open().close()
    now = schema.VERSION
    steps = {now: lambda c: c.execute(text("ALTER TABLE actions ADD COLUMN extra TEXT")), now + 1: lambda c: 1 / 0}
    newer = engine.Database(url, tmp_path, steps, version=now + 1)
    newer.open(migrate=True)
    with newer.read() as connection:
        connection.execute(text("SELECT extra FROM actions"))
    newer.close()
    broken = engine.Database(url, tmp_path, steps, version=now + 2)
    with pytest.raises(ZeroDivisionError):
        broken.open(migrate=True)
    broken.close()
    newer.open()
    newer.close()


def test_positions_of_the_first_schema_are_of_an_unknown_outbox(url: str, tmp_path: Path) -> None:
    Store(url, tmp_path).open().close()
    raw(
        url,
        tmp_path,
        "ALTER TABLE positions DROP COLUMN log_id",
        "INSERT INTO positions (node, after_seq, lost) VALUES ('a', 4, '[[1, 2]]')",
        "UPDATE schema_version SET version = 1",
    )
    database = engine.Database(url, tmp_path)
    database.open(migrate=True)
    database.close()
    with Store(url, tmp_path) as store:
        assert store.alerts.position("a") == Position(node="a", after=4, lost=((1, 2),))
        moved = Position(node="a", after=5, log_id="x" * 32)
        store.alerts.save([], [moved, Position(node="b", after=1)], 1)
        assert store.alerts.positions() == {"a": moved, "b": Position(node="b", after=1)}


def test_a_store_that_the_second_schema_wrote_keeps_all_that_it_held(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(gzip.decompress((Path(__file__).parent / "stores" / "v2.db.gz").read_bytes()))
    for _ in range(2):
        with Store("sqlite:///s.db", tmp_path) as store:
            assert {name: r.error for name, r in store.nodes.all().items()} == {"a": "", "b": "no answer"}
            assert len(store.alerts.find()) == 2
            assert store.alerts.position("a") == Position(node="a", after=2, lost=((1, 1),), log_id="x" * 32)
            assert [r.name for r in store.rollouts.all()] == ["r-1"]
            assert [f.kind for f in store.findings.standing()] == ["x"]
            assert (store.orders.waiting("a", 0), store.credentials.of("a"), store.invites.all()) == ((), (), ())
    with Store("sqlite:///s.db", tmp_path) as store:
        made = store.orders.put("a", "GET", "/v1/status", "", 1, 9)
        assert store.orders.get(made.id) == made
    with sqlite3.connect(tmp_path / "s.db") as raw, sqlite3.connect(tmp_path / "new.db") as new:
        Store("sqlite:///new.db", tmp_path).open().close()
        of = "SELECT name FROM sqlite_master WHERE name LIKE 'orders%' OR name LIKE 'cred%' OR name LIKE 'inv%'"
        of += " OR name LIKE 'enrol%'"
        assert set(raw.execute(of)) == set(new.execute(of)), "brought forward or new: the same tables and indices"
    raw.close()
    new.close()


def test_another_database_is_not_mistaken_for_a_store(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as raw:
        raw.execute("CREATE TABLE customers (id)")
    raw.close()
    with pytest.raises(ConfigError, match="not an edgectl store"):
        Store("sqlite:///other.db", tmp_path).open()


@pytest.mark.parametrize("damage", ["not sqlite", "flipped"])
def test_damage_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.db"
    with Store("sqlite:///s.db", tmp_path) as store:
        store.alerts.save([alert(onset=i) for i in range(500)], [], 1)
    raw = bytearray(path.read_bytes())
    if damage == "not sqlite":
        raw[:] = b"x" * len(raw)
    else:
        raw[4096:] = random.Random(1).randbytes(len(raw) - 4096)
    path.write_bytes(raw)
    with pytest.raises(StorageError, match="is damaged") as e, Store("sqlite:///s.db", tmp_path) as store:
        store.alerts.find()
    assert e.value.exit_code == 75


def _hold(url: str, root: Path, held: object, done: object) -> None:
    database = engine.Database(url, root)
    database.open()
    with database.write():
        held.set()  # type: ignore[attr-defined]
        done.wait(60)  # type: ignore[attr-defined]
    database.close()


def test_a_store_that_another_process_holds_is_exit_code_50(
    store: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_S", 0.2)
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(url, tmp_path, held, done))
    holder.start()
    try:
        assert held.wait(60)
        with pytest.raises(LockHeld, match="in use by another process") as e, Store(url, tmp_path):
            pass
        assert e.value.exit_code == 50
    finally:
        done.set()
        holder.join()


def fill(store: Store) -> None:
    for i in itertools.count():
        store.alerts.save([alert(onset=1000 * i + k) for k in range(200)], [], 1)


@pytest.mark.needs("root")
def test_a_full_disk_is_exit_code_75_and_the_store_stays_whole(small_disk: Path) -> None:
    with Store("sqlite:///s.db", small_disk) as store:
        with pytest.raises(StorageError, match="no space left") as e:
            fill(store)
        assert e.value.exit_code == 75
        whole = len(store.alerts.find())
    assert whole % 200 == 0
    with Store("sqlite:///s.db", small_disk) as again:
        assert len(again.alerts.find()) == whole


@pytest.mark.parametrize("url", ["nonsense", "mysql+nothing://x/y", "mysql://ops@db/edgectl"])
def test_a_url_that_cannot_be_opened_is_exit_code_3(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError):
        Store(url, tmp_path).open()


def test_sqlite_runs_durably(tmp_path: Path) -> None:
    with Store("sqlite:///s.db", tmp_path) as store, store._database.read() as connection:
        mode = connection.execute(text("PRAGMA journal_mode")).scalar()
        assert mode == ("wal" if sqlite3.sqlite_version_info >= sqlite.WAL_FROM else "delete")
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_a_read_only_store_says_so(tmp_path: Path) -> None:
    assert schema.VERSION >= 1
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot create the store's folder"):
        Store("sqlite:///file/state.db", tmp_path).open()
