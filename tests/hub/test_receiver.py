"""The receiver: a node writes its own records and nobody else's, repeating changes nothing, hostile bodies end in a
sentence."""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from edgectl_agent.core.messages import (
    Alert,
    AlertPage,
    Answer,
    OutboxRecord,
    OutboxStatus,
    Report,
    Sync,
    SyncResult,
    alert_id,
)
from httpx import ASGITransport, AsyncClient, Response
from hypothesis import given
from hypothesis import strategies as st

from edgectl.hub.app import build
from edgectl.hub.hub import Hub
from edgectl.hub.receive import advance
from edgectl.store import engine
from edgectl.store.alerts import Position
from edgectl.store.store import Store

NOW = 10**18


class Receiver:
    """The application over a real store, and one node's token."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.store, self.now_ns = store, NOW
        self.repository = folder / "repo"
        hub = Hub("acme", store, self.repository, clock_ns=lambda: self.now_ns)
        self._app = build(hub)
        self.token = store.credentials.issue("pi-1", NOW - 10)

    def sync(self, said: Sync | bytes, node: str = "pi-1", token: str | None = None, **headers: str) -> Response:
        body = said if isinstance(said, bytes) else msgspec.json.encode(said)
        bearer = {"Authorization": f"Bearer {self.token if token is None else token}"}
        return self.call("POST", f"/v1/nodes/{node}/sync", body, {**bearer, **headers})

    def get(self, path: str, **headers: str) -> Response:
        return self.call("GET", path, b"", {name.replace("_", "-"): value for name, value in headers.items()})

    def call(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Response:
        async def one() -> Response:
            async with AsyncClient(transport=ASGITransport(self._app), base_url="http://hub") as client:
                return await client.request(method, path, content=body, headers=headers)

        return asyncio.run(one())

    def ok(self, said: Sync) -> SyncResult:
        answer = self.sync(said)
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=SyncResult)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Store("sqlite:///s.db", tmp_path) as store:
        yield Receiver(tmp_path, store)


def report(node: str = "pi-1", uptime_s: float = 1.0) -> Report:
    outbox = OutboxStatus(records=0, bytes=0, limit_bytes=1, head_seq=9, log_id="log")
    return Report(node=node, agent="0", boot="b", clock_ns=NOW, uptime_s=uptime_s, state="healthy", outbox=outbox)


def alert(onset: int, node: str = "pi-1") -> Alert:
    return Alert(
        id=alert_id(node, "s", "press", "b", onset), node=node, stream="s", recipe="press", version="1", bundle="b",
        variant="fp32", severity="warning", state="open", onset_ns=onset, changed_ns=onset, score=1.0, threshold=0.5,
        surprise=3.0,
    )  # fmt: skip


def page(*seqs: int, log_id: str = "log", node: str = "pi-1") -> AlertPage:
    records = tuple(OutboxRecord(boot="b", seq=seq, alert=alert(seq, node)) for seq in seqs)
    return AlertPage(node=node, records=records, next_after=max(seqs, default=0), log_id=log_id)


def said(*seqs: int, **more: object) -> Sync:
    return msgspec.structs.replace(Sync(report=report(), alerts=page(*seqs)), **more)


# ── what is stored ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sync_is_in_the_store_before_it_is_answered(receiver: Receiver) -> None:
    answer = receiver.ok(said(1, 2, 3))
    assert (answer.released.through, answer.released.log_id, answer.orders) == (3, "log", ())
    assert len(receiver.store.alerts.find(node="pi-1")) == 3
    assert receiver.store.nodes.all()["pi-1"].received_ns == NOW


def test_repeating_a_sync_changes_nothing_and_the_report_is_as_old_as_it_was(receiver: Receiver) -> None:
    first = receiver.ok(said(1, 2))
    receiver.now_ns += 5
    assert receiver.ok(said(1, 2)) == first
    assert len(receiver.store.alerts.find()) == 2
    assert receiver.store.nodes.all()["pi-1"].received_ns == NOW


def test_a_sync_that_was_overtaken_takes_nothing_back(receiver: Receiver) -> None:
    receiver.ok(said(3, 4, report=report(uptime_s=2.0)))
    late = receiver.ok(said(1, 2, report=report(uptime_s=1.0)))
    assert late.released.through == 4
    record = receiver.store.nodes.all()["pi-1"]
    assert record.report is not None
    assert record.report.uptime_s == 2.0


def test_an_outbox_that_was_begun_anew_is_counted_from_its_beginning(receiver: Receiver) -> None:
    receiver.ok(said(8, 9))
    answer = receiver.ok(said(alerts=page(1, log_id="other")))
    assert (answer.released.through, answer.released.log_id) == (1, "other")


@given(st.lists(st.sampled_from([(1, 2), (2, 3), (3,), (4, 5), ()]), max_size=8))
def test_what_may_be_released_never_falls_and_never_passes_what_was_sent(pages: list[tuple[int, ...]]) -> None:
    position, sent = Position(node="pi-1", log_id="log"), 0
    for seqs in pages:
        after = advance(position, page(*seqs))
        sent = max(sent, *seqs, 0)
        assert position.after <= after.after == sent
        position = after


def test_orders_go_out_until_they_are_answered(receiver: Receiver) -> None:
    order = receiver.store.orders.put("pi-1", "POST", "/v1/update", "{}", NOW, NOW + 10**9)
    receiver.store.orders.put("pi-2", "POST", "/v1/update", "{}", NOW, NOW + 10**9)
    for _ in range(2):
        (given_,) = receiver.ok(said()).orders
        assert (given_.id, given_.method, given_.path, given_.body) == (order.id, "POST", "/v1/update", "{}")
    assert receiver.ok(said(answers=(Answer(id=order.id, status=200, body="{}"),))).orders == ()
    done = receiver.store.orders.get(order.id)
    assert done is not None
    assert (done.status, done.answer) == (200, "{}")


# ── who may ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_wrong_token_gets_its_own_sentence(receiver: Receiver) -> None:
    store = receiver.store
    other = store.credentials.issue("pi-2", NOW)
    ended = store.credentials.issue("pi-1", NOW - 10, expires_ns=NOW)
    cases = [
        ("wrong", 401, "this is no token of node pi-1 → edgectl nodes token pi-1"),
        (ended, 401, "the token of node pi-1 has expired"),
        (other, 403, "this is another node's token, not one of pi-1"),
    ]
    for token, status, sentence in cases:
        answer = receiver.sync(said(1), token=token)
        assert (answer.status_code, sentence in answer.json()["error"]) == (status, True), answer.text
    store.credentials.revoke("pi-1", NOW)
    assert "was revoked" in receiver.sync(said(1)).json()["error"]
    assert receiver.sync(said(1), Authorization="Basic x").headers["www-authenticate"] == "Bearer"
    assert store.alerts.find() == ()
    assert store.nodes.all() == {}


@pytest.mark.parametrize("part", ["report", "page", "alert"])
def test_a_node_writes_its_own_records_alone(receiver: Receiver, part: str) -> None:
    forged = {
        "report": said(1, report=report("pi-2")),
        "page": said(alerts=page(1, node="pi-2")),
        "alert": said(alerts=msgspec.structs.replace(page(1, node="pi-2"), node="pi-1")),
    }[part]
    answer = receiver.sync(forged)
    assert answer.status_code == 403
    assert "node pi-1 sent records of 'pi-2'" in answer.json()["error"]
    assert receiver.store.alerts.find() == ()
    assert receiver.store.nodes.all() == {}


# ── hostile and unlucky bodies ──────────────────────────────────────────────────────────────────────────────────────


def test_a_body_may_be_compressed_and_a_bomb_is_not_inflated(receiver: Receiver) -> None:
    raw = gzip.compress(msgspec.json.encode(said(1)))
    assert receiver.sync(raw, **{"Content-Encoding": "gzip"}).status_code == 200
    bomb = gzip.compress(b"[" * 200_000_000)
    assert len(bomb) < 250_000
    answer = receiver.sync(bomb, **{"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["reason"]) == (413, "oversized")


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"", "identity", 400),
        (b"{}", "identity", 400),
        (b"[" * 1_000_000, "identity", 400),
        (b"\xff" * 100, "gzip", 400),
        (gzip.compress(b"{}" * 500)[:20], "gzip", 400),
        (b"{}", "br", 415),
    ],
    ids=["empty", "no-report", "too-deep", "no-gzip", "cut-gzip", "brotli"],
)
def test_what_is_no_sync_is_refused_in_one_sentence(
    receiver: Receiver, body: bytes, encoding: str, status: int
) -> None:
    answer = receiver.sync(body, **{"Content-Encoding": encoding})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def test_a_store_that_is_busy_answers_later(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_S", 0.2)
    receiver.store.close()
    receiver.store.open()
    holder = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    answer = receiver.sync(said(1))
    holder.close()
    assert answer.status_code == 503
    assert 5 <= int(answer.headers["retry-after"]) <= 15
    assert receiver.ok(said(1)).released.through == 1


# ── the repository ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_repository_is_served_with_ranges_and_etags(receiver: Receiver) -> None:
    (receiver.repository / "metadata").mkdir(parents=True)
    (receiver.repository / "metadata" / "timestamp.json").write_bytes(b"0123456789")
    (receiver.repository / "metadata" / ".timestamp.json.7.tmp").write_bytes(b"half")
    (receiver.repository / ".lock").write_bytes(b"mona")
    get = receiver.get
    whole = get("/repo/metadata/timestamp.json")
    assert (whole.content, whole.headers["cache-control"]) == (b"0123456789", "no-cache")
    etag = whole.headers["etag"]
    assert get("/repo/metadata/timestamp.json", If_None_Match=etag).status_code == 304
    rest = get("/repo/metadata/timestamp.json", Range="bytes=4-", If_Range=etag)
    assert (rest.status_code, rest.content) == (206, b"456789")
    assert get("/repo/metadata/timestamp.json", Range="bytes=4-", If_Range='"x"').status_code == 200
    assert get("/repo/metadata/timestamp.json", Range="bytes=0-1,2-3").status_code == 400
    for hidden in (".lock", "metadata/.timestamp.json.7.tmp", "metadata/2.root.json", "../s.db", "metadata"):
        assert get(f"/repo/{hidden}").status_code == 404


def test_it_says_that_it_lives_and_what_it_does_not_know(receiver: Receiver) -> None:
    assert receiver.get("/v1/live").json()["fleet"] == "acme"
    answer = receiver.get("/v1/nothing")
    assert (answer.status_code, answer.json()["reason"]) == (404, "no-such-call")
