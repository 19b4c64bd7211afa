"""Several processes on one store: no row is lost, none is there twice, numbers and sequences have no gap."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from edgectl.core.errors import LockHeld
from edgectl.core.rollout import Entry, begin
from edgectl.store.alerts import Position
from edgectl.store.store import Store
from tests.support.full_store import alert, plan, report

PROCESSES, ROUNDS = 3, 12


def patiently(write: Any) -> Any:
    """As a follower does: the store is busy for a moment, what was to be written is still there."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return write()
        except LockHeld:
            assert time.monotonic() < deadline


def work(url: str, folder: Path, who: int, start: Any) -> None:
    """Alerts of which half are everybody's, own and shared nodes, rollouts, journals, orders, actions."""
    store = patiently(lambda: Store(url, folder).open())
    start.wait(60)
    for i in range(ROUNDS):
        shared, mine = alert(onset=i + 1, score=float(who)), alert(onset=1000 * (who + 1) + i)
        position = Position(node=f"n{who}", after=i + 1)
        patiently(lambda a=[shared, mine], p=position: store.alerts.save(a, [p], 1))
        patiently(lambda n=10 * who + i: store.nodes.save(report("shared", clock_ns=n), time.time_ns()))
        record = patiently(lambda: store.rollouts.create(plan(), f"op{who}", 1))
        progress = begin(record.plan)
        for event in ("start", "finish"):
            progress = patiently(
                lambda n=record.number, p=progress, e=event: store.rollouts.append(n, p, Entry(event=e, at_ns=1))
            )
        patiently(lambda n=i: store.rollouts.log(f"op{who}", "work", str(n), 1))
        patiently(lambda: store.orders.put("n", "POST", "/v1/update", "{}", 1, 100))
    store.close()


@pytest.mark.parametrize("first", ["made by all of them", "there already"])
def test_processes_that_write_at_once_lose_nothing(url: str, tmp_path: Path, first: str) -> None:
    if first == "there already":
        Store(url, tmp_path).open().close()
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(PROCESSES)
    workers = [context.Process(target=work, args=(url, tmp_path, who, start)) for who in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(180)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    with Store(url, tmp_path) as store:
        found = {record.alert.id: record.alert for record in store.alerts.find()}
        assert len(found) == ROUNDS + PROCESSES * ROUNDS
        assert {found[alert(onset=i + 1).id].score for i in range(ROUNDS)} == {float(PROCESSES - 1)}, "the highest wins"
        assert {n: p.after for n, p in store.alerts.positions().items()} == {f"n{w}": ROUNDS for w in range(PROCESSES)}
        rollouts = store.rollouts.all()
        assert [r.number for r in rollouts] == list(range(PROCESSES * ROUNDS, 0, -1))
        assert {r.state for r in rollouts} == {"done"}
        assert all(len(store.rollouts.journal(r.number)) == 2 for r in rollouts)
        logged = {(action.operator, action.detail) for action in store.rollouts.actions(limit=1000)}
        assert len(logged) == PROCESSES * ROUNDS
        assert len(store.orders.sync("n", [], 2)) == 1, "the same order, however often it was given"
