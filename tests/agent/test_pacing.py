"""How long readings gather before the worker looks again."""

from __future__ import annotations

from edgectl_agent.core.pacing import MANY, gather_s
from hypothesis import given
from hypothesis import strategies as st

SECONDS = st.floats(0, 10)


@given(st.integers(1, MANY - 1), SECONDS, SECONDS)
def test_no_reading_lies_longer_than_it_may_counted_from_the_begin_of_the_turn_that_missed_it(
    brought: int, turned_s: float, max_latency_s: float
) -> None:
    assert 0 <= gather_s(brought, turned_s, max_latency_s) <= max(0.0, max_latency_s - turned_s)


def test_few_readings_gather_until_the_latency_is_used_up() -> None:
    assert gather_s(2, 0.005, 0.02) == 0.015
    assert gather_s(2, 0.05, 0.02) == 0


def test_after_many_readings_the_next_turn_follows_at_once() -> None:
    assert gather_s(MANY, 0.0, 0.02) == 0
