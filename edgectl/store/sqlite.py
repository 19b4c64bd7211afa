"""What is special to SQLite: one file of one machine.

It runs with a rollback journal where the library is older than 3.51.3 (earlier ones can lose a committed WAL
transaction at a checkpoint), else with a WAL; in both with ``synchronous=FULL``.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from edgectl.core.errors import EdgeError, LockHeld, StorageError

WAL_FROM = (3, 51, 3)
MIGRATES_BY_ITSELF = True
"""A file has one owner: whoever opens it with a newer edgectl wants it to work."""


def placed(url: URL, root: Path) -> URL:
    """`url` with a relative path below `root`."""
    return url.set(database=str(root / url.database)) if in_file(url) and url.database else url


def in_file(url: URL) -> bool:
    """Whether the database is more than memory of this process."""
    return bool(url.database) and url.database != ":memory:"


def shown(url: URL) -> str:
    """How messages call the store."""
    return url.database or ""


def prepare(url: URL) -> None:
    """Make the folder. Raises `StorageError`."""
    if url.database and in_file(url):
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StorageError(f"cannot create the store's folder {folder}: {e.strerror}") from e


def engine(url: URL, busy_s: float) -> Engine:
    """Connections that wait `busy_s` for another writer."""
    made = create_engine(url)
    _tune(made, busy_s)
    return made


def _tune(engine: Engine, busy_s: float) -> None:
    journal = "WAL" if sqlite3.sqlite_version_info >= WAL_FROM else "DELETE"

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late and is never IMMEDIATE
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(busy_s * 1000)}")
        if cursor.execute("PRAGMA journal_mode").fetchone()[0].upper() != journal:
            cursor.execute(f"PRAGMA journal_mode = {journal}")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # A reader that turns writer cannot wait for the lock (it would deadlock), so a writer says so at once.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def presence(engine: Engine, url: URL, alone: bool) -> Iterator[None]:
    """Be counted among those who use the store; with `alone` be the only one. Raises `LockHeld`, `StorageError`.

    The lock is a file of its own: SQLite's locks on the database end when any descriptor of it is closed.
    """
    if not in_file(url):
        yield
        return
    path = f"{url.database}.lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as e:
        raise StorageError(f"cannot open the store's lock {path}: {e.strerror}") from e
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError:
            raise in_use(shown(url), alone) from None
        yield
    finally:
        os.close(file)


def in_use(where: str, alone: bool) -> LockHeld:
    """Why the store cannot be opened."""
    if alone:
        hint = "end `edgectl collect --follow`, `edgectl serve` and what else uses it, and repeat"
        return LockHeld(f"the store {where} is in use, and this needs it alone", hint=hint)
    return LockHeld(f"the store {where} is being restored", hint="wait for it to end and repeat")


@contextmanager
def snapshot(engine: Engine, busy_s: float, where: str) -> Iterator[Connection]:
    """A private copy as of now; writers wait only while it is made. Raises `LockHeld`."""
    copy = sqlite3.connect("", check_same_thread=False)  # a temporary file that SQLite itself removes
    deadline = time.monotonic() + busy_s

    def waiting(status: int, left: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise LockHeld(f"the store {where} is in use by another process", hint="wait for it to end and repeat")

    try:
        with engine.connect() as connection:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            source.backup(copy, progress=waiting)
        with scratch(copy) as connection:
            yield connection
    finally:
        copy.close()


@contextmanager
def scratch(database: sqlite3.Connection) -> Iterator[Connection]:
    """One transaction on a database of our own; kept for as long as `database` is open."""
    database.isolation_level = None
    engine = create_engine("sqlite://", creator=lambda: database, poolclass=StaticPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.connect() as connection, connection.begin():
        yield connection


def after_explicit_keys(connection: Connection) -> None:
    """Nothing: the next key is the highest plus one anyway."""


def size(connection: Connection) -> int:
    """Bytes of the file."""
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar() or 0
    return int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar() or 0)


def reclaim(engine: Engine) -> None:
    """Give the room of deleted rows back to the disk; needs as much again while it runs."""
    with engine.connect() as connection:
        source = connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        source.execute("VACUUM")


def explain(error: DBAPIError | sqlite3.Error, where: str) -> EdgeError:
    """The sentence for what SQLite complains about."""
    said = getattr(error, "orig", None) or error
    text = str(said).lower()
    if "locked" in text or "busy" in text:
        return LockHeld(f"the store {where} is in use by another process", hint="wait for it to end and repeat")
    if "full" in text:
        return StorageError(f"no space left for the store {where}", hint="free space and repeat", reason="full")
    if "readonly" in text or "read-only" in text:
        return StorageError(f"the store {where} cannot be written: {said}")
    if "malformed" in text or "not a database" in text or "corrupt" in text:
        return StorageError(
            f"the store {where} is damaged: {said}",
            hint="move it away, then `edgectl store restore` a backup or run `edgectl collect`: reports and unreleased"
            " alerts come again from the nodes",
            reason="damaged",
        )
    if "unable to open" in text:
        return StorageError(f"the store {where} cannot be opened: {said}")
    return StorageError(f"the store {where} refused: {said}")
