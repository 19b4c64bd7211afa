from __future__ import annotations

import math

import pytest
from edgectl_agent.core.units import DAY_NS
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.evaluation import NOTHING, WATCHED, Outcome, Period, judge, judge_labels

FAULTS = (Period(10, 20, "web-1", "burst"), Period(50, 60, "web-1", "silence"), Period(10, 20, "web-2", "burst"))


def test_a_fault_counts_once_and_every_alert_outside_is_false() -> None:
    found = judge(FAULTS, [("web-1", 12), ("web-1", 15), ("web-1", 30), ("web-2", 60)], stream_days=2.0)
    assert (found.found, found.faults, found.false) == (1, 3, 2)
    assert found.precision == pytest.approx(1 / 3)
    assert found.recall == pytest.approx(1 / 3)
    assert found.false_per_stream_day == 1.0
    assert found.delay_ns == 2


def test_an_alert_belongs_to_a_fault_of_its_own_stream_only_and_within_the_slack() -> None:
    assert judge(FAULTS, [("web-2", 55)], 1.0).false == 1
    assert judge(FAULTS, [("web-1", 65)], 1.0, slack_ns=5).found == 1
    assert judge(FAULTS, [("web-1", 66)], 1.0, slack_ns=5).false == 1


def test_an_alert_that_was_open_before_a_fault_does_not_find_it() -> None:
    assert judge(FAULTS, [("web-1", 9)], 1.0).found == 0


def test_each_kind_has_its_own_recall() -> None:
    found = judge(FAULTS, [("web-1", 12), ("web-1", 55)], 1.0)
    assert found.kinds == ("burst", "silence")
    assert (found.of("burst").recall, found.of("silence").recall) == (0.5, 1.0)


def test_labels_say_when_a_stream_was_watched() -> None:
    labels = (*FAULTS, Period(0, DAY_NS, "web-1", WATCHED), Period(0, DAY_NS // 2, "web-2", WATCHED))
    found = judge_labels(labels, [("web-1", -5), ("web-2", DAY_NS), ("web-3", 12), ("web-2", 30)])
    assert (found.stream_days, found.false, found.faults) == (1.5, 1, 3)


def test_time_in_overlapping_watched_periods_counts_once_for_each_stream() -> None:
    overlapping = [Period(0, DAY_NS, "a", WATCHED), Period(DAY_NS // 2, DAY_NS, "a", WATCHED)]
    further = [Period(DAY_NS, 2 * DAY_NS, "a", WATCHED), Period(0, DAY_NS, "b", WATCHED)]
    assert judge_labels([*further, *overlapping], [("a", 5)]).stream_days == 3.0


def test_an_empty_or_reversed_watched_period_watches_for_no_time() -> None:
    found = judge_labels([Period(7, 7, "a", WATCHED), Period(9, 3, "a", WATCHED)], [("a", 7)])
    assert (found.stream_days, found.false) == (0.0, 1)
    assert math.isnan(found.false_per_stream_day)


def test_nothing_has_no_shares() -> None:
    assert math.isnan(NOTHING.precision)
    assert math.isnan(NOTHING.recall)
    assert math.isnan(NOTHING.false_per_stream_day)
    assert math.isnan(NOTHING.delay_ns)


onsets = st.lists(st.tuples(st.sampled_from(["web-1", "web-2", "web-3"]), st.integers(0, 80)), max_size=12)


@given(onsets, onsets)
def test_more_alerts_never_find_less_nor_take_a_false_one_back(
    some: list[tuple[str, int]], more: list[tuple[str, int]]
) -> None:
    few, all_of = judge(FAULTS, some, 1.0), judge(FAULTS, some + more, 1.0)
    assert all_of.found >= few.found
    assert all_of.false >= few.false
    assert all_of.found + len(all_of.missed) == len(FAULTS)


@given(onsets)
def test_outcomes_of_single_streams_add_up_to_that_of_all(some: list[tuple[str, int]]) -> None:
    total = Outcome((), (), 0, 0.0)
    for stream in ("web-1", "web-2", "web-3"):
        mine = [f for f in FAULTS if f.stream == stream]
        total += judge(mine, [o for o in some if o[0] == stream], 1.0)
    whole = judge(FAULTS, some, 3.0)
    assert (total.found, total.false, total.stream_days) == (whole.found, whole.false, 3.0)
    assert sorted(total.delays_ns) == sorted(whole.delays_ns)
