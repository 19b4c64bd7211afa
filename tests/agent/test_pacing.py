"""How long readings gather before the worker looks again."""

from __future__ import annotations

from edgectl_agent.core.pacing import left_s
from hypothesis import given
from hypothesis import strategies as st

SECONDS = st.floats(0, 1e6)


@given(SECONDS, SECONDS, st.floats(0, 10))
def test_no_reading_lies_longer_than_it_may(since_s: float, lain_s: float, max_latency_s: float) -> None:
    now_s = since_s + lain_s
    left = left_s(since_s, now_s, max_latency_s)
    assert left >= 0
    assert left == 0 or now_s - since_s + left <= max_latency_s + 1e-6


def test_what_has_waited_long_enough_waits_no_longer_and_a_clock_that_stands_still_holds_nothing_up() -> None:
    assert left_s(10.0, 10.015, 0.02) > 0.004
    assert left_s(10.0, 10.05, 0.02) == 0
    assert left_s(11.0, 10.0, 0.02) == 0.02
