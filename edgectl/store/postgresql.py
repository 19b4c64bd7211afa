"""What is special to PostgreSQL: one database that several operators' machines share.

Writers take turns by an advisory lock, as SQLite's do, so that "read, decide, write" in one transaction is safe with
both. A commit is durable when it returns, also where the server's default says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from edgectl.core.errors import ConfigError, EdgeError, LockHeld, StorageError
from edgectl.store import schema
from edgectl.store.sqlite import in_use

MIGRATES_BY_ITSELF = False
"""A colleague's older edgectl could not open the store any more: somebody decides."""

CONNECT_S = 10
WRITERS, USERS = 0x6564676563_01, 0x6564676563_02
"""Keys of the advisory locks."""

_DENIED = ("password", "authentication", "no pg_hba.conf entry", "does not exist", "permission denied")
"""What the server says at the door has no code in the driver's error."""


def placed(url: URL, root: Path) -> URL:
    """`url` with our driver; SQLAlchemy's own default has changed between versions."""
    del root
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def shown(url: URL) -> str:
    """How messages call the store; never with a password."""
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


def prepare(url: URL) -> None:
    """Nothing: the database is made by its administrator."""


def engine(url: URL, busy_s: float) -> Engine:
    """Connections that wait `busy_s` for another writer. Raises `ModuleNotFoundError` without the driver."""
    made = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_S})

    @event.listens_for(made, "connect")
    def connected(connection: Any, _record: object) -> None:
        _accept_nul(connection)
        with connection.cursor() as cursor:
            durable = "SELECT set_config('synchronous_commit', 'on', false)"
            cursor.execute(f"{durable} WHERE current_setting('synchronous_commit') = 'off'")
        connection.commit()

    @event.listens_for(made, "begin")
    def begun(connection: Connection) -> None:
        if connection.get_execution_options().get("writes", False):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(busy_s * 1000)}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")
        elif connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    return made


def _accept_nul(connection: Any) -> None:
    """Names come from data, and PostgreSQL's text holds no NUL: one such name must not stop a whole collection."""
    from psycopg.types.string import StrDumper

    class NoNul(StrDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))

    connection.adapters.register_dumper(str, NoNul)


@contextmanager
def presence(engine: Engine, url: URL, alone: bool) -> Iterator[None]:
    """Be counted among those who use the store; with `alone` be the only one. Raises `LockHeld`."""
    take = func.pg_try_advisory_lock if alone else func.pg_try_advisory_lock_shared
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.scalar(select(take(USERS))):
            raise in_use(shown(url), alone)
        try:
            yield
        finally:
            connection.invalidate()  # the lock ends with the session, also when the session is broken


@contextmanager
def snapshot(engine: Engine, busy_s: float, where: str) -> Iterator[Connection]:
    """A consistent view as of now, which no writer waits for; rows are read a portion at a time."""
    del busy_s, where
    with engine.connect() as connection, connection.begin():
        yield connection.execution_options(stream_results=True)


def after_explicit_keys(connection: Connection) -> None:
    """Let generated keys go on above those that were inserted with their numbers."""
    for table in schema.metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None:
            sequence = func.pg_get_serial_sequence(table.name, column.name)
            highest = func.coalesce(select(func.max(column)).scalar_subquery(), 0)
            connection.execute(select(func.setval(sequence, highest + 1, False)))


def size(connection: Connection) -> int:
    """Bytes of all our tables and their indexes."""
    names = [table.name for table in schema.metadata.sorted_tables]
    query = text("SELECT sum(pg_total_relation_size(to_regclass(name))) FROM unnest(CAST(:names AS text[])) AS name")
    return int(connection.scalar(query, {"names": names}) or 0)


def reclaim(engine: Engine) -> None:
    """Mark the room of deleted rows as free; the server uses it again, and gives back what lies at a table's end."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in schema.metadata.sorted_tables:
            connection.exec_driver_sql(f"VACUUM (ANALYZE) {table.name}")


def explain(error: DBAPIError, where: str) -> EdgeError:
    """The sentence for what the server or the driver complains about."""
    code = getattr(error.orig, "sqlstate", None) or ""
    said = (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
    if code in ("55P03", "40001", "40P01"):
        return LockHeld(f"the store {where} is in use by another process", hint="wait for it to end and repeat")
    if code == "53100":
        return StorageError(f"no space left for the store {where}", hint="free space and repeat", reason="full")
    if code in ("25006", "42501"):
        return StorageError(f"the store {where} cannot be written: {said}", hint="grant this role what it lacks")
    if code in ("XX001", "XX002"):
        return StorageError(f"the store {where} is damaged: {said}", reason="damaged")
    if code[:2] in ("28", "3D") or (not code and any(word in said for word in _DENIED)):
        hint = "check user and database, and `store_password` in fleet.yaml or ~/.pgpass"
        return ConfigError(f"the store {where} lets us not in: {said}", hint=hint)
    if not code or code[:2] in ("08", "57"):
        hint = "check that the server runs, and repeat"
        return StorageError(f"the store {where} does not answer: {said}", hint=hint, reason="unreachable")
    return StorageError(f"the store {where} refused: {said}")
