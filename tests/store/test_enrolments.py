"""Machines that become nodes by an invite, all over real databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.enrolment import name_for
from edgectl.core.errors import NothingMatched
from edgectl.store.credentials import token_sha256
from edgectl.store.enrolments import Enrolment
from edgectl.store.store import Store

SETTINGS = {"labels": {"line": "press"}, "profiles": ["pi"]}


def enrol(store: Store, token: str, machine: str, credential: str = "", now_ns: int = 5, host: str = "") -> Enrolment:
    return store.enrolments.enrol(
        token, machine, token_sha256(credential or machine), facts={"hostname": host}, taken={"lyon-01"}, now_ns=now_ns
    )


def test_a_machine_becomes_a_node_with_the_settings_of_its_invite(store: Store) -> None:
    token = store.invites.create("lyon", 2, 1, 100, SETTINGS)
    made = enrol(store, token, "m1")
    assert made.entry == {"name": "lyon-02", "site": "lyon", "connect": {"via": "pull"}, **SETTINGS}
    assert store.enrolments.all() == (made,)
    assert store.invites.all()[0].used == 1
    found = store.credentials.match("lyon-02", "m1")
    assert found is not None
    assert found.refusal(6) == ""


def test_the_same_machine_gets_its_name_back_and_takes_no_second_place(store: Store) -> None:
    token = store.invites.create("lyon", 1, 1, 100)
    first = enrol(store, token, "m1", credential="old")
    assert enrol(store, token, "m1", credential="old") == first
    assert enrol(store, token, "m1", credential="new") == first
    assert store.invites.all()[0].used == 1
    refusals = {c: store.credentials.match(first.node, c) for c in ("old", "new")}
    assert {c: found.refusal(9) if found else None for c, found in refusals.items()} == {"old": "revoked", "new": ""}


def test_of_two_machines_that_race_for_the_last_place_exactly_one_gets_it(store: Store) -> None:
    token = store.invites.create("lyon", 3, 1, 100)

    def come(machine: str) -> str:
        try:
            return enrol(store, token, machine).node
        except NothingMatched as e:
            return e.reason

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(come, [f"m{i}" for i in range(8)]))
    assert sorted(names) == ["lyon-02", "lyon-03", "lyon-04", *["used-up"] * 5]
    assert len(store.enrolments.all()) == 3


@pytest.mark.parametrize(("reason", "now_ns"), [("unknown", 5), ("expired", 100), ("used-up", 5)])
def test_a_token_that_is_worth_nothing_changes_nothing(store: Store, reason: str, now_ns: int) -> None:
    token = store.invites.create("lyon", 0, 1, 100)
    with pytest.raises(NothingMatched) as caught:
        enrol(store, "made up" if reason == "unknown" else token, "m1", now_ns=now_ns)
    assert caught.value.reason == reason
    assert store.enrolments.all() == ()
    assert store.credentials.of("lyon-02") == ()


def test_a_revoked_invite_lets_nobody_in_and_leaves_who_is_in(store: Store) -> None:
    token = store.invites.create("lyon", 2, 1, 100)
    enrol(store, token, "m1")
    assert store.invites.revoke(token_sha256(token))
    for machine in ("m1", "m2"):
        with pytest.raises(NothingMatched, match="no such invite"):
            enrol(store, token, machine)
    assert [e.node for e in store.enrolments.all()] == ["lyon-02"]


def test_a_machine_of_another_site_must_leave_there_first(store: Store) -> None:
    node = enrol(store, store.invites.create("lyon", 1, 1, 100), "m1").node
    there = store.invites.create("pune", 1, 1, 100)
    with pytest.raises(NothingMatched, match=r"is node lyon-02 of site lyon already.*edgectl nodes remove lyon-02"):
        enrol(store, there, "m1")
    assert store.enrolments.forget(node)
    assert not store.enrolments.forget(node)
    assert enrol(store, there, "m1").node == "pune-01"


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("press-17.plant.example", "press-17"), ("Press_17", "press_17"), ("lyon-01", "lyon-03"), ("", "lyon-03"),
        ("raspberrypi", "lyon-03"), ("localhost.localdomain", "lyon-03"), ("ubuntu-2", "lyon-03"),
        ("3f2a9c0d1e4b", "lyon-03"), ("käse", "k-se"), ("---", "lyon-03"),
    ],
)  # fmt: skip
def test_a_machine_keeps_its_host_name_if_that_says_anything_and_is_free(hostname: str, name: str) -> None:
    assert name_for(hostname, "lyon", {"lyon-01", "lyon-02"}) == name


@given(st.text(max_size=80), st.sets(st.sampled_from(["lyon-01", "lyon-02", "a", "press"])))
def test_a_name_is_always_valid_and_new(hostname: str, taken: set[str]) -> None:
    import re

    name = name_for(hostname, "lyon", taken)
    assert name not in taken
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name)
