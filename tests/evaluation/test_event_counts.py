from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.evaluation import events, intervals
from edgectl.evaluation.baselines import BASELINES, baseline, records, running_z2, z2
from edgectl.evaluation.series import Alarm
from tests.evaluation.labelled import MINUTE_NS, series

DAY = series([0.0] * 1441, windows=[(600, 629)])


def test_an_alert_in_a_window_finds_it_and_its_delay_counts_from_the_first_reading() -> None:
    found = events.outcome([Alarm(610 * MINUTE_NS, 612 * MINUTE_NS)], DAY)
    assert (found.found, found.false, found.delay_ns) == (1, 0, 10 * MINUTE_NS)


def test_an_alarm_that_stays_on_is_charged_every_hour() -> None:
    found = events.outcome([Alarm(0)], DAY)
    assert found.false + found.found == 24
    assert found.false_per_stream_day == pytest.approx(23)  # one of the tellings, that of 10:00, lies in the window
    assert found.delay_ns == 0


def test_an_alert_of_under_an_hour_is_charged_once() -> None:
    assert events.outcome([Alarm(60 * MINUTE_NS, 119 * MINUTE_NS)], DAY).false == 1
    assert events.outcome([Alarm(60 * MINUTE_NS, 121 * MINUTE_NS)], DAY).false == 2


def test_an_alert_that_began_before_a_window_does_not_find_it() -> None:
    assert events.outcome([Alarm(590 * MINUTE_NS, 640 * MINUTE_NS)], DAY).found == 0


def test_alerts_before_the_scored_part_are_not_counted_but_those_that_last_into_it_are() -> None:
    late = series([0.0] * 1441, begin=600)
    assert events.outcome([Alarm(10 * MINUTE_NS, 20 * MINUTE_NS)], late).false == 0
    assert events.outcome([Alarm(570 * MINUTE_NS, 700 * MINUTE_NS)], late).false == 2
    assert events.outcome([], late).stream_days == pytest.approx(840 / 1440)


def test_normal_time_is_what_lies_outside_of_windows() -> None:
    assert events.normal_days(DAY) == pytest.approx((1440 - 29) / 1440)


def test_stretches_above_a_threshold_are_one_alarm_each() -> None:
    score = np.array([9.0, 0, 2, 3, 0, np.nan, 2])
    one = series([0.0] * 7, begin=1)
    found = events.alarms_of(score, 2.0, one, clear_after_ns=0)
    assert found == (Alarm(2 * MINUTE_NS, 4 * MINUTE_NS), Alarm(6 * MINUTE_NS, None))
    assert events.detections(found, one).tolist() == [0, 0, 1, 0, 0, 0, 1]


def test_a_score_that_flaps_is_one_alarm() -> None:
    flapping = np.tile([1.0, 0.0], 60)
    (found,) = events.alarms_of(flapping, 1.0, series([0.0] * 120))
    assert found == Alarm(0, 119 * MINUTE_NS)


def test_an_alarm_that_was_on_before_a_window_covers_it_and_does_not_find_it() -> None:
    alarms = [Alarm(590 * MINUTE_NS, 640 * MINUTE_NS)]
    assert (events.covered(alarms, DAY), events.outcome(alarms, DAY).found) == (1, 0)
    assert events.covered([Alarm(590 * MINUTE_NS, 600 * MINUTE_NS)], DAY) == 0
    assert events.covered([Alarm(0)], DAY) == 1


@given(st.lists(st.tuples(st.integers(0, 1440), st.integers(0, 300)), max_size=6), st.integers(0, 1440))
def test_one_more_alert_never_lowers_the_count_of_false_ones(spans: list[tuple[int, int]], at: int) -> None:
    alarms = [Alarm(a * MINUTE_NS, (a + n) * MINUTE_NS) for a, n in spans]
    before = events.outcome(alarms, DAY)
    after = events.outcome([*alarms, Alarm(at * MINUTE_NS, at * MINUTE_NS)], DAY)
    assert after.false + after.found >= before.false + before.found
    assert after.false >= before.false


def test_poisson_intervals_are_those_of_the_tables() -> None:
    assert intervals.poisson(0) == (0.0, pytest.approx(3.689, abs=0.001))
    assert intervals.poisson(10) == (pytest.approx(4.795, abs=0.001), pytest.approx(18.390, abs=0.001))


def test_a_bootstrap_draws_files_and_is_the_same_for_the_same_seed() -> None:
    above, below = np.array([1.0, 2.0, 3.0, 10.0]), np.ones(4)
    low, high = intervals.bootstrap(above, below, seed=1)
    assert 1.0 <= low < 4.0 < high <= 10.0
    assert (low, high) == intervals.bootstrap(above, below, seed=1)
    assert intervals.bootstrap(5 * np.ones(3), np.ones(3)) == (5.0, 5.0)
    assert intervals.bootstrap(np.array([3.0, 0.0]), np.array([1.0, 0.0])) == (3.0, 3.0)
    assert all(map(math.isnan, intervals.bootstrap(np.ones(2), np.zeros(2))))


def test_records_are_measured_in_units_of_the_past_range() -> None:
    values = np.array([[1.0], [3.0], [2.0], [4.0], [np.nan], [-1.0]])
    assert records(values).tolist() == [0, 1, 0, 0.5, 0, pytest.approx(2 / 3)]


def test_mean_square_uses_the_history_or_the_running_past() -> None:
    history = np.array([[0.0], [2.0]])
    assert z2(np.array([[3.0], [np.nan]]), history)[0] == pytest.approx(4.0)
    found = running_z2(np.array([[0.0], [2.0], [3.0]]))
    assert np.isnan(found[:2]).all()
    assert found[2] == pytest.approx(4.0)


def test_random_alarms_keep_the_budget_on_average() -> None:
    long = series([0.0] * 14_401)
    told = baseline("random", long, per_day=5.0)
    assert 20 < len(told.alarms) < 90  # 50 are due in ten days


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_takes_short_and_empty_series(name: str) -> None:
    for n in (0, 1, 2, 60):
        one = series(list(np.sin(np.arange(n))), begin=n // 2)
        made = baseline(name, one, 1.0)
        assert len(made.score) == n
        events.outcome(made.alarms, one)
