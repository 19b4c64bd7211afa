"""Between broker and worker: nothing lost, nothing twice, nothing acknowledged before it is stored."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from edgectl_agent.core.deliveries import Deliveries, Window
from edgectl_agent.sources.interface import Position
from edgectl_agent.sources.mqtt_inbox import Inbox
from hypothesis import example, given
from hypothesis import strategies as st

LIMIT = 6


def inbox(position: Position | None = None, limit: int = LIMIT, level: int | None = None, room: int = 1 << 20) -> Inbox:
    made = Inbox(limit, room, "json", level, 10.0, position or {}, lambda: None)
    made.connected(resumed=True)
    return made


def lines(number: int, count: int) -> bytes:
    return b"\n".join(b"%d.%d" % (number, i) for i in range(count))


class World:
    """A broker with a persistent session, and a node that may be killed at any moment."""

    def __init__(self) -> None:
        self.queue: list[bytes] = []
        self.in_flight: dict[int, bytes] = {}
        self.again: list[int] = []
        self.identifier = 0
        self.published: list[bytes] = []
        self.inbox = inbox()
        self.state: list[bytes] = []
        self.stored: tuple[Position, list[bytes]] = ({}, [])

    def publish(self, count: int) -> None:
        payload = lines(len(self.published), count)
        self.published += payload.split(b"\n")
        self.queue.append(payload)

    def deliver(self, count: int) -> None:
        """What was in flight when the connection ended goes first."""
        for _ in range(count):
            if self.again:
                self._offer(self.again.pop(0))
                continue
            if not self.queue or len(self.in_flight) >= LIMIT:
                return
            self.identifier = self.identifier % 9 + 1
            while self.identifier in self.in_flight:
                self.identifier = self.identifier % 9 + 1
            self.in_flight[self.identifier] = self.queue.pop(0)
            self._offer(self.identifier)

    def take(self, limit: int) -> None:
        self.state += self.inbox.take(limit, 0).lines

    def store(self, _: int = 0) -> None:
        self.stored = self.inbox.take(0, 0).position, list(self.state)
        self.inbox.covered(self.stored[0])

    def acknowledge(self, _: int = 0) -> None:
        for identifier in self.inbox.due():
            payload = self.in_flight.pop(identifier)
            assert set(payload.split(b"\n")) <= set(self.stored[1]), "the broker forgets what no snapshot has"

    def break_off(self, arrives: int) -> None:
        """The connection is lost, with all but some acknowledgements on their way."""
        for identifier in self.inbox.due()[:arrives]:
            del self.in_flight[identifier]
        self.inbox.lost()
        self.inbox.connected(resumed=True)
        self.again = list(self.in_flight)

    def kill(self, _: int = 0) -> None:
        self.inbox, self.state = inbox(self.stored[0]), list(self.stored[1])
        self.again = list(self.in_flight)

    def _offer(self, identifier: int) -> None:
        self.inbox.offer("t", self.in_flight[identifier], identifier)


STEPS = ["publish", "deliver", "take", "store", "acknowledge", "break_off", "kill"]


@example([("publish", 2), ("deliver", 1), ("take", 2), ("break_off", 1), ("store", 1), ("deliver", 1)])
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 4)), max_size=80))
def test_whatever_breaks_every_record_is_in_the_state_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    world = World()
    for step, count in steps:
        getattr(world, step)(count)
    while world.queue or world.in_flight:
        for step in STEPS[1:5]:
            getattr(world, step)(3)
    assert world.state == world.published


def test_what_a_stored_snapshot_has_is_acknowledged_when_it_comes_again_though_nothing_new_does() -> None:
    before = inbox()
    for identifier in (1, 2, 3):
        before.offer("t", b"%d" % identifier, identifier)
    position = before.take(10, 0).position
    after = inbox(position)
    for identifier in (1, 2, 3):
        after.offer("t", b"%d" % identifier, identifier)
    assert after.take(10, 0).lines == []
    assert after.due() == [1, 2, 3]


def test_the_same_words_said_twice_are_two_messages_unless_the_broker_may_be_repeating_itself() -> None:
    box = inbox()
    for identifier in (1, 2):
        box.offer("t", b"same", identifier)
    assert box.take(10, 0).lines == [b"same", b"same"]


def test_a_session_that_the_broker_has_forgotten_brings_nothing_again() -> None:
    before = inbox()
    before.offer("t", b"same", 1)
    after = inbox(before.take(10, 0).position)
    after.connected(resumed=False)
    after.offer("t", b"same", 1)
    assert after.take(10, 0).lines == [b"same"]


@pytest.mark.parametrize(
    ("payload", "reason", "count"),
    [(b"", "empty", 1), (b" \n\n", "empty", 1), (b"x" * (1 << 20) + b"x", "too-long", 1), (b"{}\n{}", "bad-stream", 2)],
)
def test_what_is_no_reading_is_counted_and_acknowledged_in_its_place(payload: bytes, reason: str, count: int) -> None:
    box = inbox(level=1)
    box.offer("a/m1", b"{}", 1)
    box.offer("a", payload, 2)
    box.offer("a/m2", b"{}", 3)
    taken = box.take(10, 0)
    assert (taken.streams, taken.rejected) == (["m1", "m2"], {reason: count})
    box.covered(taken.position)
    assert box.due() == [1, 2, 3]


def test_it_is_full_when_messages_or_bytes_reach_their_limit_and_then_again_has_room() -> None:
    few = inbox(limit=2)
    for identifier in (1, 2):
        few.offer("t", b"%d" % identifier, identifier)
    assert few.full
    few.covered(few.take(10, 0).position)
    few.due()
    assert not few.full
    big = inbox(room=1000)
    big.offer("t", b"x" * 2000, 1)
    assert big.full
    big.take(1, 0)
    assert not big.full


# ── when an acknowledgement is urgent ───────────────────────────────────────────────────────────────────────────────


def run(window: Window, brokers_limit: int, seconds: float, rate: float = 1000.0) -> Iterable[float]:
    """A broker that lets `brokers_limit` be unacknowledged; yields each moment of an urgent acknowledgement."""
    unacknowledged, now_s, sent = 0, 0.0, 0
    while now_s < seconds:
        now_s += 0.001
        if unacknowledged < brokers_limit and sent < now_s * rate:
            sent, unacknowledged = sent + 1, unacknowledged + 1
            window.arrived(unacknowledged, now_s)
        if window.urgent(unacknowledged, now_s):
            window.acknowledged(unacknowledged, now_s)
            unacknowledged = 0
            yield now_s


@pytest.mark.parametrize("brokers_limit", [10, 20, 32, 100])
def test_a_brokers_own_limit_is_found_by_its_silence(brokers_limit: int) -> None:
    window = Window(2000, 10.0)
    moments = list(run(window, brokers_limit, seconds=5.0))
    assert window.limit == brokers_limit
    assert sum(later - earlier > 0.2 for earlier, later in pairwise(moments)) <= 2


def test_without_such_a_limit_a_snapshot_is_asked_for_when_half_of_our_own_is_used() -> None:
    window = Window(200, 10.0)
    assert len(list(run(window, 10**6, seconds=5.0))) == 50


def test_a_slow_sender_does_not_cause_snapshots() -> None:
    assert len(list(run(Window(2000, 10.0), 10**6, seconds=300.0, rate=1.0))) < 12


def test_what_may_be_delivered_again_is_at_most_what_may_be_unacknowledged() -> None:
    deliveries = Deliveries(3)
    for i in range(10):
        deliveries.arrived(i + 1, b"%08d" % i)
    assert deliveries.held(10) == b"000000070000000800000009"
