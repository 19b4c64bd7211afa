"""A node that nobody can reach: it polls the published repository by itself and reports to the receiver.

Calls of its control API become orders in the store, which the node fetches with its next report and answers with the
one after. How it is, is what it last reported. Its machine is not ours to manage.
"""

from __future__ import annotations

import filecmp
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import msgspec
from edgectl_agent.core.messages import Report, UpdateResult
from edgectl_agent.core.units import SECOND_NS

from edgectl.connectors.answers import refused
from edgectl.connectors.interface import Connector
from edgectl.core.errors import SILENT, LockHeld, NodeUnreachable, RemoteRefused, StorageError, UsageError
from edgectl.core.records import MALFORMED
from edgectl.core.status import age
from edgectl.files import replace
from edgectl.store.orders import Order
from edgectl.store.store import Store

LONGEST_WAIT_S = 30.0
"""A node that answers later than this is not waited for: its orders are left for it."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
_LEFT = frozenset({("POST", "/v1/update"), ("POST", "/v1/rollback")})
"""Orders that make sense whenever the node gets them."""


class PullConnector(Connector):
    """One node that pulls; see `Connector` for the promise of the wire half."""

    def __init__(
        self,
        name: str,
        *,
        store: Store | None,
        repository: Path,
        every_s: float,
        silent_after_s: float,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`store` is the receiver's and open (None: then the node is out of reach); `every_s`: how often the node
        reports at least; `repository`: the folder
        that is published."""
        self.name = name
        self._given, self._repository = store, repository
        self._every_s = every_s
        self._fresh_s = max(silent_after_s, 2 * every_s)
        self._clock_ns, self._monotonic_s, self._sleep = clock_ns, monotonic_s, sleep

    # ── machine ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def place(self, files: Mapping[str, bytes]) -> bool:
        raise self._elsewhere()

    def start(self, timeout_s: float = 30.0) -> None:
        raise self._elsewhere()

    def stop(self, timeout_s: float = 15.0) -> None:
        raise self._elsewhere()

    def remove(self, keep_data: bool = False) -> None:
        raise self._elsewhere()

    def _elsewhere(self) -> UsageError:
        return UsageError(
            f"node {self.name} pulls: its files and its agent are managed where it lives",
            hint="edgectl nodes invite prints the line that installs one",
        )

    # ── wire ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def request(self, method: str, path: str, body: bytes = b"", timeout_s: float = 10.0) -> bytes:
        call = (method, path.partition("?")[0])
        try:
            if call == ("GET", "/v1/status"):
                return msgspec.json.encode(self._newest())
            if call == ("GET", "/v1/live"):
                self._newest()
                return b"{}"
            patience_s = 2 * self._every_s + 5
            if patience_s <= LONGEST_WAIT_S:
                return self._ask(method, path, body, max(timeout_s, patience_s))
            return self._leave(call, path, body)
        except LockHeld as e:
            raise NodeUnreachable(f"node {self.name}: {e.message}", hint=e.hint) from e

    def upload(self, files: Mapping[str, bytes | Path]) -> None:
        """Put `files` into the folder that is published, from which the node takes them; those that are there stay."""
        for name, content in files.items():
            target = self._repository / _inside(name)
            try:
                if not _same(target, content):
                    replace(target, content)
            except OSError as e:
                raise StorageError(
                    f"node {self.name}: cannot put {name} into {self._repository}: {e.strerror or e}"
                ) from e

    @property
    def _store(self) -> Store:
        if self._given is None:
            raise NodeUnreachable(f"node {self.name}: pulls, and this command has no store to leave it an order")
        return self._given

    # ── orders ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _newest(self) -> Report:
        record = self._store.nodes.get(self.name)
        if record is not None and record.error.startswith(MALFORMED):
            raise RemoteRefused(f"node {self.name}: {record.error}", status=200, reason="protocol")
        if record is None or record.report is None:
            raise NodeUnreachable(
                f"node {self.name}: has never reported", hint=f"edgectl nodes token {self.name}", reason=SILENT
            )
        since_s = (self._clock_ns() - record.received_ns) / 1e9
        if since_s > self._fresh_s:
            raise NodeUnreachable(
                f"node {self.name}: last reported {age(since_s)} ago (expected every {age(self._every_s)})",
                reason=SILENT,
            )
        return record.report

    def _put(self, method: str, path: str, body: bytes, lasts_s: float) -> Order:
        now_ns = self._clock_ns()
        ends_ns = now_ns + int(lasts_s * SECOND_NS)
        return self._store.orders.put(self.name, method, path, body.decode(), now_ns, ends_ns)

    def _ask(self, method: str, path: str, body: bytes, wait_s: float) -> bytes:
        """Leave an order and wait for its answer."""
        self._newest()  # one that is silent is not waited for
        order = self._put(method, path, body, wait_s)
        deadline_s, pause_s = self._monotonic_s() + wait_s, _FIRST_PAUSE_S
        while True:
            found = self._store.orders.get(order.id)
            if found is not None and found.answered:
                break
            if self._monotonic_s() >= deadline_s:
                self._store.orders.withdraw(order.id)
                taken = "has not answered" if found and found.taken_ns else "has not fetched"
                raise NodeUnreachable(f"node {self.name}: {taken} {path} within {wait_s:g} s")
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        if found.status >= 400:
            raise refused(self.name, found.status, found.answer.encode())
        return found.answer.encode()

    def _leave(self, call: tuple[str, str], path: str, body: bytes) -> bytes:
        """Leave an order for whenever the node comes; what cannot wait has no answer."""
        if call in _LEFT:
            self._put(call[0], path, body, max(3 * self._every_s, self._fresh_s))
            when = f"at its next report (every {age(self._every_s)})"
            return msgspec.json.encode(UpdateResult(state="ordered", message=f"told {when}"))
        if call == ("GET", "/v1/have"):  # it fetches what it lacks
            return b'{"bundles": []}'
        raise NodeUnreachable(
            f"node {self.name}: reports every {age(self._every_s)} and cannot be asked {path} in between",
            hint=f"edgectl nodes show {self.name}", reason=SILENT,
        )  # fmt: skip


def _inside(name: str) -> str:
    """`name`, if it stays inside. Raises ValueError."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ValueError(f"not a name inside the repository: {name!r}")
    return name


def _same(target: Path, content: bytes | Path) -> bool:
    if not target.is_file():
        return False
    if isinstance(content, Path):
        return target.samefile(content) or filecmp.cmp(target, content, shallow=False)
    return target.stat().st_size == len(content) and target.read_bytes() == content
