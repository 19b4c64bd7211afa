"""Carries out what the receiver hands this node: calls of its own control API, each at most once per boot.

An order is the same call that an operator beside the node could make, through the same handlers; what is not on the
list is answered and not done. They run in a thread of their own, so that alerts do not wait for a verification.
"""

from __future__ import annotations

import http.client
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import msgspec

from edgectl_agent.core.errors import EdgeError
from edgectl_agent.core.messages import Answer, Order
from edgectl_agent.logs import note

ALLOWED = frozenset({
    ("GET", "/v1/status"), ("GET", "/v1/alerts"), ("GET", "/v1/have"), ("POST", "/v1/alerts/release"),
    ("POST", "/v1/update"), ("POST", "/v1/rollback"),
})  # fmt: skip
_REMEMBERED = 1000
_MOST_WAITING = 100
_MAX_ANSWER_BYTES = 1024 * 1024
_CALL_S = 180.0

Call = Callable[[str, str, str], tuple[int, str]]
"""(method, path, body) → (status, body)."""


class Orders:
    """`take` what came, `answers` to send; once they arrived, `sent`. Any thread."""

    def __init__(self, call: Call, done: Callable[[], None]) -> None:
        """`done` is called when there is something to answer."""
        self._call, self._done = call, done
        self._lock = threading.Lock()
        self._waiting: list[Order] = []
        self._known: OrderedDict[str, Answer | None] = OrderedDict()
        """Order → its answer; None while it is carried out."""
        self._unsent: dict[str, Answer] = {}
        self._busy = False

    def take(self, orders: Iterable[Order]) -> None:
        """Carry out the new ones; one that is done already is answered once more, because its answer got lost."""
        with self._lock:
            for order in orders:
                known = self._known.get(order.id)
                if known is not None:
                    self._unsent[order.id] = known
                elif order.id not in self._known and len(self._waiting) < _MOST_WAITING:
                    self._known[order.id] = None
                    self._waiting.append(order)
            if self._waiting and not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name="orders", daemon=True).start()

    def answers(self) -> tuple[Answer, ...]:
        """What the receiver does not have yet."""
        with self._lock:
            return tuple(self._unsent.values())

    def sent(self, answers: Iterable[Answer]) -> None:
        """These have arrived."""
        with self._lock:
            for answer in answers:
                self._unsent.pop(answer.id, None)

    def _work(self) -> None:
        while (order := self._next()) is not None:
            answer = self._carry_out(order)
            note("order", method=order.method, path=order.path, status=answer.status)
            with self._lock:
                self._known[order.id] = self._unsent[order.id] = answer
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
            self._done()

    def _next(self) -> Order | None:
        with self._lock:
            if self._waiting:
                return self._waiting.pop(0)
            self._busy = False
            return None

    def _carry_out(self, order: Order) -> Answer:
        path = order.path.partition("?")[0]
        if (order.method, path) not in ALLOWED:
            return Answer(id=order.id, status=404, body=_error(f"no {path[:200]} by order", "no-such-call"))
        try:
            status, body = self._call(order.method, order.path, order.body)
        except EdgeError as e:
            return Answer(id=order.id, status=503, body=_error(str(e), e.reason))
        except Exception as e:  # whatever it is, the operator waits for an answer
            return Answer(id=order.id, status=500, body=_error(f"{type(e).__name__}: {e}", "internal"))
        if len(body) > _MAX_ANSWER_BYTES:
            return Answer(id=order.id, status=413, body=_error("the answer is too long to be sent", "oversized"))
        return Answer(id=order.id, status=status, body=body)


def loopback(contact: Callable[[], tuple[str, str]]) -> Call:
    """Calls of the agent's own API on loopback; `contact` gives its URL and token."""

    def call(method: str, path: str, body: str) -> tuple[int, str]:
        url, token = contact()
        where = urlsplit(url)
        connection = http.client.HTTPConnection(where.hostname or "127.0.0.1", where.port, timeout=_CALL_S)
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request(method, path, body.encode() or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_MAX_ANSWER_BYTES + 1).decode()
        finally:
            connection.close()

    return call


def _error(sentence: str, reason: str) -> str:
    return msgspec.json.encode({"error": sentence, "reason": reason}).decode()
