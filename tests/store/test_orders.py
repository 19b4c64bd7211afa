"""What the store keeps for nodes that nobody can reach: orders, credentials, invites."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from edgectl_agent.core.messages import Answer, OutboxStatus, Report

from edgectl.core.errors import NothingMatched
from edgectl.store.credentials import Credential, token_sha256
from edgectl.store.store import Store
from tests.support.raw_store import raw


def put(store: Store, node: str = "a", path: str = "/v1/update", now_ns: int = 1, expires_ns: int = 100) -> str:
    return store.orders.put(node, "POST", path, "{}", now_ns, expires_ns).id


# ── orders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_order_is_handed_out_until_it_is_answered(store: Store) -> None:
    order = put(store)
    for now_ns in (5, 6):  # the answer to the first sync may have been lost on its way
        (found,) = store.orders.sync("a", [], now_ns)
        assert (found.id, found.taken_ns) == (order, 5)
    assert store.orders.sync("a", [Answer(id=order, status=200, body='{"state": "unchanged"}')], 7) == ()
    found = store.orders.get(order)
    assert found is not None
    assert (found.answered_ns, found.status, found.answer) == (7, 200, '{"state": "unchanged"}')


def test_the_first_answer_stays_and_strangers_answer_nothing(store: Store) -> None:
    order = put(store)
    store.orders.sync("b", [Answer(id=order, status=500), Answer(id="nobody's", status=500)], 2)
    assert store.orders.waiting("a", 2)[0].id == order
    store.orders.sync("a", [Answer(id=order, status=200)], 3)
    store.orders.sync("a", [Answer(id=order, status=409)], 4)
    found = store.orders.get(order)
    assert found is not None
    assert (found.status, found.answered_ns) == (200, 3)


def test_the_same_call_again_is_the_order_that_waits(store: Store) -> None:
    first = put(store, expires_ns=50)
    assert put(store, now_ns=2, expires_ns=80) == first
    (waiting,) = store.orders.waiting("a", 60)
    assert waiting.expires_ns == 80
    assert put(store, node="b") != first
    store.orders.sync("a", [Answer(id=first, status=200)], 3)
    assert put(store, now_ns=4) != first, "an order that was answered is over"


def test_orders_go_in_the_order_in_which_they_were_given_and_end(store: Store) -> None:
    ids = [put(store, path=f"/v1/{i}", now_ns=i + 1, expires_ns=20 * (i + 1)) for i in range(3)]
    assert [o.id for o in store.orders.sync("a", [], 10, limit=2)] == ids[:2]
    assert [o.id for o in store.orders.sync("a", [], 20)] == ids[1:], "an order at its end is not handed out"
    assert store.orders.withdraw(ids[0]) is False, "it may be under way"
    late = put(store, path="/v1/late", now_ns=21)
    assert store.orders.withdraw(late) is True
    assert store.orders.prune(41) == 2
    assert [o.id for o in store.orders.waiting("a", 30)] == ids[2:]


# ── credentials ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_is_kept_as_its_digest_only(store: Store, url: str, tmp_path: Path) -> None:
    token = store.credentials.issue("a", 5)
    assert token not in str(raw(url, tmp_path, "SELECT * FROM credentials"))
    assert store.credentials.of("a") == (Credential(sha256=token_sha256(token), node="a", issued_ns=5),)


def test_a_token_is_its_nodes_own_or_says_whose_it_is(store: Store) -> None:
    token = store.credentials.issue("a", 1)
    assert [c.node for c in (store.credentials.match(n, token) for n in ("a", "b")) if c] == ["a", "a"]
    assert store.credentials.match("a", token + "x") is None


def test_a_token_ends_by_time_or_by_being_revoked(store: Store) -> None:
    old = store.credentials.issue("a", 1, expires_ns=10)
    new = store.credentials.issue("a", 2)
    held = store.credentials.match("a", old)
    assert held is not None
    assert [held.refusal(now) for now in (9, 10)] == ["", "expired"]
    assert store.credentials.revoke("a", 20, keep=token_sha256(new)) == 1
    assert [c.refusal(21) for c in store.credentials.of("a")] == ["", "revoked"]
    assert store.credentials.revoke("a", 22) == 1


def test_a_node_that_is_forgotten_has_neither_tokens_nor_orders(store: Store) -> None:
    token = store.credentials.issue("a", 1)
    order = put(store)
    outbox = OutboxStatus(records=0, bytes=0, limit_bytes=1, head_seq=0)
    store.nodes.save(Report(node="a", agent="0", boot="b", clock_ns=1, uptime_s=1, state="healthy", outbox=outbox), 1)
    store.nodes.forget("a")
    assert (store.credentials.match("a", token), store.orders.get(order)) == (None, None)


# ── invites ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_invite_serves_as_many_nodes_as_it_is_for_also_when_all_come_at_once(store: Store) -> None:
    token = store.invites.create("pune", 3, 1, 100, {"labels": {"line": "press"}})

    def enrol(_: int) -> str:
        try:
            return store.invites.use(token, 5).site
        except NothingMatched as e:
            return e.reason

    with ThreadPoolExecutor(5) as pool:
        assert sorted(pool.map(enrol, range(5))) == ["pune", "pune", "pune", "used-up", "used-up"]
    (invite,) = store.invites.all()
    assert (invite.used, invite.settings) == (3, {"labels": {"line": "press"}})


def test_an_invite_ends_and_can_be_revoked(store: Store) -> None:
    token = store.invites.create("pune", 1, 1, 100)
    with pytest.raises(NothingMatched, match="the invite has expired → edgectl nodes invite"):
        store.invites.use(token, 100)
    assert store.invites.revoke(token_sha256(token)) is True
    with pytest.raises(NothingMatched, match="no such invite"):
        store.invites.use(token, 5)
