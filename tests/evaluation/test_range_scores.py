from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from edgectl.evaluation.ranges import NOTHING, missing, ranges
from edgectl.evaluation.series import Replayed
from tests.evaluation.labelled import series

pytestmark = pytest.mark.needs("aeon")
ONE = series([0.0] * 120, [(60, 79)], begin=20)


def said(score: np.ndarray, threshold: float = 0.5) -> Replayed:
    return Replayed(score=score, threshold=threshold, alarms=())


def test_a_perfect_score_is_close_to_1_and_a_turned_one_far_below() -> None:
    labels = ONE.labels.astype(np.float64)
    perfect, turned = ranges(ONE, said(labels)), ranges(ONE, said(1 - labels))
    assert perfect.vus_pr > 0.85
    assert (perfect.precision, perfect.recall) == (1.0, 1.0)
    assert turned.vus_pr < 0.35  # a fifth of the readings is labelled, and some beside them count
    assert (turned.precision, turned.recall) == (0.0, 0.0)


def test_half_of_a_window_is_half_of_its_recall() -> None:
    score = np.zeros(120)
    score[70:80] = 1.0
    found = ranges(ONE, said(score))
    assert (found.precision, found.recall) == (1.0, 0.5)


def test_readings_without_a_score_are_the_least_strange() -> None:
    score = ONE.labels.astype(np.float64)
    holes = score.copy()
    holes[25:40] = np.nan
    assert ranges(ONE, said(holes)).vus_pr == pytest.approx(ranges(ONE, said(score)).vus_pr)


def test_vus_pr_ranks_by_the_own_score_whatever_the_threshold_does() -> None:
    own = ONE.labels.astype(np.float64)
    drifting = np.linspace(1.0, 50.0, 120)
    detector = Replayed(score=own / drifting + 1 / drifting, threshold=1.0, alarms=(), raw=own, level=drifting)
    assert ranges(ONE, detector).vus_pr == ranges(ONE, said(own)).vus_pr


def test_what_says_nothing_has_no_score() -> None:
    silent = ranges(ONE, said(np.full(120, np.nan)))
    assert math.isnan(silent.vus_pr)
    assert math.isnan(silent.precision)
    assert silent.recall == 0
    always = ranges(ONE, said(np.ones(120)))
    assert math.isnan(always.vus_pr)
    assert (always.precision, always.recall) == (0.2, 1.0)
    assert ranges(series([0.0] * 9), said(np.zeros(9))) == NOTHING


def test_without_aeon_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not missing()
    monkeypatch.setitem(sys.modules, "aeon.benchmarking.metrics.anomaly_detection", None)
    assert missing() == (
        "VUS-PR and range-based precision and recall need aeon, which is not installed: pip install 'edgectl[evaluate]'"
    )
