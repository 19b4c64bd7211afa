from __future__ import annotations

import numpy as np
import pytest

from edgectl.evaluation import pooling
from edgectl.evaluation.judging import Kept, judged
from edgectl.evaluation.series import Alarm, Replayed
from tests.evaluation.labelled import MINUTE_NS, series


def test_a_budget_is_kept_by_streams_whose_interval_reaches_a_factor_of_2() -> None:
    kept = [Kept("calm", 0, 10.0), Kept("right", 11, 10.0), Kept("loud", 100, 10.0), Kept("unwatched", 0, 0.0)]
    found = pooling.budget(1.0, kept)
    assert (found.false_alerts, found.stream_days, found.ratio) == (111, 30.0, 3.7)
    assert (found.streams, found.within_2, found.above_5) == (3, 1, 1)
    assert (found.worst, found.worst_ratio) == ("loud", 10.0)
    assert found.worst_low == pytest.approx(8.14, abs=0.01)  # 81.36 is the exact lower bound of 100
    # none in ten days at one a day is too few: at most 3.69 are due, which is under half
    assert pooling.budget(1.0, [Kept("calm", 0, 5.0)]).within_2 == 1


def test_a_corpus_pools_counts_and_not_shares() -> None:
    short, long = series([0.0] * 721, [(60, 90)]), series([0.0] * 14_401, [(100, 130), (900, 930)])
    alarms = ((Alarm(70 * MINUTE_NS, 71 * MINUTE_NS),), (Alarm(500 * MINUTE_NS, 501 * MINUTE_NS),))
    parts = [
        judged(one, Replayed(score=np.zeros(len(one)), threshold=1.0, alarms=told), by_ranges=False)
        for one, told in zip((short, long), alarms, strict=True)
    ]
    found = pooling.method("mine", "nobody", parts, (short, long), seed=0)
    assert (found.found, found.windows, found.false_alerts) == (1, 3, 1)
    assert found.recall.value == pytest.approx(1 / 3, abs=1e-4)
    assert found.false_per_stream_day.value == pytest.approx(1 / 10.5, abs=1e-4)
    assert found.delay_ns == 10 * MINUTE_NS
    assert found.place == pytest.approx(1 / 3, abs=1e-3)
    assert found.nab.standard == pytest.approx(found.nab_interval.value, abs=0.005)
    assert found.vus_pr.value is None
