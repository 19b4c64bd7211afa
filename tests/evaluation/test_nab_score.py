from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.evaluation import nab
from edgectl.evaluation.baselines import baseline
from edgectl.evaluation.corpora.nab import half_of, probation, read
from edgectl.evaluation.series import Series
from tests.evaluation.labelled import series


def detected(n: int, *rows: int) -> np.ndarray:
    found = np.zeros(n, bool)
    found[list(rows)] = True
    return found


def score(one: Series, *rows: int, profile: nab.Profile = nab.STANDARD) -> float:
    mask = detected(len(one) - one.begin, *(row - one.begin for row in rows))
    return nab.normalised(nab.at(mask, nab.rows_of(one), profile), profile)


TEN = series([0.0] * 40, windows=[(10, 19)])


def test_a_detection_at_the_first_row_of_the_only_window_scores_100() -> None:
    assert score(TEN, 10) == pytest.approx(100)


def test_no_detection_scores_0() -> None:
    assert score(TEN) == 0


def test_a_detection_in_the_middle_earns_what_the_sigmoid_says_by_hand() -> None:
    # row 15 of rows 10..19: x = -(19 - 15 + 1) / 10 = -0.5; sigma(-0.5) = 2 / (1 + exp(-2.5)) - 1 = 0.84828
    # raw = 0.84828 / 0.98661 = 0.85979; normalised = 100 (0.85979 + 1) / 2
    assert score(TEN, 15) == pytest.approx(92.99, abs=0.005)


def test_the_last_row_of_a_window_still_earns_something() -> None:
    # x = -1 / 10; sigma = 2 / (1 + exp(-0.5)) - 1 = 0.24492; raw = 0.24824
    assert score(TEN, 19) == pytest.approx(62.41, abs=0.005)


def test_only_the_earliest_detection_of_a_window_counts() -> None:
    assert score(TEN, 12, 15, 19) == score(TEN, 12)


def test_a_false_detection_before_the_first_window_costs_its_full_price() -> None:
    assert score(TEN, 10) - score(TEN, 3, 10) == pytest.approx(100 * 0.11 / 2)


def test_a_false_detection_just_after_a_window_costs_little_and_later_in_full() -> None:
    # row 22: x = (22 - 19) / 9 = 1/3; sigma(1/3) = -0.68232 → 100 * 0.11 * 0.68232 / 2 = 3.753
    assert score(TEN, 10) - score(TEN, 10, 22) == pytest.approx(3.753, abs=0.001)
    far = series([0.0] * 80, windows=[(10, 19)])
    assert score(far, 10) - score(far, 10, 70) == pytest.approx(100 * 0.11 / 2)  # x = 51 / 9 > 3


def test_profiles_weigh_false_detections_and_missed_windows() -> None:
    low_false, low_missed = nab.PROFILES[1:]
    assert score(TEN, 10, profile=low_false) - score(TEN, 3, 10, profile=low_false) == pytest.approx(11.0)
    assert score(TEN, 3, profile=low_missed) == pytest.approx(-100 * 0.11 / 3)
    two = series([0.0] * 60, windows=[(10, 19), (40, 49)])
    assert score(two, 10) == pytest.approx(50)


def test_rows_before_the_scored_part_count_for_nothing() -> None:
    late = series([0.0] * 40, windows=[(10, 19)], begin=15)
    rows = nab.rows_of(late)
    assert len(rows.value) == 25
    assert rows.windows == 1
    # the window keeps its width: its first scored row is worth what row 15 always is
    assert nab.normalised(nab.at(detected(25, 0), rows)) == pytest.approx(92.99, abs=0.005)


def test_a_window_of_one_row_is_worth_1_and_what_follows_it_costs_in_full() -> None:
    one = series([0.0] * 10, windows=[(5, 5)])
    assert score(one, 5) == pytest.approx(100)
    assert score(one, 5, 6) == pytest.approx(100 - 5.5)


def test_a_corpus_without_windows_has_no_score() -> None:
    rows = nab.rows_of(series([0.0] * 5))
    assert math.isnan(nab.normalised(nab.at(detected(5), rows)))
    assert math.isnan(nab.best([np.zeros(5)], [rows])[0])


def test_equal_scores_are_detected_together() -> None:
    rows = nab.rows_of(TEN)
    level = np.zeros(40)
    level[[3, 10]] = 1.0  # the best threshold cannot take row 10 without row 3
    assert nab.best([level], [rows]) == pytest.approx((100 - 5.5, 1.0))


def test_a_reading_without_a_score_is_never_detected() -> None:
    level = np.full(40, np.nan)
    level[10] = 0.0
    assert nab.best([level], [nab.rows_of(TEN)]) == pytest.approx((100, 0.0))


def test_the_best_threshold_may_be_to_detect_nothing() -> None:
    assert nab.best([np.zeros(40)], [nab.rows_of(series([0.0] * 40, windows=[(38, 39)]))]) == (0.0, math.inf)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Series, np.ndarray]:
    n = draw(st.integers(8, 60))
    bounds = sorted(draw(st.sets(st.integers(0, n - 1), min_size=2, max_size=6)))
    windows = list(zip(bounds[::2], bounds[1::2], strict=False))
    levels = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    begin = draw(st.integers(0, bounds[1]))
    return series([0.0] * n, windows, begin), np.array(levels, np.float64)


@given(labelled(), st.integers(0, 59))
def test_one_more_false_alarm_never_raises_the_score(case: tuple[Series, np.ndarray], row: int) -> None:
    one, levels = case
    rows = nab.rows_of(one)
    scored = levels[one.begin :] >= 3
    place = row % len(scored)
    more = scored.copy()
    more[place] = True
    if rows.window[place] < 0:
        for profile in nab.PROFILES:
            assert nab.at(more, rows, profile).raw <= nab.at(scored, rows, profile).raw


@given(labelled())
def test_the_best_threshold_is_as_good_as_any_fixed_one(case: tuple[Series, np.ndarray]) -> None:
    one, levels = case
    rows, scored = nab.rows_of(one), levels[one.begin :]
    for profile in nab.PROFILES:
        highest, threshold = nab.best([scored], [rows], profile)
        tried = [nab.normalised(nab.at(scored >= level, rows, profile), profile) for level in (*range(6), math.inf)]
        assert highest == pytest.approx(max(tried))
        assert nab.normalised(nab.at(scored >= threshold, rows, profile), profile) == pytest.approx(highest)


def test_probation_is_15_percent_and_at_most_750_readings() -> None:
    assert [probation(n) for n in (0, 6, 1000, 4032, 5000, 22695)] == [0, 0, 150, 604, 750, 750]


def test_halves_are_told_by_the_hash_of_the_path() -> None:
    # printf %s PATH | sha256sum
    assert half_of("realAWSCloudwatch/ec2_cpu_utilization_24ae8d.csv") == "B"
    assert half_of("realKnownCause/nyc_taxi.csv") == "A"


@pytest.mark.needs("shared")
def test_the_published_corpus_gives_the_known_scores(shared: Path) -> None:
    corpus = read(shared / "nab")
    assert (len(corpus.series), corpus.windows, sum(len(one) for one in corpus.series)) == (58, 116, 365_558)
    rows = [nab.rows_of(one) for one in corpus.series]

    def best(method: str) -> list[float]:
        made = [baseline(method, one, 1.0).score[one.begin :] for one in corpus.series]
        return [nab.best(made, rows, profile)[0] for profile in nab.PROFILES]

    assert best("null") == [0, 0, 0]
    assert best("new high/low") == pytest.approx([57.0, 53.9, 59.6], abs=0.2)


@pytest.mark.needs("shared")
def test_the_halves_share_all_files(shared: Path) -> None:
    a, b = (read(shared / "nab", half) for half in ("A", "B"))
    assert (len(a.series), len(b.series)) == (30, 28)
    assert not {one.name for one in a.series} & {one.name for one in b.series}
