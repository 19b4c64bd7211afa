"""Pulls reports and alerts of all nodes into the store.

`collect` does it once. `Follower` keeps one thread per node in a long poll and one writer that commits what has arrived
in one transaction. A node may delete an alert only after its row is committed here; reading one twice changes nothing,
because rows merge by the alert's id. So nothing is lost whenever either side ends.
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
from edgectl_agent.core.messages import Alert, AlertPage, Report

from edgectl.core.errors import NOT_TRIED, LockHeld, NodeUnreachable, RemoteRefused
from edgectl.delivery.interface import Connect, Node
from edgectl.delivery.parallel import each
from edgectl.store.alerts import Position
from edgectl.store.store import Store

PAGE = 500
LONGEST_POLL_S = 10.0
RELEASE_EVERY_S = 1.0
LEAVE_S = 1.0
FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 0.5, 30.0

Told = Callable[[Alert, int], None]
"""Called after the commit with each alert that was new or changed, and the time of the commit."""


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What came from one node; `error`, with the next step, is empty if it answered."""

    node: str
    alerts: int = 0
    error: str = ""


def collect(
    nodes: Iterable[str],
    *,
    connect: Connect,
    store: Store,
    forks: int,
    clock_ns: Callable[[], int],
    told: Told = lambda alert, committed_ns: None,
) -> tuple[Collected, ...]:
    """Once over all `nodes`, up to `forks` at a time. A node that does not answer is noted and does not stop the rest.

    Raises:
        LockHeld, StorageError: the store cannot be written.
    """

    def pull(name: str) -> Collected:
        node = connect(name)
        try:
            return Collected(node=name, alerts=_pull(node, name, store, clock_ns, told))
        except (NodeUnreachable, RemoteRefused) as e:
            if e.reason not in NOT_TRIED:
                store.nodes.save_failure(name, e.message, clock_ns())
            return Collected(node=name, error=f"{e.message} → {e.hint}" if e.hint else e.message)
        finally:
            node.close()

    done = each(nodes, pull, forks=forks, stop=threading.Event())
    return tuple(done[name] for name in sorted(done))


def _pull(node: Node, name: str, store: Store, clock_ns: Callable[[], int], told: Told) -> int:
    report = node.status()
    store.nodes.save(report, clock_ns())
    position, count = _start(store.alerts.position(name), report), 0
    while True:
        page = node.alerts(position.after, PAGE, 0)
        if page.log_id != position.log_id:  # begun anew since the report: what was asked for means another log
            position = Position(node=name, log_id=page.log_id)
            continue
        if not page.records and page.lost == position.lost:
            return count
        position = _reached(name, page)
        changed = store.alerts.save((r.alert for r in page.records), [position], clock_ns())
        committed_ns = clock_ns()
        for alert in changed:
            told(alert, committed_ns)
        count += len(changed)
        node.release(position.after, position.log_id)
        if not page.records:
            return count


def _start(position: Position, report: Report) -> Position:
    """Where to read on: from the beginning if the node's outbox was begun anew since."""
    outbox = report.outbox
    if position.log_id == outbox.log_id and position.after <= outbox.head_seq:
        return position
    return Position(node=position.node, log_id=outbox.log_id)


def _reached(name: str, page: AlertPage) -> Position:
    return Position(node=name, after=page.next_after, lost=page.lost, log_id=page.log_id)


@dataclass
class _Parcel:
    """What one node's thread hands to the writer; `stored` is set when it is committed."""

    node: str
    report: Report | None = None
    page: AlertPage | None = None
    error: str = ""
    at_ns: int = 0
    stored: threading.Event = field(default_factory=threading.Event)


class Follower:
    """Follows the outboxes of `every_s` (node → seconds between two reports) until `stop` is set."""

    def __init__(
        self,
        every_s: Mapping[str, float],
        *,
        connect: Connect,
        store: Store,
        clock_ns: Callable[[], int],
        monotonic_s: Callable[[], float],
        rng: random.Random,
        stop: threading.Event,
        told: Told,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._every_s = every_s
        self._connect = connect
        self._store = store
        self._clock_ns = clock_ns
        self._monotonic_s = monotonic_s
        self._rng = rng
        self._stop = stop
        self._told = told
        self._say = say
        self._parcels: queue.Queue[_Parcel] = queue.Queue()

    def run(self) -> None:
        """Write what arrives, in the caller's thread. Raises `StorageError` if the store cannot be written."""
        starts = self._store.alerts.positions()
        threads = [
            threading.Thread(target=self._follow, args=(name, starts.get(name, Position(node=name))), daemon=True)
            for name in self._every_s
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._stop.is_set():
                self._write(self._arrived())
        finally:
            self._stop.set()
            end = self._monotonic_s() + LEAVE_S  # one that hangs in a poll ends with the process
            for thread in threads:
                thread.join(max(0.0, end - self._monotonic_s()))

    def _arrived(self) -> list[_Parcel]:
        try:
            parcels = [self._parcels.get(timeout=0.2)]
        except queue.Empty:
            return []
        while not self._parcels.empty():
            parcels.append(self._parcels.get_nowait())
        return parcels

    # ── the writer ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _write(self, parcels: list[_Parcel]) -> None:
        pages = [(p.node, p.page) for p in parcels if p.page is not None]
        if pages:  # alerts first: somebody may be waiting for them
            alerts = [record.alert for _, page in pages for record in page.records]
            reached = {name: _reached(name, page) for name, page in pages}  # a node's later page wins
            changed = self._patiently(lambda: self._store.alerts.save(alerts, reached.values(), self._clock_ns()))
            committed_ns = self._clock_ns()
            for alert in changed or ():
                self._told(alert, committed_ns)
        for parcel in parcels:
            if parcel.page is not None:
                parcel.stored.set()
        for parcel in parcels:
            self._note(parcel)

    def _note(self, parcel: _Parcel) -> None:
        if parcel.report is not None:
            report, at_ns = parcel.report, parcel.at_ns
            self._patiently(lambda: self._store.nodes.save(report, at_ns))
        elif parcel.error:
            self._patiently(lambda: self._store.nodes.save_failure(parcel.node, parcel.error, parcel.at_ns))

    def _patiently(self, write: Callable[[], tuple[Alert, ...] | None]) -> tuple[Alert, ...] | None:
        """Another process may write for a while; we wait, because the nodes keep what we have not taken."""
        while True:
            try:
                return write()
            except LockHeld as e:
                self._say(str(e))
                if self._stop.is_set():
                    raise

    # ── one thread per node ─────────────────────────────────────────────────────────────────────────────────────────

    def _follow(self, name: str, position: Position) -> None:
        failures = 0
        while not self._stop.is_set():
            node = self._connect(name)
            try:
                report = self._report(node, name)
                failures = 0
                position = self._read(node, name, _start(position, report))
            except (NodeUnreachable, RemoteRefused) as e:
                self._parcels.put(_Parcel(node=name, error=e.message, at_ns=self._clock_ns()))
                longest = min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * 2**failures)
                failures = min(failures + 1, 16)
                self._stop.wait(longest * self._rng.uniform(0.5, 1.0))
            finally:
                node.close()

    def _report(self, node: Node, name: str) -> Report:
        report = node.status()
        self._parcels.put(_Parcel(node=name, report=report, at_ns=self._clock_ns()))
        return report

    def _read(self, node: Node, name: str, position: Position) -> Position:
        """Read pages until the next report is due."""
        due = self._monotonic_s() + self._every_s[name]
        released_at, released = self._monotonic_s(), position.after
        while not self._stop.is_set() and (left := due - self._monotonic_s()) > 0:
            page = node.alerts(position.after, PAGE, min(left, LONGEST_POLL_S))
            if page.log_id != position.log_id:  # begun anew: the next report says so, too
                return position
            if page.records or page.lost != position.lost:
                parcel = _Parcel(node=name, page=page)
                self._parcels.put(parcel)
                if not self._await(parcel):
                    break
                position = _reached(name, page)
            if position.after > released and self._monotonic_s() - released_at >= RELEASE_EVERY_S:
                node.release(position.after, position.log_id)
                released_at, released = self._monotonic_s(), position.after
        if position.after > released:
            node.release(position.after, position.log_id)
        return position

    def _await(self, parcel: _Parcel) -> bool:
        while not parcel.stored.wait(0.5):
            if self._stop.is_set():
                return False
        return True
