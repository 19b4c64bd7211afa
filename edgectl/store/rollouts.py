"""Rollouts: the frozen plan, the append-only journal, and the assignments that were signed on the way."""

from __future__ import annotations

from typing import Any

import msgspec
from edgectl_agent.core.messages import Assignment
from sqlalchemy import Connection, func, insert, select, update

from edgectl.core.errors import NothingMatched, StorageError
from edgectl.core.records import RolloutRecord
from edgectl.core.rollout import Entry, Plan, Progress, apply, begin, fold
from edgectl.store.engine import Database
from edgectl.store.schema import actions, assignments, rollout_journal, rollout_nodes, rollouts


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that an operator did."""

    at_ns: int
    operator: str
    command: str
    detail: str = ""


def number_of(name: str) -> int:
    """``r-3`` or ``3`` → 3. Raises `NothingMatched`."""
    digits = name.removeprefix("r-")
    if not (digits.isascii() and digits.isdigit()):
        raise NothingMatched(f"{name!r} is not a rollout", hint="rollouts are named r-1, r-2, …")
    return int(digits)


class Rollouts:
    """Plans, journals, signed assignments and the log of operator actions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def next_number(self) -> int:
        """The number that the next rollout will have."""
        with self._database.read() as connection:
            return (connection.scalar(select(func.max(rollouts.c.number))) or 0) + 1

    def create(self, plan: Plan, operator: str, now_ns: int) -> RolloutRecord:
        """Freeze `plan` under the next number."""
        with self._database.write() as connection:
            number = (connection.scalar(select(func.max(rollouts.c.number))) or 0) + 1
            values = {
                "number": number, "recipe": plan.recipe, "kind": plan.kind, "operator": operator,
                "created_ns": now_ns, "changed_ns": now_ns, "state": "planned",
            }  # fmt: skip
            connection.execute(insert(rollouts).values(**values, plan=msgspec.json.encode(plan).decode()))
            fresh = begin(plan).nodes
            connection.execute(insert(rollout_nodes), [{"rollout": number, **_node(n, p)} for n, p in fresh.items()])
        return RolloutRecord(**values, plan=plan)  # type: ignore[arg-type]

    def append(self, number: int, progress: Progress, entry: Entry) -> Progress:
        """Journal `entry` and return the state after it.

        Raises:
            IllegalEvent: the life cycle forbids it; nothing was written.
            LockHeld, StorageError: it could not be written; `progress` is still the state.
        """
        after = apply(progress, entry)
        with self._database.write() as connection:
            mine = rollout_journal.c.rollout == number
            last = connection.scalar(select(func.max(rollout_journal.c.sequence)).where(mine)) or 0
            row = {"rollout": number, "sequence": last + 1, **msgspec.structs.asdict(entry)}
            connection.execute(insert(rollout_journal).values(**row))
            _reflect(connection, number, after, entry)
        return after

    def get(self, name: str) -> RolloutRecord:
        """One rollout by ``r-3``. Raises `NothingMatched`."""
        with self._database.read() as connection:
            row = connection.execute(select(rollouts).where(rollouts.c.number == number_of(name))).mappings().first()
        if row is None:
            raise NothingMatched(f"no rollout {name!r} in the store", hint="edgectl status shows the newest")
        return _record(row)

    def all(self, *, recipe: str = "", limit: int = 0) -> tuple[RolloutRecord, ...]:
        """Rollouts, newest first."""
        query = select(rollouts).order_by(rollouts.c.number.desc())
        if recipe:
            query = query.where(rollouts.c.recipe == recipe)
        if limit:
            query = query.limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(_record(row) for row in rows)

    def journal(self, number: int) -> tuple[Entry, ...]:
        """All entries in order. Raises `StorageError` if the sequence has a gap."""
        query = select(rollout_journal).where(rollout_journal.c.rollout == number)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(rollout_journal.c.sequence)).mappings().all()
        if [row["sequence"] for row in rows] != list(range(1, len(rows) + 1)):
            raise StorageError(f"the journal of r-{number} has a gap", reason="damaged")
        return tuple(
            Entry(event=r["event"], at_ns=r["at_ns"], node=r["node"], detail=r["detail"], epoch=r["epoch"])
            for r in rows
        )

    def progress(self, record: RolloutRecord) -> Progress:
        """The fold of the journal."""
        return fold(record.plan, self.journal(record.number))

    # ── what was signed and done ────────────────────────────────────────────────────────────────────────────────────

    def signed(self, assignment: Assignment, sha256: str, number: int | None, reason: str, now_ns: int) -> None:
        """Keep a signed assignment; the same one again (after a crash) changes nothing.

        Another one of the same epoch has other rules for actions: it takes the place of the former, and which rollout
        brought the epoch about stays.
        """
        epoch, body = assignment.epoch, msgspec.json.encode(assignment).decode()
        mine = assignments.c.epoch == epoch.number
        what = {"operator": epoch.operator, "signed_ns": now_ns, "sha256": sha256, "body": body}
        with self._database.write() as connection:
            before = connection.scalar(select(assignments.c.body).where(mine))
            if before is None:
                row = {"epoch": epoch.number, "rollout": number, "reason": reason, **what}
                connection.execute(insert(assignments).values(**row))
            elif before != body:
                connection.execute(update(assignments).where(mine).values(**what))

    def desired(self) -> Assignment | None:
        """The newest assignment that this store saw signed."""
        query = select(assignments.c.body).order_by(assignments.c.epoch.desc()).limit(1)
        with self._database.read() as connection:
            body = connection.scalar(query)
        return None if body is None else msgspec.json.decode(body, type=Assignment)

    def log(self, operator: str, command: str, detail: str, now_ns: int) -> None:
        """Remember who did what."""
        with self._database.write() as connection:
            row = {"at_ns": now_ns, "operator": operator, "command": command, "detail": detail}
            connection.execute(insert(actions).values(**row))

    def actions(self, limit: int = 50) -> tuple[Action, ...]:
        """What operators did, newest first."""
        query = select(actions).order_by(actions.c.number.desc()).limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(
            Action(at_ns=r["at_ns"], operator=r["operator"], command=r["command"], detail=r["detail"]) for r in rows
        )


def _reflect(connection: Connection, number: int, after: Progress, entry: Entry) -> None:
    change = update(rollouts).where(rollouts.c.number == number)
    connection.execute(change.values(state=after.state, changed_ns=entry.at_ns))
    changed = [entry.node] if entry.node else list(after.nodes) if entry.event == "resume" else []
    for node in changed:
        mine = (rollout_nodes.c.rollout == number) & (rollout_nodes.c.node == node)
        connection.execute(update(rollout_nodes).where(mine).values(**_node(node, after.nodes[node])))


def _node(name: str, progress: Any) -> dict[str, Any]:
    return {
        "node": name, "state": progress.state, "since_ns": progress.since_ns, "detail": progress.detail,
        "stuck": progress.stuck,
    }  # fmt: skip


def _record(row: Any) -> RolloutRecord:
    return RolloutRecord(**{**row, "plan": msgspec.json.decode(row["plan"], type=Plan)})
