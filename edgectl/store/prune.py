"""Deletes what retention no longer asks for, a portion at a time, so that others can write in between.

Interrupted, it has deleted less. It never touches open alerts, critical ones that nobody acknowledged, the newest
report of a node, what waits for a node, valid tokens, open rollouts, and what made the assignment in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, or_, select

from edgectl.core.errors import LockHeld, StorageError
from edgectl.core.retention import Retention, disposable
from edgectl.store.backup import Tick
from edgectl.store.engine import Database
from edgectl.store.rollouts import Rollouts
from edgectl.store.schema import (
    actions,
    alerts,
    assignments,
    credentials,
    findings,
    invites,
    orders,
    reports,
    rollout_journal,
    rollout_nodes,
    rollouts,
)

PORTION = 2000


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """Rows per table that went, or would go; the store's size in bytes before and after."""

    rows: dict[str, int]
    bytes_before: int
    bytes_after: int
    note: str = ""
    """Why the room could not be given back; empty if it was."""


def prune(database: Database, keep: Retention, now_ns: int, *, dry_run: bool, tick: Tick) -> Pruned:
    """Delete what `keep` does not ask for; with `dry_run` only count it.

    Raises:
        LockHeld, StorageError: as `Database.write`; what was deleted until then is gone.
    """
    old = _rollouts(database, keep, now_ns)
    with database.read() as connection:
        counts = {table.name: _count(connection, table, where) for table, where in _rules(keep, now_ns, old)}
        counts |= {table.name: _count(connection, table, _of(table, old)) for table in _ROLLOUT_TABLES}
        before = database.size(connection)
    total = sum(counts.values())
    if dry_run or not total:
        return Pruned(rows=counts, bytes_before=before, bytes_after=before)
    done = 0
    for gone in _delete(database, keep, now_ns, old):
        done += gone
        tick(min(done, total), total)
    note = _reclaim(database)
    with database.read() as connection:
        return Pruned(rows=counts, bytes_before=before, bytes_after=database.size(connection), note=note)


_ROLLOUT_TABLES = (rollout_nodes, rollout_journal, rollouts)
"""In the order in which they can be emptied."""


def _rules(keep: Retention, now_ns: int, old: Sequence[int]) -> tuple[tuple[Table, ColumnElement[bool]], ...]:
    """What goes, per table; rollouts are decided by `disposable`."""
    alerts_end, reports_end = now_ns - keep.alerts_ns, now_ns - keep.reports_ns
    findings_end, actions_end = now_ns - keep.findings_ns, now_ns - keep.actions_ns
    newest = select(func.max(assignments.c.epoch)).scalar_subquery()
    past = and_(credentials.c.expires_ns > 0, credentials.c.expires_ns < actions_end)
    revoked = and_(credentials.c.revoked_ns > 0, credentials.c.revoked_ns < actions_end)
    return (
        (
            alerts,
            # Event time may lie anywhere (a replay), the node's clock may be wrong: all three must be old.
            and_(
                alerts.c.state == "cleared",
                or_(alerts.c.severity != "critical", alerts.c.acknowledged_ns.is_not(None)),
                alerts.c.stored_ns < alerts_end,
                alerts.c.changed_ns < alerts_end,
                alerts.c.accepted_ns < alerts_end,
            ),
        ),
        (reports, reports.c.received_ns < reports_end),
        (
            orders,
            or_(and_(orders.c.answered_ns > 0, orders.c.answered_ns < reports_end), orders.c.expires_ns < reports_end),
        ),
        (findings, and_(findings.c.resolved_ns.is_not(None), findings.c.resolved_ns < findings_end)),
        (actions, actions.c.at_ns < actions_end),
        (
            assignments,
            and_(
                assignments.c.epoch < newest,
                assignments.c.signed_ns < actions_end,
                or_(
                    assignments.c.rollout.is_(None),
                    assignments.c.rollout.in_(old),
                    assignments.c.rollout.not_in(select(rollouts.c.number)),
                ),
            ),
        ),
        (credentials, or_(past, revoked)),
        (invites, invites.c.expires_ns < actions_end),
    )


def _rollouts(database: Database, keep: Retention, now_ns: int) -> tuple[int, ...]:
    with database.read() as connection:
        current = select(assignments.c.rollout).order_by(assignments.c.epoch.desc()).limit(1)
        needed = frozenset(n for n in connection.scalars(current) if n is not None)
    return disposable(Rollouts(database).all(), keep, now_ns, needed)


def _delete(database: Database, keep: Retention, now_ns: int, old: Sequence[int]) -> Iterator[int]:
    for table, where in _rules(keep, now_ns, old):
        if table is reports:
            yield from _delete_reports(database, where)
            continue
        (key,) = table.primary_key.columns
        some = select(key).where(where).limit(PORTION)
        while True:
            with database.write() as connection:
                gone = connection.execute(delete(table).where(key.in_(some))).rowcount
            yield gone
            if gone < PORTION:
                break
    for number in old:
        with database.write() as connection:
            yield sum(connection.execute(delete(t).where(_of(t, [number]))).rowcount for t in _ROLLOUT_TABLES)


def _delete_reports(database: Database, where: ColumnElement[bool]) -> Iterator[int]:
    """The history has two keys: node by node, some hundred at a time."""
    with database.read() as connection:
        names = iter(connection.scalars(select(reports.c.node).where(where).distinct()).all())
    while some := list(islice(names, 200)):
        with database.write() as connection:
            yield connection.execute(delete(reports).where(where, reports.c.node.in_(some))).rowcount


def _of(table: Table, numbers: Iterable[int]) -> ColumnElement[bool]:
    return (table.c.number if table is rollouts else table.c.rollout).in_(list(numbers))


def _count(connection: Connection, table: Table, where: ColumnElement[bool]) -> int:
    return connection.scalar(select(func.count()).select_from(table).where(where)) or 0


def _reclaim(database: Database) -> str:
    """The rows are gone either way; room that cannot be given back now is used again by later rows."""
    try:
        database.reclaim()
    except (LockHeld, StorageError) as e:
        return f"the file keeps its size for now ({e.message}); later rows use the room"
    return ""
