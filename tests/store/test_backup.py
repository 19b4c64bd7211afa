"""Backups: of one moment, whole or refused, and put back completely or not at all."""

from __future__ import annotations

import gzip
import os
import random
import signal
import sqlite3
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.engine import Engine

from edgectl.core.errors import ConfigError, LockHeld, StorageError, UsageError
from edgectl.store import archive, schema
from edgectl.store.alerts import Position
from edgectl.store.backup import Restored, backup, restore
from edgectl.store.engine import Database
from edgectl.store.overview import migrate
from edgectl.store.rollouts import Rollouts
from edgectl.store.store import Store
from tests.conftest import MISSING
from tests.support.full_store import alert, contents, fill, rollout, sign
from tests.support.postgresql import Server
from tests.support.raw_store import raw

FLEET = "acme"


class Bench:
    """Two stores in two databases, and the file between them."""

    def __init__(self, url: str, other: str, folder: Path) -> None:
        self.url, self.other, self.folder = url, other, folder
        self.file, self.aside = folder / "b.backup", folder / "aside.backup"

    def store(self, url: str = "") -> Store:
        return Store(url or self.url, self.folder)

    def save(self) -> archive.Manifest:
        database = Database(self.url, self.folder)
        database.connect()  # as the command does: it asks for no turn among the writers
        try:
            return backup(database, self.file, FLEET, 10**18)
        finally:
            database.close()

    def restore(self, url: str = "", fleet: str = FLEET, **more: object) -> Restored:
        with opened(url or self.other, self.folder, alone=True) as database:
            return restore(database, self.file, fleet, self.aside, 2 * 10**18, **more)  # type: ignore[arg-type]

    def contents(self, url: str) -> dict[str, list[dict[str, object]]]:
        with opened(url, self.folder) as database:
            return contents(database)


class opened:  # noqa: N801 - reads as a word
    def __init__(self, url: str, folder: Path, alone: bool = False) -> None:
        self._database, self._alone = Database(url, folder), alone

    def __enter__(self) -> Database:
        self._database.open(alone=self._alone)
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.close()


@pytest.fixture
def other(url: str, request: pytest.FixtureRequest) -> str:
    """A second empty database: of the other kind, where this machine has it."""
    if url.startswith("postgresql") or MISSING["postgresql"]():
        return "sqlite:///other.db"
    server: Server = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture
def bench(url: str, other: str, tmp_path: Path) -> Bench:
    return Bench(url, other, tmp_path)


@pytest.fixture
def small(url: str, tmp_path: Path) -> Bench:
    """Where it does not matter what the second database is."""
    return Bench(url, "sqlite:///other.db", tmp_path)


# ── there and back ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_put_back_is_what_there_was_whichever_database_it_is(bench: Bench) -> None:
    with bench.store() as store:
        fill(store)
    made = bench.save()
    before = bench.contents(bench.url)
    assert all(before.values()), "every table has something"
    assert made.rows == {**{name: len(rows) for name, rows in before.items()}, "schema_version": 1}
    assert archive.check(bench.file) == made
    assert bench.restore().backup == made
    after = bench.contents(bench.other)
    assert after.pop("orders") == [], "whether the node took it since is unknown"
    before.pop("orders")
    assert after == before


def test_generated_numbers_go_on_above_the_restored_ones(bench: Bench) -> None:
    with bench.store() as store:
        fill(store)
    bench.save()
    bench.restore()
    with bench.store(bench.other) as store:
        store.rollouts.log("ben", "audit", "", 9)
        assert [a.operator for a in store.rollouts.actions()] == ["ben", "mona"]
        assert rollout(store, "start") == 2


def test_a_backup_is_readable_by_its_operator_only_and_leaves_no_litter(small: Bench) -> None:
    with small.store() as store:
        fill(store)
    small.save()
    small.save()
    assert small.file.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in small.folder.iterdir() if ".tmp" in p.name] == []


def test_a_backup_is_of_one_moment_while_others_write(small: Bench) -> None:
    """Each transaction stores one alert and moves the position: in no backup may the two differ."""
    stop, errors = threading.Event(), []

    def write() -> None:
        try:
            with small.store() as mine:
                i = 0
                while not stop.wait(0.002):
                    i += 1
                    mine.alerts.save([alert(onset=i)], [Position(node="a", after=i)], i)
        except Exception as e:  # handed to the test
            errors.append(e)

    with small.store() as store:
        store.alerts.save([alert(onset=i) for i in range(10**6, 10**6 + 1500)], [], 1)
        writer = threading.Thread(target=write)
        writer.start()
        seen = set()
        try:
            for _ in range(3):
                small.save()
                rows = list(archive.Reader(small.file).rows())
                alerts = sum(table == "alerts" for table, _ in rows) - 1500
                after = next((row[1] for table, row in rows if table == "positions"), 0)
                assert alerts == after
                seen.add(alerts)
        finally:
            stop.set()
            writer.join(60)
    assert not errors
    assert len(seen) > 1, "the writer went on in between"


# ── what is refused, before anything is touched ─────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = Bench("sqlite:///s.db", "", tmp_path_factory.mktemp("good"))
    with bench.store() as store:
        fill(store, alerts=40)
    bench.save()
    return bench.file


def untouched(bench: Bench, says: str, error: type[Exception] = ConfigError, **more: object) -> None:
    with bench.store(bench.other) as store:
        store.alerts.save([alert(onset=77)], [], 1)
    before = bench.contents(bench.other)
    with pytest.raises(error, match=says):
        bench.restore(**{"force": True, **more})  # type: ignore[arg-type]
    assert bench.contents(bench.other) == before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_torn_or_altered_backup_is_refused(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    raw_bytes = good.read_bytes()
    lines = gzip.decompress(raw_bytes).splitlines(keepends=True)
    kind = data.draw(st.sampled_from(["cut", "flip", "line gone", "line twice", "text"]))
    at = data.draw(st.integers(1, len(lines) - 1))
    if kind == "cut":
        changed = raw_bytes[: data.draw(st.integers(0, len(raw_bytes) - 1))]
    elif kind == "flip":
        place = data.draw(st.integers(10, len(raw_bytes) - 1))  # before: gzip's own header, whose time means nothing
        changed = (
            raw_bytes[:place] + bytes([raw_bytes[place] ^ 1 << data.draw(st.integers(0, 7))]) + raw_bytes[place + 1 :]
        )
    elif kind == "line gone":
        changed = gzip.compress(b"".join(lines[:at] + lines[at + 1 :]))
    elif kind == "line twice":
        changed = gzip.compress(b"".join(lines[: at + 1] + lines[at:]))
    else:
        changed = gzip.compress(b"".join(lines).replace(b"warning", b"unheard", 1))
    path = tmp_path / "changed.backup"
    path.write_bytes(changed)
    if kind == "flip":
        with suppress(OSError, EOFError, zlib.error):
            assume(gzip.decompress(changed) != gzip.decompress(raw_bytes))  # bits that only fill deflate's last byte
    with pytest.raises(ConfigError, match="backup"):
        archive.check(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a backup"),
        (b"not even gzip", "not a backup"),
        (gzip.compress(b'{"some": "json"}\n'), "not a backup"),
        (gzip.compress(b'{"edgectl-store-backup": 9, "fleet": "acme", "schema": 1, "made_ns": 1}\n'), "format 9"),
    ],
    ids=["empty", "no-gzip", "other-json", "newer-format"],
)
def test_another_file_is_not_mistaken_for_a_backup(small: Bench, content: bytes, says: str) -> None:
    small.file.write_bytes(content)
    untouched(small, says)


def test_an_altered_backup_leaves_the_store_as_it_is(bench: Bench, good: Path) -> None:
    text_ = gzip.decompress(good.read_bytes()).replace(b"warning", b"unheard", 1)
    bench.file.write_bytes(gzip.compress(text_))
    untouched(bench, "another one; the store was not touched")


def test_another_fleets_backup_is_refused(small: Bench, good: Path) -> None:
    small.file.write_bytes(good.read_bytes())
    untouched(small, "is of the fleet 'acme', this workspace's is 'plants'", fleet="plants")


def test_a_backup_of_a_newer_schema_is_refused(small: Bench, good: Path) -> None:
    lines = gzip.decompress(good.read_bytes())
    small.file.write_bytes(gzip.compress(lines.replace(b'"schema":%d' % schema.VERSION, b'"schema":99', 1)))
    untouched(small, f"has schema 99, this edgectl knows {schema.VERSION}")


def test_a_store_that_is_not_empty_is_not_replaced_unasked(small: Bench, good: Path) -> None:
    small.file.write_bytes(good.read_bytes())
    untouched(small, "is not empty .1 rows. → --force", UsageError, force=False)
    assert not small.aside.exists()


def test_what_is_replaced_is_kept(bench: Bench, good: Path) -> None:
    bench.file.write_bytes(good.read_bytes())
    with bench.store(bench.other) as store:
        store.alerts.save([alert(onset=77)], [], 1)
    before = bench.contents(bench.other)
    assert bench.restore(force=True).aside == str(bench.aside)
    assert bench.contents(bench.other) != before
    bench.file = bench.aside
    bench.aside = bench.folder / "second.backup"
    bench.restore(force=True)
    assert bench.contents(bench.other) == before


# ── what an old backup cannot know ──────────────────────────────────────────────────────────────────────────────────


def test_a_rollout_that_the_repository_has_left_behind_is_not_resumed(small: Bench) -> None:
    with small.store() as store:
        sign(store, 3, rollout(store, "start"))
    small.save()
    done = small.restore(signed_epoch=3)
    assert (done.open_rollouts, done.superseded, done.epoch) == (("r-1",), (), 3)
    done = small.restore(signed_epoch=4, force=True)
    assert (done.open_rollouts, done.superseded) == ((), ("r-1",))
    with opened(small.other, small.folder) as database:
        rollouts = Rollouts(database)
        record = rollouts.get("r-1")
        assert record.state == "superseded"
        assert rollouts.progress(record).state == "superseded"


def test_what_was_revoked_since_stays_revoked(bench: Bench) -> None:
    with bench.store() as store:
        token = store.credentials.issue("a", 1)
        invite = store.invites.create("lyon", 1, 1, 10**18)
        bench.save()
        store.credentials.revoke("a", 50)
        store.invites.use(invite, 51)
    done = bench.restore(bench.url, force=True)
    assert (done.kept_revocations, done.tokens) == (1, 2)
    with bench.store() as store:
        found = store.credentials.match("a", token)
        assert found is None or found.refusal(60)
        assert store.invites.all()[0].used == 1


def test_positions_go_back_and_alerts_that_come_again_merge(bench: Bench) -> None:
    with bench.store() as store:
        store.alerts.save([alert(onset=1)], [Position(node="a", after=1)], 1)
        bench.save()
        store.alerts.save([alert(onset=2)], [Position(node="a", after=2)], 2)
    bench.restore(bench.url, force=True)
    with bench.store() as store:
        assert store.alerts.position("a").after == 1
        store.alerts.save([alert(onset=1), alert(onset=2)], [Position(node="a", after=2)], 3)
        assert [r.stored_ns for r in store.alerts.find()] == [3, 1]


# ── older schemas ───────────────────────────────────────────────────────────────────────────────────────────────────

OLD = gzip.decompress((Path(__file__).parent / "stores" / "v2.db.gz").read_bytes())


def test_a_backup_of_an_older_schema_is_brought_forward_on_its_way(other: str, tmp_path: Path) -> None:
    (tmp_path / "old.db").write_bytes(OLD)
    bench = Bench("sqlite:///old.db", other, tmp_path)
    database = Database(bench.url, tmp_path)
    database.connect()  # which does not migrate
    assert backup(database, bench.file, FLEET, 1).schema == 2
    database.close()
    assert sqlite_tables(tmp_path / "old.db").isdisjoint({"orders", "credentials", "invites"})
    assert bench.restore().migrated == (
        "2 → 3: tables for orders, credentials and invites",
        "3 → 4: a table for enrolments",
    )
    with bench.store() as old, bench.store(other) as new:
        assert new.nodes.all() == old.nodes.all() != {}
        assert new.alerts.find() == old.alerts.find() != ()
        assert new.rollouts.all() == old.rollouts.all() != ()


def sqlite_tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    found = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    return found


def test_a_migration_is_shown_then_done_after_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    path.write_bytes(OLD)
    database = Database("sqlite:///old.db", tmp_path)
    database.connect(alone=True)
    shown = migrate(database, tmp_path / "backups", FLEET, 0, dry_run=True, tick=lambda *_: None)
    assert (shown.found, shown.wanted, len(shown.steps), shown.backup) == (2, schema.VERSION, schema.VERSION - 2, "")
    assert path.read_bytes() == OLD, "a dry run changes nothing"
    done = migrate(database, tmp_path / "backups", FLEET, 0, dry_run=False, tick=lambda *_: None)
    assert archive.check(Path(done.backup)).schema == 2
    again = migrate(database, tmp_path / "backups", FLEET, 0, dry_run=False, tick=lambda *_: None)
    assert (again.found, again.steps, again.backup) == (schema.VERSION, (), "")
    database.close()


@pytest.mark.needs("postgresql")
def test_a_shared_store_is_migrated_only_when_somebody_says_so(postgresql: Server, tmp_path: Path) -> None:
    url = postgresql.database()
    Store(url, tmp_path).open().close()
    raw(url, tmp_path, "UPDATE schema_version SET version = 2", "DROP TABLE orders, credentials, invites")
    with pytest.raises(ConfigError, match=r"has schema 2, this edgectl needs .* → edgectl store migrate"):
        Store(url, tmp_path).open()
    database = Database(url, tmp_path)
    database.connect(alone=True)
    migrate(database, tmp_path, FLEET, 0, dry_run=False, tick=lambda *_: None)
    database.close()
    Store(url, tmp_path).open().close()


# ── alone ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_uses_the_store_while_it_is_restored(small: Bench) -> None:
    with small.store():
        alone = Database(small.url, small.folder)
        with pytest.raises(LockHeld, match="is in use, and this needs it alone → end `edgectl collect --follow`"):
            alone.open(alone=True)
    alone.open(alone=True)
    with pytest.raises(LockHeld, match="is being restored"):
        small.store().open()
    alone.close()
    small.store().open().close()


# ── killed at any moment ────────────────────────────────────────────────────────────────────────────────────────────


def statements(work: Callable[[], object], kill_at: int = 0) -> int:
    """How many statements and commits `work` makes, in a child that ends by SIGKILL right before number `kill_at`."""
    child = os.fork()
    if child == 0:
        count = 0

        def step(*_: object) -> None:
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        for name in ("before_cursor_execute", "commit"):
            event.listen(Engine, name, step)
        try:
            work()
        except BaseException:
            os._exit(255)
        os._exit(min(count, 254))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status != 255, "the work failed in the child"
    return status


def test_a_restore_killed_at_any_moment_leaves_the_old_or_the_new_store(
    url: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.store.backup.BATCH", 10)
    bench = Bench(url, url, tmp_path)
    bench.file.write_bytes(good.read_bytes())
    with bench.store() as store:
        store.alerts.save([alert(onset=i) for i in range(70, 90)], [], 1)
    start = tmp_path / "start.backup"
    with opened(url, tmp_path) as database:
        backup(database, start, FLEET, 1)
    old = bench.contents(url)
    total = statements(lambda: bench.restore(force=True))
    new = bench.contents(url)
    assert total > 40
    assert old != new
    ends = []
    for at in [*random.Random(1).sample(range(1, total + 1), 8 if url.startswith("sqlite") else 3), total - 1, total]:
        bench.file = start
        bench.restore(force=True)
        assert bench.contents(url) == old
        bench.file = tmp_path / "b.backup"
        assert statements(lambda: bench.restore(force=True), at) == -signal.SIGKILL
        found = bench.contents(url)
        assert found in (old, new)
        ends.append(found == new)
    assert not all(ends)


def test_a_backup_killed_at_any_moment_leaves_the_earlier_one(small: Bench, good: Path) -> None:
    with small.store() as store:
        fill(store)
    small.save()
    before = small.file.read_bytes()
    total = statements(small.save)
    for at in range(1, total + 1, max(1, total // 4)):
        assert statements(small.save, at) == -signal.SIGKILL
        assert small.file.read_bytes() == before


def fill_disk(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as out:
        try:
            while out.write(bytes(4096)):
                pass
        except OSError:
            return filler
    raise AssertionError


@pytest.mark.needs("root")
def test_a_full_disk_leaves_the_earlier_backup(small_disk: Path, tmp_path: Path) -> None:
    bench = Bench("sqlite:///s.db", "", tmp_path)
    bench.file = small_disk / "b.backup"
    with bench.store() as store:
        fill(store)
        bench.save()
        before = bench.file.read_bytes()
        store.alerts.save([alert(onset=i) for i in range(1000, 3000)], [], 1)
        fill_disk(small_disk)
        with pytest.raises(StorageError, match=r"cannot write .*: no space left on device → make room") as e:
            bench.save()
    assert e.value.exit_code == 75
    assert bench.file.read_bytes() == before
    assert sorted(p.name for p in small_disk.iterdir()) == ["b.backup", "filler"]


@pytest.mark.needs("root")
def test_a_full_disk_leaves_the_store_as_it_was(small_disk: Path, tmp_path: Path) -> None:
    bench = Bench("sqlite:///s.db", f"sqlite:///{small_disk}/s.db", tmp_path)
    with bench.store() as store:
        store.alerts.save([alert(onset=i) for i in range(3000)], [], 1)
    bench.save()
    with bench.store(bench.other) as store:
        fill(store)
    before = bench.contents(bench.other)
    with pytest.raises(StorageError, match="no space left for the store"):
        bench.restore(force=True)
    assert bench.contents(bench.other) == before
