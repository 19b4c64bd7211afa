"""Copies the store into a file, and a file back into the store.

A backup is of one moment, also while others write. A restore fills the existing database in one transaction, so that
whenever it is killed the old content or the new one is there, never a mix; what it replaces is backed up first.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from edgectl_agent.core.units import iso
from sqlalchemy import Connection, Table, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from edgectl import __version__
from edgectl.core.errors import ConfigError, UsageError
from edgectl.core.rollout import OPEN, RESUMABLE, Entry
from edgectl.store import archive, schema, sqlite
from edgectl.store.archive import Header, Manifest, Reader
from edgectl.store.engine import Database, advance
from edgectl.store.shapes import shapes_of, tables

BATCH = 1000

Tick = Callable[[int, int], None]
"""Called with the rows that are done and the rows in all."""


def _quiet(done: int, total: int) -> None:
    del done, total


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did, and what the backup could not know."""

    backup: Manifest
    migrated: tuple[str, ...] = ()
    """Steps that brought an older backup forward."""
    aside: str = ""
    """Backup of what was replaced; empty where the store was empty."""
    epoch: int = 0
    """Of the newest assignment in the backup; 0 if there is none."""
    open_rollouts: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    """Rollouts that were open in the backup, and that the repository has left behind since."""
    dropped_orders: int = 0
    """Orders that still waited when the backup was made: whether the nodes took them since is unknown."""
    kept_revocations: int = 0
    """Tokens that were revoked after the backup was made, and stay so."""
    tokens: int = 0
    """Tokens and invites in the backup; what was revoked in a store that is gone is valid again."""


def backup(database: Database, path: Path, fleet: str, now_ns: int, tick: Tick = _quiet) -> Manifest:
    """Put what the store holds now at `path`, whatever its schema.

    Raises:
        ConfigError: the database is no store, or one of a newer edgectl.
        LockHeld, StorageError: it cannot be read, or `path` not be written.
    """
    with database.snapshot() as connection:
        return _dump(database, connection, path, fleet, now_ns, tick)


def _dump(
    database: Database, connection: Connection, path: Path, fleet: str, now_ns: int, tick: Tick = _quiet
) -> Manifest:
    found = database.found(connection)
    if not found:
        raise ConfigError(f"there is no store in {database.shown} yet")
    shapes = shapes_of(connection)
    header = Header(
        format=archive.FORMAT, fleet=fleet, schema=found, made_ns=now_ns, edgectl=__version__, source=database.kind,
        tables=shapes,
    )  # fmt: skip
    made = tables(shapes).tables
    total = sum(_count(connection, table) for table in made.values())
    done = itertools.count(1)

    def rows(table: Table) -> Iterator[archive.Row]:
        query = select(table).order_by(*table.primary_key.columns)
        for row in connection.execute(query.execution_options(yield_per=BATCH)):
            tick(next(done), total)
            yield tuple(row)

    return archive.write(path, header, ((shape.name, rows(made[shape.name])) for shape in shapes))


def restore(
    database: Database,
    path: Path,
    fleet: str,
    aside: Path,
    now_ns: int,
    *,
    force: bool = False,
    signed_epoch: int = 0,
    tick: Tick = _quiet,
) -> Restored:
    """Replace what the store holds by the backup at `path`; `database` is open and alone.

    Args:
        aside: where a backup of the present content goes, if there is any.
        force: replace a store that is not empty.
        signed_epoch: newest epoch of the signed repository; 0 where it is not at hand. Rollouts that were open in an
            older backup end as superseded: to go on with them would undo what was signed since.

    Raises:
        ConfigError: no backup, torn, altered, of another fleet or of a newer schema.
        UsageError: the store is not empty, and not `force`.
        LockHeld, StorageError: as `Database.write`. In every case the store is as it was.
    """
    reader = Reader(path)
    header = reader.header
    if header.fleet != fleet:
        raise ConfigError(f"{path} is of the fleet {header.fleet!r}, this workspace's is {fleet!r}")
    if header.schema > database.version:
        raise ConfigError(
            f"{path} has schema {header.schema}, this edgectl knows {database.version}", hint="use the newer edgectl"
        )
    with _room() as copy:
        _load(copy, reader)
        steps = range(header.schema, database.version)
        advance(copy, header.schema, database.version, database.migrations)
        with database.write() as connection:
            there = sum(_count(connection, table) for table in _content())
            if there and not force:
                raise UsageError(
                    f"the store {database.shown} is not empty ({there} rows)",
                    hint="--force replaces it, and keeps a backup of what it holds",
                )
            if there:
                _dump(database, connection, aside, fleet, now_ns)
            epoch = copy.scalar(select(func.max(schema.assignments.c.epoch))) or 0
            opened = _open_rollouts(copy)
            if signed_epoch > epoch:
                _supersede(copy, opened, header, now_ns)
            result = Restored(
                backup=_whole(reader),
                migrated=tuple(describe(database.migrations, step) for step in steps),
                aside=str(aside) if there else "",
                epoch=epoch,
                open_rollouts=tuple(f"r-{number}" for number in opened if signed_epoch <= epoch),
                superseded=tuple(f"r-{number}" for number in opened if signed_epoch > epoch),
                dropped_orders=_drop_orders(copy),
                kept_revocations=_keep_what_protects(connection, copy),
                tokens=_count(copy, schema.credentials) + _count(copy, schema.invites),
            )
            _replace(connection, copy, tick)
            database.after_explicit_keys(connection)
    return result


def describe(migrations: Mapping[int, schema.Migration], step: int) -> str:
    """The migration from schema `step` to the next one, in words."""
    doc = (migrations[step].__doc__ or "").strip().partition("\n")[0].rstrip(".")
    return f"{step} → {step + 1}{f': {doc[:1].lower()}{doc[1:]}' if doc else ''}"


@contextmanager
def _room() -> Iterator[Connection]:
    """A private database for the time of the block."""
    with closing(sqlite3.connect("")) as room:
        try:
            with sqlite.scratch(room) as copy:
                yield copy
        except DBAPIError as e:
            raise sqlite.explain(e, "copy in the temporary folder") from e


def _load(copy: Connection, reader: Reader) -> None:
    """Every row into tables as the backup describes them. Raises `ConfigError` unless the backup is whole."""
    made = tables(reader.header.tables)
    if schema.schema_version.name not in made.tables:
        raise ConfigError(f"a backup without a table {schema.schema_version.name} is not of a store")
    made.create_all(copy)
    try:
        for name, rows in itertools.groupby(reader.rows(), key=lambda pair: pair[0]):
            table = made.tables[name]
            keys = [column.name for column in table.columns]
            for batch in _batches(dict(zip(keys, row, strict=True)) for _, row in rows):
                copy.execute(insert(table), batch)
    except DBAPIError as e:
        if "full" in str(e.orig).lower():
            raise
        raise ConfigError(f"the backup has a row that does not fit ({e.orig}); the store was not touched") from e


def _whole(reader: Reader) -> Manifest:
    assert reader.manifest is not None, "every row was read"
    return reader.manifest


def _content() -> list[Table]:
    """Our tables, those that others refer to first; without the record of schemas."""
    return [table for table in schema.metadata.sorted_tables if table is not schema.schema_version]


def _replace(connection: Connection, copy: Connection, tick: Tick) -> None:
    ours = _content()
    total, done = sum(_count(copy, table) for table in ours), 0
    for table in reversed(ours):
        connection.execute(delete(table))
    for table in ours:
        found = copy.execute(select(table).execution_options(yield_per=BATCH)).mappings()
        for batch in _batches(dict(row) for row in found):
            connection.execute(insert(table), batch)
            done += len(batch)
            tick(done, total)


def _keep_what_protects(connection: Connection, copy: Connection) -> int:
    """What was taken away since stays taken away: a restored store must not let anybody in again."""
    credentials, invites = schema.credentials, schema.invites
    revoked = connection.execute(select(credentials).where(credentials.c.revoked_ns > 0)).mappings().all()
    kept = 0
    for row in revoked:
        same = (credentials.c.sha256 == row["sha256"]) & (credentials.c.revoked_ns == 0)
        kept += copy.execute(update(credentials).where(same).values(revoked_ns=row["revoked_ns"])).rowcount
    for row in connection.execute(select(invites).where(invites.c.used > 0)).mappings().all():
        same = (invites.c.sha256 == row["sha256"]) & (invites.c.used < row["used"])
        copy.execute(update(invites).where(same).values(used=row["used"]))
    return kept


def _drop_orders(copy: Connection) -> int:
    return copy.execute(delete(schema.orders).where(schema.orders.c.answered_ns == 0)).rowcount


def _open_rollouts(copy: Connection) -> list[int]:
    rollouts = schema.rollouts
    query = select(rollouts.c.number).where(rollouts.c.state.in_(sorted(OPEN | RESUMABLE)))
    return list(copy.scalars(query.order_by(rollouts.c.number)))


def _supersede(copy: Connection, numbers: list[int], header: Header, now_ns: int) -> None:
    journal, rollouts = schema.rollout_journal, schema.rollouts
    detail = f"superseded by what was signed after the backup of {iso(header.made_ns)}"
    for number in numbers:
        mine = journal.c.rollout == number
        last = copy.scalar(select(func.max(journal.c.sequence)).where(mine)) or 0
        entry = Entry(event="supersede", at_ns=now_ns, detail=detail)
        copy.execute(insert(journal).values(rollout=number, sequence=last + 1, **msgspec.structs.asdict(entry)))
        change = update(rollouts).where(rollouts.c.number == number)
        copy.execute(change.values(state="superseded", changed_ns=now_ns))


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, BATCH)):
        yield batch
