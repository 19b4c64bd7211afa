"""A node that reports: nothing is released that the receiver has not stored, orders are carried out once, and waits are
spread, longer after failures, and never endless."""

from __future__ import annotations

import gzip
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from edgectl_agent.core.messages import Order, OutboxStatus, Report, Sync
from edgectl_agent.outbox import Outbox
from edgectl_agent.uplink.interface import Errand, UplinkError
from edgectl_agent.uplink.loop import Loop
from edgectl_agent.uplink.orders import Orders
from edgectl_agent.uplink.pace import LONGEST_RETRY_AFTER_S, Pace
from edgectl_agent.uplink.sync import Reporter
from edgectl_agent.uplink.web import Patience, Web, retry_after_s
from hypothesis import given
from hypothesis import strategies as st

from tests.scenarios.fleets import until
from tests.support.webserver import StaticServer, _Handler, dripping, endless

UNIT = st.floats(0, 1, exclude_max=True)


# ── when it is tried again ──────────────────────────────────────────────────────────────────────────────────────────


@given(st.floats(1, 1e6), UNIT)
def test_while_all_is_well_waits_are_the_period_give_or_take_a_tenth(every_s: float, u: float) -> None:
    pace = Pace(every_s)
    assert 0.9 * every_s <= pace.success(u) <= 1.1 * every_s
    assert 0 <= pace.first(u) <= min(every_s, 10)


@given(st.floats(1, 1e6), st.integers(1, 10**6), UNIT)
def test_waits_after_failures_grow_to_a_limit(every_s: float, failing: int, u: float) -> None:
    pace = Pace(every_s)
    wait, later = pace.failure(failing, u), pace.failure(failing + 1, u)
    assert 0.5 <= wait <= later <= pace.longest_s
    assert every_s <= pace.longest_s <= max(every_s, 900)


@given(st.integers(1, 40), UNIT, st.floats(0, 1e12))
def test_a_server_that_asks_for_time_gets_it_within_reason(failing: int, u: float, asked: float) -> None:
    wait = Pace(60).failure(failing, u, asked)
    assert min(asked, LONGEST_RETRY_AFTER_S) <= wait <= 1.1 * LONGEST_RETRY_AFTER_S


def test_retry_after_is_seconds_or_a_date_or_nothing() -> None:
    assert retry_after_s("120", 0) == 120
    assert retry_after_s("Thu, 01 Jan 1970 00:02:00 GMT", 60) == 60
    assert [retry_after_s(text, 0) for text in ("", "soon", "-5", "1e9", "٣")] == [0] * 5


class Scripted(Errand):
    """Each attempt takes the next of `outcomes`; afterwards it succeeds."""

    name = "receiver"

    def __init__(self, *outcomes: bool | Exception) -> None:
        self.outcomes = list(outcomes)
        self.attempts = 0
        self.reached = threading.Condition()

    def attempt(self) -> bool:
        with self.reached:
            self.attempts += 1
            self.reached.notify_all()
        outcome = self.outcomes.pop(0) if self.outcomes else False
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def wait(self, attempts: int) -> bool:
        with self.reached:
            return self.reached.wait_for(lambda: self.attempts >= attempts, 60)


def run(errand: Scripted, every_s: float = 3600.0) -> Loop:
    loop = Loop(errand, Pace(every_s), random.Random(1))
    loop.start()
    loop.nudge()
    return loop


def test_what_is_left_is_sent_at_once_and_a_nudge_does_not_wait_for_the_period() -> None:
    errand = Scripted(True, True)
    loop = run(errand)
    assert errand.wait(3)
    loop.nudge()
    assert errand.wait(4)
    loop.stop()


def test_a_failing_link_is_not_hurried_by_alerts_but_by_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    errand = Scripted(UplinkError("down", retry_after_s=3600), ZeroDivisionError("bug"))
    loop = run(errand)
    assert errand.wait(1)
    until(lambda: bool(loop.status().problem))
    for _ in range(100):
        loop.nudge()
    assert loop.status().failing == 1
    assert (loop.status().problem, loop.status().act) == ("down", False)
    loop.nudge(soon=False)
    assert errand.wait(2)
    assert errand.wait(3), "a bug of ours does not end the thread"
    loop.stop()
    assert errand.attempts == 3


# ── what is sent and released ───────────────────────────────────────────────────────────────────────────────────────


class Receiver:
    """A receiver whose answers are scripted; without a script it stores and releases what it gets."""

    def __init__(self, server: StaticServer) -> None:
        self.syncs: list[Sync] = []
        self.script: list[object] = []
        self.orders: list[dict[str, str]] = []
        self.tokens: list[str] = []
        server.faults["/sync"] = self.take

    def take(self, handler: _Handler, path: Path) -> None:
        raw = handler.rfile.read(int(handler.headers["Content-Length"]))
        said = msgspec.json.decode(gzip.decompress(raw), type=Sync)
        self.tokens.append(handler.headers["Authorization"])
        answer = self.script.pop(0) if self.script else None
        if callable(answer):
            return answer(handler, path)
        if isinstance(answer, tuple):
            return handler.answer(answer[0], answer[1].encode(), Retry_After="7")
        self.syncs.append(said)
        released = {"through": said.alerts.next_after, "log_id": said.alerts.log_id}
        if answer == "lost":  # stored, and the answer does not arrive
            handler.close_connection = True
            return None
        body = {"released": answer or released, "orders": self.orders}
        return handler.answer(200, json.dumps(body).encode())

    @property
    def seqs(self) -> list[int]:
        return [record.seq for sync in self.syncs for record in sync.alerts.records]


class World:
    """An outbox and its reporter."""

    def __init__(self, folder: Path, server: StaticServer) -> None:
        self.folder, self.server = folder, server
        self.receiver = Receiver(server)
        self.outbox = Outbox(folder / "outbox", boot="b", limit_bytes=10_000_000)
        self.outbox.open()
        (folder / "token").write_text("secret\n")
        self.calls: list[str] = []
        self.done = threading.Event()
        self.orders = Orders(self.call, self.done.set)
        self.reporter = self.restart()

    def restart(self) -> Reporter:
        web = Web(patience=Patience(connect_s=2, stall_s=30, body_s=1, slowest_bytes_s=1e6))
        self.reporter = Reporter(
            self.server.url, web, self.folder / "token", "n1", self.outbox, self.report, self.orders
        )
        return self.reporter

    def call(self, method: str, path: str, body: str) -> tuple[int, str]:
        self.calls.append(path)
        return 200, '{"state": "unchanged"}'

    def report(self) -> Report:
        outbox = OutboxStatus(records=0, bytes=0, limit_bytes=1, head_seq=0)
        return Report(node="n1", agent="0", boot="b", clock_ns=1, uptime_s=1, state="healthy", outbox=outbox)

    def raise_alerts(self, count: int) -> None:
        for i in range(count):
            alert = {
                "id": f"a-{i}", "node": "n1", "stream": "s", "recipe": "press", "version": "1", "bundle": "b",
                "variant": "fp32", "severity": "warning", "state": "open", "onset_ns": i, "changed_ns": i,
                "score": 1.0, "threshold": 0.5, "surprise": 3.0,
            }  # fmt: skip
            self.outbox.append(json.dumps(alert).encode(), i + 1)
        self.outbox.commit()

    def fails(self) -> UplinkError:
        with pytest.raises(UplinkError) as caught:
            self.reporter.attempt()
        return caught.value


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with StaticServer(tmp_path) as server:
        made = World(tmp_path, server)
        yield made
        made.reporter.close()
        made.outbox.close()


def test_alerts_go_page_by_page_and_are_released_when_they_are_stored(world: World) -> None:
    world.raise_alerts(1200)
    assert [world.reporter.attempt() for _ in range(3)] == [True, True, False]
    assert world.receiver.seqs == list(range(1, 1201))
    assert world.outbox.status().records == 0
    assert set(world.receiver.tokens) == {"Bearer secret"}


def test_a_sync_without_alerts_is_only_a_report(world: World) -> None:
    assert world.reporter.attempt() is False
    (sync,) = world.receiver.syncs
    assert (sync.report.node, sync.alerts.records) == ("n1", ())


def test_a_lost_answer_means_sending_again_and_releasing_nothing(world: World) -> None:
    world.raise_alerts(2)
    world.receiver.script = ["lost"]
    world.fails()
    assert world.outbox.status().records == 2
    world.restart().attempt()
    assert world.receiver.seqs == [1, 2, 1, 2]
    assert world.outbox.status().records == 0


@pytest.mark.parametrize(
    ("answer", "says", "act"),
    [
        ((503, '{"error": "busy"}'), "answered 503: busy", False),
        ((429, "slow down"), "answered 429", False),
        ((401, '{"error": "the token of node n1 was revoked"}'), "was revoked", True),
        ((404, "<html>"), "answered 404", True),
        ((302, ""), "which is not followed", True),
        ((200, "<html>captive portal</html>"), "is not a receiver's", True),
        ((200, '{"released": {"through": 99, "log_id": ""}}'), "did not take what was sent", False),
        ({"through": 1, "log_id": "another"}, "did not take what was sent", False),
        (endless, "more than 2097152 bytes came", False),
        (dripping, "slower than", False),
    ],
)
def test_a_receiver_that_does_not_store_releases_nothing(world: World, answer: object, says: str, act: bool) -> None:
    world.raise_alerts(2)
    world.receiver.script = [answer]
    error = world.fails()
    assert says in str(error)
    assert error.act is act
    assert world.outbox.status().records == 2
    world.reporter.attempt()
    assert world.outbox.status().records == 0


def test_a_receiver_that_asks_for_time_is_heard(world: World) -> None:
    world.receiver.script = [(503, "")]
    assert world.fails().retry_after_s == 7


def test_the_token_is_read_anew_each_time_and_its_absence_is_said(world: World) -> None:
    (world.folder / "token").write_text("other")
    world.reporter.attempt()
    assert world.receiver.tokens == ["Bearer other"]
    (world.folder / "token").unlink()
    error = world.fails()
    assert "token: No such file" in str(error)
    assert error.act


# ── orders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def order(id_: str, path: str = "/v1/update", method: str = "POST") -> dict[str, str]:
    return {"id": id_, "method": method, "path": path, "body": "{}"}


def test_an_order_is_carried_out_once_and_answered_until_the_answer_has_arrived(world: World) -> None:
    world.receiver.orders = [order("o1")]
    world.reporter.attempt()
    assert world.done.wait(60)
    world.receiver.script = [(503, "")]
    world.fails()
    world.reporter.attempt()  # the order comes again, because the receiver wrote its answer before it heard ours
    world.receiver.orders = []
    world.reporter.attempt()
    assert world.calls == ["/v1/update"]
    answers = [answer.id for sync in world.receiver.syncs for answer in sync.answers]
    assert answers == ["o1", "o1"]
    world.reporter.attempt()
    assert world.receiver.syncs[-1].answers == ()


def test_what_is_not_on_the_list_is_answered_and_not_done(world: World) -> None:
    refused = [("GET", "/metrics"), ("POST", "/v1/status"), ("DELETE", "/v1/update"), ("PUT", "/v1/spool/x")]
    arrived = threading.Semaphore(0)
    orders = Orders(world.call, arrived.release)
    orders.take(Order(id=str(i), method=method, path=path) for i, (method, path) in enumerate(refused))
    for _ in refused:
        assert arrived.acquire(timeout=60)
    assert [answer.status for answer in orders.answers()] == [404] * 4
    assert world.calls == []


def test_a_call_that_breaks_is_an_answer_too() -> None:
    done = threading.Event()

    def broken(method: str, path: str, body: str) -> tuple[int, str]:
        raise ConnectionRefusedError("no")

    orders = Orders(broken, done.set)
    orders.take([Order(id="o", method="GET", path="/v1/status")])
    assert done.wait(60)
    (answer,) = orders.answers()
    assert (answer.status, "ConnectionRefusedError: no" in answer.body) == (500, True)
