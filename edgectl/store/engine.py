"""Opens the store's database and turns what it complains about into sentences.

SQLite runs with a rollback journal where its library is older than 3.51.3 (earlier ones can lose a committed WAL
transaction at a checkpoint), else with a WAL; in both with ``synchronous=FULL``. Only this file knows SQLite.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from edgectl.core.errors import ConfigError, EdgeError, LockHeld, StorageError
from edgectl.store import schema

BUSY_S = 5.0
WAL_FROM = (3, 51, 3)


class Database:
    """One connection pool; `write` and `read` are its transactions. Threads may share it: writers take turns."""

    def __init__(
        self,
        url: str,
        root: Path,
        migrations: Mapping[int, schema.Migration] = schema.MIGRATIONS,
        version: int = schema.VERSION,
    ) -> None:
        self._url = url
        self._root = root
        self._migrations = migrations
        self._version = version
        self._engine: Engine | None = None
        self._turn = threading.RLock()

    def open(self) -> None:
        """Connect, create missing tables, bring older ones forward.

        Raises:
            ConfigError: a URL that is none, a missing driver, a file that is no store, a store of a newer edgectl.
            LockHeld, StorageError: as `write`.
        """
        url = _resolve(self._url, self._root)
        if url.database and url.get_backend_name() == "sqlite" and url.database != ":memory:":
            try:
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise StorageError(f"cannot create the store's folder {Path(url.database).parent}: {e.strerror}") from e
        try:
            self._engine = create_engine(url)
        except (NoSuchModuleError, ModuleNotFoundError) as e:
            raise ConfigError(f"store {url.drivername!r} needs a driver that is not installed: {e}") from e
        if url.get_backend_name() == "sqlite":
            _tune_sqlite(self._engine)
        with self.write() as connection:
            self._bring_forward(connection)

    def close(self) -> None:
        """Release all connections."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: everything in the block is stored durably when it ends, or nothing is.

        Raises:
            LockHeld: another process has been writing for longer than 5 seconds.
            StorageError: disk full, not writable, damaged.
        """
        with self._turn, self._said(), self._connected().connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view. Raises as `write`."""
        with self._said(), self._connected().connect() as connection, connection.begin():
            yield connection

    def _connected(self) -> Engine:
        if self._engine is None:
            raise EdgeError("the store is not open")
        return self._engine

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as e:
            raise _explain(e, _shown(_resolve(self._url, self._root))) from e

    def _bring_forward(self, connection: Connection) -> None:
        there = set(inspect(connection).get_table_names())
        if there and schema.schema_version.name not in there:
            raise ConfigError(f"{_shown(_resolve(self._url, self._root))} is a database, but not an edgectl store")
        if not there:
            schema.metadata.create_all(connection)
            _record(connection, self._version)
            return
        found = connection.scalar(select(func.max(schema.schema_version.c.version))) or 0
        if found > self._version:
            raise ConfigError(
                f"the store has schema {found}, this edgectl knows {self._version}", hint="use the newer edgectl"
            )
        for step in range(found, self._version):
            self._migrations[step](connection)
            _record(connection, step + 1)


def _record(connection: Connection, version: int) -> None:
    connection.execute(schema.schema_version.insert().values(version=version, applied_ns=time.time_ns()))


def _resolve(url: str, root: Path) -> URL:
    """`url` with a relative SQLite path placed below `root`."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as e:
        raise ConfigError(f"store: expected a URL such as sqlite:///.edgectl/state.db, found {url!r}") from e
    if parsed.get_backend_name() == "sqlite" and parsed.database and parsed.database != ":memory:":
        return parsed.set(database=str(root / parsed.database))
    return parsed


def _shown(url: URL) -> str:
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def _tune_sqlite(engine: Engine) -> None:
    journal = "WAL" if sqlite3.sqlite_version_info >= WAL_FROM else "DELETE"

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late and is never IMMEDIATE
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
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


def _explain(error: DBAPIError, where: str) -> EdgeError:
    text = str(error.orig).lower()
    if "locked" in text or "busy" in text:
        return LockHeld(f"the store {where} is in use by another process", hint="wait for it to end and repeat")
    if "full" in text:
        return StorageError(f"no space left for the store {where}", hint="free space and repeat", reason="full")
    if "readonly" in text or "read-only" in text:
        return StorageError(f"the store {where} cannot be written: {error.orig}")
    if "malformed" in text or "not a database" in text or "corrupt" in text:
        return StorageError(
            f"the store {where} is damaged: {error.orig}",
            hint="move it away and run `edgectl collect`: reports and unreleased alerts come again from the nodes",
            reason="damaged",
        )
    if "unable to open" in text:
        return StorageError(f"the store {where} cannot be opened: {error.orig}")
    return StorageError(f"the store {where} refused: {error.orig}")
