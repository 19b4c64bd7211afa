"""Opens the store's database, and gives its transactions. What differs between databases is in `sqlite` and
`postgresql`.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

from sqlalchemy import Connection, Engine, func, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from edgectl.core.errors import ConfigError, EdgeError, StorageError
from edgectl.store import postgresql, schema, sqlite

BUSY_S = 5.0

DIALECTS: dict[str, ModuleType] = {"sqlite": sqlite, "postgresql": postgresql}


class Database:
    """One connection pool; `write` and `read` are its transactions. Threads may share it: writers take turns."""

    def __init__(
        self,
        url: str,
        root: Path,
        migrations: Mapping[int, schema.Migration] = schema.MIGRATIONS,
        version: int = schema.VERSION,
    ) -> None:
        self._given = url
        self._root = root
        self.migrations = migrations
        self.version = version
        self._engine: Engine | None = None
        self._url: URL | None = None
        self._dialect: ModuleType = sqlite
        self._turn = threading.RLock()
        self._held = ExitStack()

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, *, alone: bool = False, migrate: bool | None = None) -> None:
        """Connect, create missing tables, bring older ones forward.

        Args:
            alone: be the only one who uses the store; nobody else can open it meanwhile.
            migrate: whether older tables are brought forward; by default only those of a file, because a shared
                database is also somebody else's.

        Raises:
            ConfigError: a URL that is none, a missing driver, a file that is no store, a store of a newer edgectl, or
                of an older one that is not to be migrated.
            LockHeld, StorageError: as `write`; and `LockHeld` where somebody else is, or wants to be, alone.
        """
        self.connect(alone=alone)
        try:
            with self.write() as connection:
                self._bring_forward(connection, self._dialect.MIGRATES_BY_ITSELF if migrate is None else migrate)
        except BaseException:
            self.close()
            raise

    def connect(self, *, alone: bool = False) -> None:
        """Connect, and leave the tables as they are. Raises as `open`."""
        self._url, self._dialect = _resolve(self._given, self._root)
        self._dialect.prepare(self._url)
        try:
            self._engine = self._dialect.engine(self._url, BUSY_S)
        except (NoSuchModuleError, ModuleNotFoundError) as e:
            hint = "pip install 'edgectl[postgresql]'" if self._dialect is postgresql else None
            raise ConfigError(f"store: {self._url.drivername} needs a driver that is not installed", hint=hint) from e
        try:
            with self._said():
                self._held.enter_context(self._dialect.presence(self._engine, self._url, alone))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release all connections."""
        self._held.close()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    # ── transactions ────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: everything in the block is stored durably when it ends, or nothing is.

        Raises:
            LockHeld: another process has been writing for longer than 5 seconds.
            StorageError: disk full, not writable, damaged, no answer.
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

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One consistent view for as long as it takes, without keeping writers waiting. Raises as `write`."""
        with self._said(), self._dialect.snapshot(self._connected(), BUSY_S, self.shown) as connection:
            yield connection

    def reclaim(self) -> None:
        """Give back the room of deleted rows. Raises as `write`."""
        with self._turn, self._said():
            self._dialect.reclaim(self._connected())

    # ── about it ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def shown(self) -> str:
        """How messages call the store."""
        return str(self._dialect.shown(self._url)) if self._url is not None else _masked(self._given)

    @property
    def kind(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._url.get_backend_name() if self._url is not None else ""

    def size(self, connection: Connection) -> int:
        """Bytes that the store takes."""
        return int(self._dialect.size(connection))

    def after_explicit_keys(self, connection: Connection) -> None:
        """To be called where rows were inserted together with their generated keys."""
        self._dialect.after_explicit_keys(connection)

    def tables(self, connection: Connection) -> frozenset[str]:
        """Names of the tables that are there."""
        return frozenset(inspect(connection).get_table_names())

    def found(self, connection: Connection) -> int:
        """The schema of the tables; 0 where there are none. Raises `ConfigError` if they are not a store's."""
        there = self.tables(connection)
        if not there:
            return 0
        if schema.schema_version.name not in there:
            raise ConfigError(f"{self.shown} is a database, but not an edgectl store")
        found = connection.scalar(select(func.max(schema.schema_version.c.version))) or 0
        if found > self.version:
            raise ConfigError(
                f"the store has schema {found}, this edgectl knows {self.version}", hint="use the newer edgectl"
            )
        return int(found)

    def _connected(self) -> Engine:
        if self._engine is None:
            raise EdgeError("the store is not open")
        return self._engine

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as e:
            raise self._dialect.explain(e, self.shown) from e
        except OverflowError as e:  # a time or a sequence of a node that is gone mad
            raise StorageError(f"the store {self.shown} refused: {e}") from e

    def _bring_forward(self, connection: Connection, migrate: bool) -> None:
        found = self.found(connection)
        if not found:
            schema.metadata.create_all(connection)
            return record(connection, self.version)
        if found < self.version and not migrate:
            raise ConfigError(
                f"the store has schema {found}, this edgectl needs {self.version}",
                hint="edgectl store migrate (older edgectls cannot open it afterwards)",
            )
        return advance(connection, found, self.version, self.migrations)


def advance(connection: Connection, found: int, version: int, migrations: Mapping[int, schema.Migration]) -> None:
    """Bring the tables from schema `found` to `version`, and note each step."""
    for step in range(found, version):
        migrations[step](connection)
        record(connection, step + 1)


def record(connection: Connection, version: int) -> None:
    """Note that the tables have this schema now."""
    connection.execute(schema.schema_version.insert().values(version=version, applied_ns=time.time_ns()))


def _resolve(url: str, root: Path) -> tuple[URL, ModuleType]:
    """`url` complete, and what knows its kind of database."""
    try:
        parsed = make_url(url)
        dialect = DIALECTS[parsed.get_backend_name()]
    except (ArgumentError, ValueError, KeyError) as e:
        raise ConfigError(
            f"store: expected a URL such as sqlite:///.edgectl/state.db or postgresql://ops@db/edgectl, found"
            f" {_masked(url)!r}"
        ) from e
    return dialect.placed(parsed, root), dialect


def _masked(url: str) -> str:
    return re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", url)
