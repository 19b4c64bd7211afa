"""A store with something in every table, and all its rows as values."""

from __future__ import annotations

from typing import Any

import msgspec
from edgectl_agent.core.messages import (
    Alert,
    Assignment,
    Epoch,
    OutboxStatus,
    Placement,
    Report,
    alert_id,
)
from sqlalchemy import select

from edgectl.core.audit import Finding
from edgectl.core.rollout import Entry, Phase, Plan, begin
from edgectl.store import schema
from edgectl.store.alerts import Position
from edgectl.store.engine import Database
from edgectl.store.store import Store


def report(node: str = "a", clock_ns: int = 0) -> Report:
    return Report(
        node=node, agent="0", boot="b", clock_ns=clock_ns, uptime_s=1, state="healthy",
        outbox=OutboxStatus(records=0, bytes=0, limit_bytes=1, head_seq=0),
    )  # fmt: skip


def alert(onset: int = 1, **more: object) -> Alert:
    base = {
        "id": alert_id("a", "s", "press", "b", onset), "node": "a", "stream": "s", "recipe": "press", "version": "1",
        "bundle": "b", "variant": "fp32", "severity": "warning", "state": "open", "onset_ns": onset,
        "changed_ns": onset, "score": 1.0, "threshold": 0.5, "surprise": 3.0,
    }  # fmt: skip
    return msgspec.convert({**base, **more}, Alert)


def plan(recipe: str = "press") -> Plan:
    target = Placement(version="2", sha256="a" * 64, variant="fp32", nodes=("a", "b"))
    return Plan(recipe=recipe, version="2", targets=(target,), phases=(Phase(nodes=("a", "b"), canary=True),))


def rollout(store: Store, *events: str, recipe: str = "press", at_ns: int = 2) -> int:
    """A rollout that went through `events`; its number."""
    record = store.rollouts.create(plan(recipe), "mona", at_ns)
    progress = begin(record.plan)
    for event in events:
        progress = store.rollouts.append(record.number, progress, Entry(event=event, at_ns=at_ns))
    return record.number


def sign(store: Store, epoch: int, number: int | None = None, now_ns: int = 5) -> None:
    assignment = Assignment(fleet="acme", epoch=Epoch(number=epoch, operator="mona"), models={})
    store.rollouts.signed(assignment, "s" * 64, number, "", now_ns)


def fill(store: Store, alerts: int = 3) -> None:
    """Something in every table; texts with quotes, newlines and letters of everywhere."""
    store.nodes.save(report(), 100)
    store.nodes.save_failure("b", 'it said "no"\nτέλος', 200)
    found = [alert(onset=i, stream="säge 'ä'\t\N{SNOWMAN}") for i in range(1, alerts + 1)]
    store.alerts.save(found, [Position(node="a", after=4, lost=((1, 2),), log_id="x" * 32)], 300)
    store.alerts.acknowledge([alert().id], "mona", 400)
    rollout(store, "start", "finish")
    sign(store, 1, 1)
    store.findings.replace([Finding(kind="x", node="a", since_ns=1, detail="d")], 5, tell=True)
    store.rollouts.log("mona", "deploy press", "r-1", 6)
    store.orders.put("b", "POST", "/v1/update", "{}", 1, 1000)
    store.credentials.issue("b", 1)
    token = store.invites.create("lyon", 3, 1, 1000)
    store.enrolments.enrol(token, "m1", "ab" * 32, facts={}, taken=(), now_ns=1)


def contents(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table but the record of schemas."""
    tables = [table for table in schema.metadata.sorted_tables if table is not schema.schema_version]
    with database.read() as connection:
        return {
            t.name: [dict(row) for row in connection.execute(select(t).order_by(*t.primary_key.columns)).mappings()]
            for t in tables
        }
