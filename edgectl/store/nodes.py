"""The newest report of every node, and whether it could be reached."""

from __future__ import annotations

from typing import Any

import msgspec
from edgectl_agent.core.messages import Report
from sqlalchemy import Connection, delete, insert, select, update

from edgectl.core.records import NodeRecord
from edgectl.store.engine import Database
from edgectl.store.schema import actions, credentials, nodes, orders, positions, reports

_REPLACED = "outbox retired by nodes replace "

HISTORY = 20
"""Reports kept per node."""


class Nodes:
    """Reports by node."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, report: Report, now_ns: int, *, skew_ns: int | None = None) -> None:
        """Keep `report`, received at `now_ns`; `skew_ns` is the node's clock minus ours (default: at arrival).

        The very same report again, as when a page was sent twice or a stored report was looked at once more, is no
        fresh one: it stays as old as it is.
        """
        body = msgspec.json.encode(report).decode()
        skew = report.clock_ns - now_ns if skew_ns is None else skew_ns
        values = {
            "report": body, "received_ns": now_ns, "skew_ns": skew, "attempted_ns": now_ns, "failing_since_ns": 0,
            "error": "",
        }  # fmt: skip
        with self._database.write() as connection:
            if connection.scalar(select(nodes.c.report).where(nodes.c.node == report.node)) == body:
                _put(connection, report.node, {"attempted_ns": now_ns, "failing_since_ns": 0, "error": ""})
                return
            _put(connection, report.node, values)
            same = reports.c.node == report.node
            connection.execute(delete(reports).where(same, reports.c.received_ns == now_ns))
            connection.execute(insert(reports).values(node=report.node, received_ns=now_ns, report=body))
            times = connection.scalars(
                select(reports.c.received_ns).where(same).order_by(reports.c.received_ns.desc())
            ).all()
            if len(times) > HISTORY:
                connection.execute(delete(reports).where(same, reports.c.received_ns <= times[HISTORY]))

    def save_failure(self, node: str, error: str, now_ns: int) -> None:
        """Keep that `node` could not be reached; its last report stays."""
        with self._database.write() as connection:
            since = connection.scalar(select(nodes.c.failing_since_ns).where(nodes.c.node == node))
            _put(connection, node, {"attempted_ns": now_ns, "failing_since_ns": since or now_ns, "error": error})

    def all(self) -> dict[str, NodeRecord]:
        """Every node that was ever tried."""
        with self._database.read() as connection:
            rows = connection.execute(select(nodes)).mappings().all()
        return {row["node"]: _record(row) for row in rows}

    def get(self, node: str) -> NodeRecord | None:
        """One node; None if it was never tried."""
        with self._database.read() as connection:
            row = connection.execute(select(nodes).where(nodes.c.node == node)).mappings().first()
        return None if row is None else _record(row)

    def retire(self, node: str, operator: str, now_ns: int) -> None:
        """Give the name `node` to a machine that nobody has heard of yet.

        Forgets what is true of the old machine alone: its newest report, how far its outbox was read, its waiting
        orders; its tokens end. Its history and its alerts stay, and `retired` tells its outboxes from the new one's.
        """
        with self._database.write() as connection:
            row = connection.execute(select(nodes).where(nodes.c.node == node)).mappings().first()
            report = _record(row).report if row else None
            place = connection.scalar(select(positions.c.log_id).where(positions.c.node == node))
            for log_id in sorted({report.outbox.log_id if report else "", place or ""} - {""}):
                values = {"at_ns": now_ns, "operator": operator, "command": f"{_REPLACED}{node}", "detail": log_id}
                connection.execute(insert(actions).values(**values))
            for table in (nodes, positions, orders):
                connection.execute(delete(table).where(table.c.node == node))
            mine = (credentials.c.node == node) & (credentials.c.revoked_ns == 0)
            connection.execute(update(credentials).where(mine).values(revoked_ns=now_ns))

    def retired(self) -> dict[str, frozenset[str]]:
        """Node → ids of the outboxes of machines that had its name before."""
        with self._database.read() as connection:
            query = select(actions.c.command, actions.c.detail).where(actions.c.command.startswith(_REPLACED))
            rows = connection.execute(query).all()
        found: dict[str, set[str]] = {}
        for command, detail in rows:
            found.setdefault(command.removeprefix(_REPLACED), set()).add(detail)
        return {node: frozenset(log_ids) for node, log_ids in found.items()}

    def forget(self, node: str) -> None:
        """Drop what belongs to a node that left the fleet; its alerts stay."""
        with self._database.write() as connection:
            for table in (nodes, reports, positions, orders, credentials):
                connection.execute(delete(table).where(table.c.node == node))


def _record(row: Any) -> NodeRecord:
    report = msgspec.json.decode(row["report"], type=Report) if row["report"] else None
    return NodeRecord(**{**row, "report": report})


def _put(connection: Connection, node: str, values: dict[str, object]) -> None:
    """Insert or update, spelled so that every database understands it."""
    if connection.execute(update(nodes).where(nodes.c.node == node).values(**values)).rowcount == 0:
        connection.execute(insert(nodes).values(node=node, **values))
