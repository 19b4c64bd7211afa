"""The demo's headline is computed from what really happened, misses and false alerts included."""

from __future__ import annotations

import math

from edgectl.demo.feed import Order, planned
from edgectl.demo.latency import Collected, Fault, nearest_rank, summarise

MS = 1_000_000


def fault(stream: str, at: int, until: int | None = None) -> Fault:
    return Fault(node="n", stream=stream, kind="spike", event_ns=at, until_ns=at if until is None else until)


def row(name: str, stream: str, onset: int, latency_ms: int) -> Collected:
    return Collected(
        id=name, node="n", stream=stream, recipe="plant", onset_ns=onset, accepted_ns=0,
        committed_ns=latency_ms * MS,
    )  # fmt: skip


def test_a_fault_counts_as_found_only_by_an_onset_of_its_stream_in_its_time() -> None:
    rows = [row("a", "s1", 10, 5), row("b", "s2", 99, 7), row("c", "s1", 11, 9), row("d", "s3", 30, 8)]
    summary = summarise([fault("s1", 10), fault("s2", 20), fault("s3", 28, 31)], rows)
    assert (summary.injected, summary.found, summary.other_alerts) == (3, 2, 2)
    assert (summary.p50_ms, summary.p99_ms, summary.worst_ms) == (5, 8, 8)


def test_the_first_record_of_an_alert_is_the_one_that_is_timed() -> None:
    rows = [row("a", "s1", 10, 5), row("a", "s1", 10, 900)]
    assert summarise([fault("s1", 10)], rows).worst_ms == 5


def test_nothing_found_is_not_a_latency_of_zero() -> None:
    summary = summarise([fault("s1", 10)], [])
    assert summary.found == 0
    assert math.isnan(summary.p99_ms)


def test_the_nearest_rank_of_a_hundred_values_is_the_value_of_that_rank() -> None:
    values = [float(i) for i in range(1, 101)]
    assert [nearest_rank(values, q) for q in (0.01, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]


def test_an_order_breaks_the_machines_in_turn_and_apart() -> None:
    faults = planned(Order(kind="spike", machines=("a", "b"), rounds=2, apart=5), first=100)
    assert [(f.machine, f.first) for f in faults] == [("a", 100), ("b", 105), ("a", 110), ("b", 115)]
