"""The update table, and the rules over values that a node applies to what is signed."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from edgectl_agent.core import updates
from edgectl_agent.core.desired import Floor, Refreshed, accept_epoch, raise_floor
from edgectl_agent.core.errors import AttackError, ExpiredError
from edgectl_agent.core.messages import Assignment, Epoch
from edgectl_agent.core.updates import TRANSITIONS, Event, IllegalEvent, State
from hypothesis import given
from hypothesis import strategies as st

STATES: tuple[State, ...] = get_args(State)
EVENTS: tuple[Event, ...] = get_args(Event)
ROLES = ("root", "timestamp", "snapshot", "targets", "models", "rollout")
FAR = 10**19


def test_every_state_is_in_the_table_and_every_event_is_used() -> None:
    assert set(TRANSITIONS) == set(STATES)
    assert {event for row in TRANSITIONS.values() for event in row} == set(EVENTS)
    assert {state for row in TRANSITIONS.values() for state in row.values()} == set(STATES)


@pytest.mark.parametrize(("state", "event"), [*itertools.product(STATES, EVENTS)])
def test_an_illegal_event_raises_and_a_legal_one_leads_where_the_table_says(state: State, event: Event) -> None:
    if event in TRANSITIONS[state]:
        assert updates.after(state, event) == TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalEvent, match=event):
            updates.after(state, event)


def test_every_state_can_get_back_to_idle() -> None:
    reaches = {"idle"}
    for _ in STATES:
        reaches |= {state for state, row in TRANSITIONS.items() if reaches & set(row.values())}
    assert reaches == set(STATES)


def test_nothing_is_committed_that_was_not_prepared() -> None:
    assert [state for state, row in TRANSITIONS.items() if "committing" in row.values()] == ["prepared"]


# ── floors ──────────────────────────────────────────────────────────────────────────────────────────────────────────

versions = st.fixed_dictionaries({role: st.integers(1, 9) for role in ROLES})


def refreshed(versions: dict[str, int], signed_ns: int = 0, keys: str = "k") -> Refreshed:
    return Refreshed(versions, dict.fromkeys(versions, FAR), signed_ns, {"timestamp": (keys,), "snapshot": (keys,)})


@given(st.lists(st.tuples(versions, st.integers(0, 100)), max_size=8))
def test_the_floor_never_falls_while_the_keys_stay(found: list[tuple[dict[str, int], int]]) -> None:
    floor = Floor()
    for roles, signed in found:
        try:
            after = raise_floor(floor, refreshed(roles, signed), 0)
        except AttackError:
            assert any(version < floor.roles[role] for role, version in roles.items())
            continue
        assert all(after.roles[role] >= version for role, version in floor.roles.items())
        assert after.newest_signed_ns >= floor.newest_signed_ns
        floor = after


def test_only_a_newer_root_with_new_keys_lowers_a_floor() -> None:
    high = raise_floor(Floor(), refreshed(dict.fromkeys(ROLES, 5) | {"timestamp": 10**9}, 99), 0)
    low = dict.fromkeys(ROLES, 6)
    with pytest.raises(AttackError, match="timestamp"):
        raise_floor(high, refreshed(low, keys="k"), 0)
    with pytest.raises(AttackError, match="timestamp"):
        raise_floor(high, refreshed(low | {"root": 5}, keys="new"), 0)
    recovered = raise_floor(high, refreshed(low, 7, keys="new"), 0)
    assert (recovered.roles["timestamp"], recovered.newest_signed_ns) == (6, 7)
    with pytest.raises(AttackError, match="rollout"):
        raise_floor(high, refreshed(low | {"rollout": 4}, keys="new"), 0)


@given(now=st.integers(0, 1000), signed=st.integers(0, 1000), seen=st.integers(0, 1000), end=st.integers(1, 1000))
def test_metadata_ends_by_the_later_of_the_clock_and_the_newest_signature(
    now: int, signed: int, seen: int, end: int
) -> None:
    found = refreshed(dict.fromkeys(ROLES, 1), signed)
    found.expires_ns["rollout"] = end
    floor = Floor(newest_signed_ns=seen)
    if end <= max(now, signed, seen):
        with pytest.raises(ExpiredError, match="rollout"):
            raise_floor(floor, found, now)
    else:
        assert raise_floor(floor, found, now).expires_ns == end


def assignment(number: int, operator: str) -> Assignment:
    return Assignment(fleet="acme", epoch=Epoch(number=number, operator=operator), models={})


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("ab"), st.sampled_from("xyz")), max_size=12))
def test_accepted_epochs_never_fall_and_one_operator_owns_each_number(orders: list[tuple[int, str, str]]) -> None:
    floor, owner = Floor(), dict[int, str]()
    for number, operator, content in orders:
        try:
            after = accept_epoch(floor, assignment(number, operator), content)
        except AttackError:
            continue
        assert after.epoch is not None
        assert floor.epoch is None or after.epoch.number >= floor.epoch.number
        if floor.epoch != after.epoch or floor.assignment_sha256 != after.assignment_sha256:
            assert owner.setdefault(number, operator) == operator
        floor = after
