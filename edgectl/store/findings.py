"""What `edgectl audit` saw last: since when each finding stands, and which ones the operator was told about."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import delete, insert, select, update

from edgectl.core.audit import Finding
from edgectl.store.engine import Database
from edgectl.store.schema import findings


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """`standing` with the time each was first seen; `new` and `resolved` since the operator was last told."""

    standing: tuple[Finding, ...]
    new: tuple[Finding, ...]
    resolved: tuple[Finding, ...]


class Findings:
    """One row per finding, by its key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def replace(self, seen: Sequence[Finding], now_ns: int, *, tell: bool) -> Changes:
        """Make `seen` what stands now. With `tell` the new and the resolved ones count as told."""
        with self._database.write() as connection:
            rows = {row["key"]: row for row in connection.execute(select(findings)).mappings()}
            standing, new = [], []
            for finding in seen:
                row = rows.get(finding.key)
                known = row is not None and row["resolved_ns"] is None
                since = min(row["since_ns"], finding.since_ns) if row is not None and known else finding.since_ns
                current = msgspec.structs.replace(finding, since_ns=since)
                standing.append(current)
                if row is None or not row["told"]:
                    new.append(current)
                values = {
                    "since_ns": since, "body": msgspec.json.encode(current).decode(), "resolved_ns": None,
                    "told": tell or (row is not None and row["told"]),
                }  # fmt: skip
                if row is None:
                    connection.execute(insert(findings).values(key=finding.key, **values))
                else:
                    connection.execute(update(findings).where(findings.c.key == finding.key).values(**values))
            gone = [row for key, row in rows.items() if key not in {f.key for f in seen}]
            resolved = [msgspec.json.decode(row["body"], type=Finding) for row in gone if row["told"]]
            for row in gone:
                here = findings.c.key == row["key"]
                if tell or not row["told"]:
                    connection.execute(delete(findings).where(here))
                elif row["resolved_ns"] is None:
                    connection.execute(update(findings).where(here).values(resolved_ns=now_ns))
        return Changes(standing=tuple(standing), new=tuple(new), resolved=tuple(resolved))

    def standing(self) -> tuple[Finding, ...]:
        """What the last audit found and no later one saw resolved."""
        with self._database.read() as connection:
            bodies = connection.scalars(select(findings.c.body).where(findings.c.resolved_ns.is_(None))).all()
        return tuple(msgspec.json.decode(body, type=Finding) for body in bodies)
