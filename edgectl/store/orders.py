"""Orders: calls of a node's own control API that the node fetches, because nobody can reach it.

An order is handed out at every sync of its node until it is answered or has expired. The node carries each id out at
most once per boot, so handing it out twice is harmless; the first answer stays.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import msgspec
from edgectl_agent.core.messages import Answer
from sqlalchemy import Connection, delete, insert, select, update

from edgectl.store.engine import Database
from edgectl.store.schema import orders


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One call and, once `answered_ns` is not 0, the node's answer to it: HTTP `status` and body."""

    id: str
    node: str
    method: str
    path: str
    body: str
    created_ns: int
    expires_ns: int
    taken_ns: int = 0
    """When it was first handed out; 0: not yet."""
    answered_ns: int = 0
    status: int = 0
    answer: str = ""

    @property
    def answered(self) -> bool:
        return self.answered_ns > 0


class Orders:
    """The orders table. Times are the operator's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, node: str, method: str, path: str, body: str, now_ns: int, expires_ns: int) -> Order:
        """Leave a call for `node`; one that says the same and still waits is taken in its place, with the later end.

        So a command that was interrupted and given again does not order the same thing twice.
        """
        with self._database.write() as connection:
            same = (orders.c.node == node, orders.c.method == method, orders.c.path == path, orders.c.body == body)
            waiting = connection.execute(select(orders).where(*same, *_open(now_ns))).mappings().first()
            if waiting is not None:
                ends = max(waiting["expires_ns"], expires_ns)
                connection.execute(update(orders).where(orders.c.id == waiting["id"]).values(expires_ns=ends))
                return _order({**waiting, "expires_ns": ends})
            order = Order(
                id=secrets.token_hex(16), node=node, method=method, path=path, body=body, created_ns=now_ns,
                expires_ns=expires_ns,
            )  # fmt: skip
            connection.execute(insert(orders).values(**msgspec.structs.asdict(order)))
        return order

    def sync(self, node: str, answers: Iterable[Answer], now_ns: int, limit: int = 100) -> tuple[Order, ...]:
        """Note `answers` of `node`, then hand out what waits for it, the oldest first.

        An answer to an order that is unknown, answered already or another node's changes nothing.
        """
        with self._database.write() as connection:
            for answer in answers:
                _note(connection, node, answer, now_ns)
            query = select(orders).where(orders.c.node == node, *_open(now_ns))
            rows = connection.execute(query.order_by(orders.c.created_ns, orders.c.id).limit(limit)).mappings().all()
            for row in rows:
                if not row["taken_ns"]:
                    connection.execute(update(orders).where(orders.c.id == row["id"]).values(taken_ns=now_ns))
        return tuple(_order({**row, "taken_ns": row["taken_ns"] or now_ns}) for row in rows)

    def get(self, id_: str) -> Order | None:
        """One order."""
        with self._database.read() as connection:
            row = connection.execute(select(orders).where(orders.c.id == id_)).mappings().first()
        return None if row is None else _order(row)

    def waiting(self, node: str, now_ns: int) -> tuple[Order, ...]:
        """What `node` has not answered yet, the oldest first."""
        query = select(orders).where(orders.c.node == node, *_open(now_ns)).order_by(orders.c.created_ns, orders.c.id)
        with self._database.read() as connection:
            return tuple(_order(row) for row in connection.execute(query).mappings())

    def withdraw(self, id_: str) -> bool:
        """Drop an order that nobody waits for any more; False if it was handed out already."""
        with self._database.write() as connection:
            untaken = delete(orders).where(orders.c.id == id_, orders.c.taken_ns == 0)
            return connection.execute(untaken).rowcount > 0

    def prune(self, before_ns: int) -> int:
        """Drop orders that were answered or ended before `before_ns`. Returns how many."""
        answered = (orders.c.answered_ns > 0) & (orders.c.answered_ns < before_ns)
        ended = (orders.c.answered_ns == 0) & (orders.c.expires_ns < before_ns)
        with self._database.write() as connection:
            return connection.execute(delete(orders).where(answered | ended)).rowcount


def _open(now_ns: int) -> tuple[Any, ...]:
    return orders.c.answered_ns == 0, orders.c.expires_ns > now_ns


def _note(connection: Connection, node: str, answer: Answer, now_ns: int) -> None:
    unanswered = (orders.c.id == answer.id) & (orders.c.node == node) & (orders.c.answered_ns == 0)
    values = {"answered_ns": now_ns, "status": answer.status, "answer": answer.body}
    connection.execute(update(orders).where(unanswered).values(**values))


def _order(row: Any) -> Order:
    return Order(**row)
