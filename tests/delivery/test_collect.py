"""Alerts into the store: once, followed, with nodes that die."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from edgectl_agent.core.messages import Alert, AlertPage, alert_id

from edgectl.delivery.collect import Follower, collect
from edgectl.store.alerts import Position
from edgectl.store.store import Store
from edgectl.testing import FakeFleet, FakeNode


def alert(node: str, onset: int, state: Literal["open", "cleared"] = "open") -> Alert:
    return Alert(
        id=alert_id(node, "s", "press", "b", onset), node=node, stream="s", recipe="press", version="1", bundle="b",
        variant="fp32", severity="warning", state=state, onset_ns=onset, changed_ns=onset, score=1, threshold=0.5,
        surprise=3, accepted_ns=1,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store("sqlite:///s.db", tmp_path) as opened:
        yield opened


def ids(store: Store) -> set[str]:
    return {record.alert.id for record in store.alerts.find()}


def test_collecting_twice_stores_each_alert_once_and_releases_it(store: Store) -> None:
    fleet = FakeFleet(["a", "b"])
    for i in range(1200):
        fleet["a"].raise_alert(alert("a", i))
    fleet["b"].raise_alert(alert("b", 1))
    fleet["b"].raise_alert(alert("b", 1, "cleared"))
    done = collect(fleet, connect=fleet.connect, store=store, forks=2, clock_ns=time.time_ns)
    assert [(c.node, c.alerts) for c in done] == [("a", 1200), ("b", 1)]
    assert len(ids(store)) == 1201
    assert fleet["a"].released == 1200
    again = collect(fleet, connect=fleet.connect, store=store, forks=2, clock_ns=time.time_ns)
    assert [c.alerts for c in again] == [0, 0]
    assert store.alerts.find(node="b")[0].alert.state == "cleared"


def test_a_dead_node_is_noted_and_does_not_stop_the_others(store: Store) -> None:
    fleet = FakeFleet(["a", "b"])
    fleet["a"].unreachable = True
    fleet["b"].raise_alert(alert("b", 1))
    done = collect(fleet, connect=fleet.connect, store=store, forks=1, clock_ns=lambda: 7)
    assert [bool(c.error) for c in done] == [True, False]
    assert store.nodes.all()["a"].failing_since_ns == 7
    assert len(ids(store)) == 1


def test_an_outbox_that_was_begun_anew_is_read_from_its_beginning(store: Store) -> None:
    fleet = FakeFleet(["a"])
    for i in range(5):
        fleet["a"].raise_alert(alert("a", i))
    collect(fleet, connect=fleet.connect, store=store, forks=1, clock_ns=time.time_ns)
    fleet["a"] = FakeNode("a")
    fleet["a"].raise_alert(alert("a", 77))
    collect(fleet, connect=fleet.connect, store=store, forks=1, clock_ns=time.time_ns)
    assert len(ids(store)) == 6


def begun_anew(onsets: range) -> FakeNode:
    node = FakeNode("a", log_id="second")
    for i in onsets:
        node.raise_alert(alert("a", i))
    return node


def test_a_new_outbox_whose_head_already_passed_the_old_position_is_read_from_its_beginning(store: Store) -> None:
    fleet = FakeFleet(["a"])
    fleet["a"].log_id = "first"
    for i in range(5):
        fleet["a"].raise_alert(alert("a", i))
    collect(fleet, connect=fleet.connect, store=store, forks=1, clock_ns=time.time_ns)
    fleet["a"] = begun_anew(range(100, 112))
    done = collect(fleet, connect=fleet.connect, store=store, forks=1, clock_ns=time.time_ns)
    assert [(c.alerts, c.error) for c in done] == [(12, "")]
    assert len(ids(store)) == 17
    assert store.alerts.position("a") == Position(node="a", after=12, log_id="second")
    assert fleet["a"].released == 12


def test_the_first_collection_after_an_agent_learned_to_tell_its_outbox_reads_it_all(store: Store) -> None:
    fleet = FakeFleet(["a"])
    fleet["a"].raise_alert(alert("a", 1))
    collect(fleet, connect=fleet.connect, store=store, forks=1, clock_ns=time.time_ns)
    fleet["a"].log_id = "first"
    fleet["a"].raise_alert(alert("a", 2))
    collect(fleet, connect=fleet.connect, store=store, forks=1, clock_ns=time.time_ns)
    assert len(ids(store)) == 2
    assert store.alerts.position("a") == Position(node="a", after=2, log_id="first")


class Replaced(FakeNode):
    """A node whose outbox is begun anew between a report and the first page after it."""

    def alerts(self, after: int = 0, limit: int = 500, wait_s: float = 0.0) -> AlertPage:
        if self.log_id == "first":
            self.log_id, self.outbox, self.released = "second", begun_anew(range(100, 112)).outbox, 0
        return super().alerts(after, limit, wait_s)


@pytest.mark.parametrize("follow", [False, True])
def test_an_outbox_begun_anew_after_the_report_is_read_from_its_beginning(store: Store, follow: bool) -> None:
    store.alerts.save([], [Position(node="a", after=5, log_id="first")], 1)
    node = Replaced("a", log_id="first")
    for i in range(5):
        node.raise_alert(alert("a", i))
    if follow:
        follow_until(store, node, 12)
    else:
        collect(["a"], connect=lambda name: node, store=store, forks=1, clock_ns=time.time_ns)
    assert len(ids(store)) == 12
    assert store.alerts.position("a") == Position(node="a", after=12, log_id="second")


def follow_until(store: Store, node: FakeNode, count: int) -> None:
    stop = threading.Event()
    follower = Follower(
        {"a": 0.1}, connect=lambda name: node, store=store, clock_ns=time.time_ns,
        monotonic_s=time.monotonic, rng=random.Random(1), stop=stop, told=lambda a, ns: None,
    )  # fmt: skip
    running = threading.Thread(target=follower.run)
    running.start()
    deadline = time.monotonic() + 30
    while len(ids(store)) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    running.join(10)
    assert not running.is_alive()


class Live(FakeNode):
    """A node whose long poll waits, and which counts an alert released too early as lost."""

    def __init__(self, name: str, store: Store) -> None:
        super().__init__(name)
        self.store = store
        self.lock = threading.Condition()

    def raise_alert(self, alert: Alert) -> None:
        with self.lock:
            super().raise_alert(alert)
            self.lock.notify_all()

    def alerts(self, after: int = 0, limit: int = 500, wait_s: float = 0.0) -> AlertPage:
        with self.lock:
            self.lock.wait_for(lambda: len(self.outbox) > after or self.unreachable, min(wait_s, 0.2))
            return super().alerts(after, limit, wait_s)

    def release(self, through: int, log_id: str = "") -> None:
        stored = ids(self.store)
        assert {r.alert.id for r in self.outbox if r.seq <= through} <= stored, "released before it was committed"
        super().release(through, log_id)


def test_following_stores_what_is_raised_and_survives_a_node_that_dies(store: Store) -> None:
    nodes = {name: Live(name, store) for name in ("a", "b", "c")}
    stop, told = threading.Event(), []
    follower = Follower(
        dict.fromkeys(nodes, 0.3), connect=nodes.__getitem__, store=store, clock_ns=time.time_ns,
        monotonic_s=time.monotonic, rng=random.Random(1), stop=stop, told=lambda a, ns: told.append((a.id, ns)),
    )  # fmt: skip
    running = threading.Thread(target=follower.run)
    running.start()
    expected = set()
    for i in range(60):
        for name, node in nodes.items():
            node.unreachable = name == "b" and 20 <= i < 40
            raised = alert(name, i)
            node.raise_alert(raised)
            expected.add(raised.id)
        time.sleep(0.005)
    nodes["b"].unreachable = False
    deadline = time.monotonic() + 30
    while ids(store) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    running.join(10)
    assert not running.is_alive()
    assert ids(store) == expected
    assert len(told) == len(expected) == len({key for key, _ in told})
    assert set(store.nodes.all()) == set(nodes)
