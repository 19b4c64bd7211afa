"""Takes a sync into the store. Doing it again changes nothing: a node whose answer got lost sends it again."""

from __future__ import annotations

from edgectl_agent.core.messages import AlertPage, Order, Released, Report, Sync, SyncResult

from edgectl.hub.access import check_own
from edgectl.store.alerts import Position
from edgectl.store.store import Store


def receive(store: Store, node: str, sync: Sync, now_ns: int) -> SyncResult:
    """Store what `node` sent, alerts first; the answer says what it may delete and what it shall do.

    Raises:
        Refused: the sync names other nodes.
        LockHeld, StorageError: the store cannot be written; what was committed stays.
    """
    check_own(node, sync)
    before = store.alerts.position(node)
    reached = advance(before, sync.alerts)
    if sync.alerts.records or reached != before:
        store.alerts.save((record.alert for record in sync.alerts.records), [reached], now_ns)
    if _newer(sync.report, store):
        store.nodes.save(sync.report, now_ns)
    orders: tuple[Order, ...] = ()
    if sync.answers or store.orders.waiting(node, now_ns):  # a sync without either costs no further write
        taken = store.orders.sync(node, sync.answers, now_ns)
        orders = tuple(Order(id=o.id, method=o.method, path=o.path, body=o.body) for o in taken)
    return SyncResult(released=Released(through=reached.after, log_id=reached.log_id), orders=orders)


def advance(position: Position, page: AlertPage) -> Position:
    """How far `page` brings what is stored of its outbox; an older page that comes late brings nothing back."""
    known = position.after if page.log_id == position.log_id else 0
    after = max((record.seq for record in page.records), default=0)
    return Position(node=position.node, after=max(known, after), lost=page.lost, log_id=page.log_id)


def _newer(report: Report, store: Store) -> bool:
    """False for a report that was overtaken: its sync was slow, and the node gave it up and sent another."""
    held = store.nodes.get(report.node)
    known = held.report if held else None
    return known is None or known.boot != report.boot or known.uptime_s <= report.uptime_s
