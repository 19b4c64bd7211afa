"""Alerts by id: storing is idempotent and does not depend on the order, because records merge by `supersedes`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from edgectl_agent.core.messages import Alert, supersedes
from sqlalchemy import Connection, bindparam, func, insert, select, update

from edgectl.core.errors import NothingMatched
from edgectl.core.records import AlertRecord
from edgectl.store.engine import Database
from edgectl.store.schema import alerts, positions

_CHUNK = 500  # ids per IN list; SQLite's default allows 999 variables


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a node's outbox was stored, and which ranges it reported as damaged."""

    node: str
    after: int = 0
    lost: tuple[tuple[int, int], ...] = ()
    log_id: str = ""
    """Of the outbox that the sequences belong to."""


class Alerts:
    """The alerts table and the collect positions that advance with it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, batch: Iterable[Alert], reached: Iterable[Position], now_ns: int) -> tuple[Alert, ...]:
        """Merge `batch` and move the positions to `reached`, in one transaction.

        Returns the records that were new or replaced an earlier state.
        """
        merged: dict[str, Alert] = {}
        for alert in batch:
            old = merged.get(alert.id)
            if old is None or supersedes(alert, old):
                merged[alert.id] = alert
        with self._database.write() as connection:
            stored = _bodies(connection, merged)
            fresh = [a for a in merged.values() if a.id not in stored]
            risen = [a for a in merged.values() if a.id in stored and supersedes(a, stored[a.id])]
            if fresh:
                connection.execute(insert(alerts), [{**_row(alert), "stored_ns": now_ns} for alert in fresh])
            if risen:
                change = update(alerts).where(alerts.c.id == bindparam("key"))
                connection.execute(change, [{**_row(alert), "key": alert.id} for alert in risen])
            for position in reached:
                _move(connection, position)
        return (*fresh, *risen)

    def position(self, node: str) -> Position:
        """Where to go on with `node`."""
        with self._database.read() as connection:
            row = connection.execute(select(positions).where(positions.c.node == node)).mappings().first()
        if row is None:
            return Position(node=node)
        lost = msgspec.json.decode(row["lost"], type=tuple[tuple[int, int], ...])
        return Position(node=node, after=row["after_seq"], lost=lost, log_id=row["log_id"])

    def positions(self) -> dict[str, Position]:
        """Every node whose outbox was read."""
        with self._database.read() as connection:
            names = connection.scalars(select(positions.c.node)).all()
        return {name: self.position(name) for name in names}

    def find(
        self,
        *,
        node: str = "",
        state: str = "",
        severity: str = "",
        since_ns: int = 0,
        stored_since_ns: int = 0,
        limit: int = 0,
    ) -> tuple[AlertRecord, ...]:
        """Alerts by onset, newest first; empty criteria match all."""
        query = select(alerts).order_by(alerts.c.onset_ns.desc(), alerts.c.id)
        for column, value in ((alerts.c.node, node), (alerts.c.state, state), (alerts.c.severity, severity)):
            if value:
                query = query.where(column == value)
        if since_ns:
            query = query.where(alerts.c.onset_ns >= since_ns)
        if stored_since_ns:
            query = query.where(alerts.c.stored_ns >= stored_since_ns)
        if limit:
            query = query.limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(_record(row) for row in rows)

    def get(self, id_or_prefix: str) -> AlertRecord:
        """One alert by id or by a beginning of it that fits only one. Raises `NothingMatched`."""
        start = id_or_prefix if id_or_prefix.startswith("a-") else f"a-{id_or_prefix}"
        query = select(alerts).where(alerts.c.id.startswith(start, autoescape=True)).limit(3)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        if not rows:
            raise NothingMatched(f"no alert {id_or_prefix!r} in the store", hint="edgectl alerts list")
        exact = [row for row in rows if row["id"] == start]
        if len(rows) > 1 and not exact:
            shown = ", ".join(row["id"] for row in rows)
            raise NothingMatched(f"{id_or_prefix!r} is the beginning of several alerts ({shown})")
        return _record((exact or rows)[0])

    def acknowledge(self, ids: Collection[str], operator: str, now_ns: int) -> int:
        """Record who has seen these alerts; the first acknowledgement stays. Returns how many are new."""
        done = 0
        with self._database.write() as connection:
            for chunk in _chunks(sorted(ids)):
                change = update(alerts).where(alerts.c.id.in_(chunk), alerts.c.acknowledged_ns.is_(None))
                done += connection.execute(change.values(acknowledged_by=operator, acknowledged_ns=now_ns)).rowcount
        return done

    def count(self, since_ns: int) -> int:
        """Alerts stored at or after `since_ns`; a replay's onsets may lie long before."""
        with self._database.read() as connection:
            return connection.scalar(select(func.count()).where(alerts.c.stored_ns >= since_ns)) or 0


def _bodies(connection: Connection, ids: Collection[str]) -> dict[str, Alert]:
    decoder = msgspec.json.Decoder(Alert)
    found: dict[str, Alert] = {}
    for chunk in _chunks(sorted(ids)):
        query = select(alerts.c.id, alerts.c.body).where(alerts.c.id.in_(chunk)).with_for_update()
        found.update({key: decoder.decode(body) for key, body in connection.execute(query)})
    return found


def _move(connection: Connection, position: Position) -> None:
    lost = msgspec.json.encode(position.lost).decode()
    values = {"after_seq": position.after, "lost": lost, "log_id": position.log_id}
    change = update(positions).where(positions.c.node == position.node).values(**values)
    if connection.execute(change).rowcount == 0:
        connection.execute(insert(positions).values(node=position.node, **values))


def _row(alert: Alert) -> dict[str, Any]:
    names = (
        "id", "node", "stream", "recipe", "version", "severity", "state", "onset_ns", "changed_ns", "accepted_ns",
    )  # fmt: skip
    return {**{name: getattr(alert, name) for name in names}, "body": msgspec.json.encode(alert).decode()}


def _record(row: Any) -> AlertRecord:
    return AlertRecord(
        alert=msgspec.json.decode(row["body"], type=Alert),
        stored_ns=row["stored_ns"],
        acknowledged_by=row["acknowledged_by"] or "",
        acknowledged_ns=row["acknowledged_ns"] or 0,
    )


def _chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[i : i + _CHUNK] for i in range(0, len(ids), _CHUNK))
