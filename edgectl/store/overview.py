"""What is in the store, for `edgectl store show`, and the explicit migration."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
from sqlalchemy import func, select

from edgectl.core.errors import ConfigError
from edgectl.store import schema
from edgectl.store.backup import Tick, backup, describe
from edgectl.store.engine import Database, advance


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The store in figures. Times are nanoseconds since 1970, 0 where there is nothing."""

    store: str
    kind: str
    schema: int
    needs_schema: int
    bytes: int
    rows: dict[str, int]
    oldest_alert_ns: int = 0
    newest_report_ns: int = 0


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """Steps that were, or would be, taken; `backup` is the file with the content as it was before."""

    store: str
    found: int
    wanted: int
    steps: tuple[str, ...]
    backup: str = ""


def show(database: Database) -> Overview:
    """Figures of a connected store, whatever its schema. Raises `ConfigError` where there is none."""
    with database.read() as connection:
        found = database.found(connection)
        if not found:
            raise ConfigError(f"there is no store in {database.shown} yet", hint="any command that needs it makes it")
        names = database.tables(connection)
        ours = [table for table in schema.metadata.sorted_tables if table.name in names]
        return Overview(
            store=database.shown,
            kind=database.kind,
            schema=found,
            needs_schema=database.version,
            bytes=database.size(connection),
            rows={t.name: connection.scalar(select(func.count()).select_from(t)) or 0 for t in ours},
            oldest_alert_ns=connection.scalar(select(func.min(schema.alerts.c.stored_ns))) or 0,
            newest_report_ns=connection.scalar(select(func.max(schema.nodes.c.received_ns))) or 0,
        )


def migrate(database: Database, folder: Path, fleet: str, now_ns: int, *, dry_run: bool, tick: Tick) -> Migration:
    """Bring a connected store to this edgectl's schema, after a backup into `folder`; with `dry_run` only say how.

    Raises:
        ConfigError: there is no store, or it is of a newer edgectl.
        LockHeld, StorageError: as `Database.write`; the store is as it was.
    """
    with database.read() as connection:
        found = database.found(connection)
    if not found:
        raise ConfigError(f"there is no store in {database.shown} yet", hint="any command that needs it makes it")
    steps = tuple(describe(database.migrations, step) for step in range(found, database.version))
    made = Migration(store=database.shown, found=found, wanted=database.version, steps=steps)
    if dry_run or not steps:
        return made
    kept = folder / name(fleet, now_ns, f"schema-{found}")
    backup(database, kept, fleet, now_ns, tick)
    with database.write() as connection:
        advance(connection, database.found(connection), database.version, database.migrations)
    return msgspec.structs.replace(made, backup=str(kept))


def name(fleet: str, now_ns: int, why: str = "") -> str:
    """File name of a backup that nobody named, with its milliseconds: ``acme-20260314T091200.017Z.backup``."""
    moment = datetime.fromtimestamp(now_ns // 10**9, UTC)
    thousandths = now_ns // 10**6 % 1000
    return f"{fleet}-{moment:%Y%m%dT%H%M%S}.{thousandths:03}Z{f'-{why}' if why else ''}.backup"
