from __future__ import annotations

from pathlib import Path

import pytest
from edgectl_agent.core.bundle import decode
from edgectl_agent.inference import Model

from bench.real_data import at_random, judge, nab_cases
from edgectl.core.evaluation import Outcome
from edgectl.training.pipeline import train
from edgectl.training.recipe import find
from edgectl.training.replay import replay
from edgectl.training.split import split
from edgectl.training.tables import read

DAY = 86_400 * 10**9


def test_an_onset_counts_for_the_window_it_begins_in_and_is_false_elsewhere() -> None:
    windows = [(10, 20), (50, 60), (80, 90)]
    assert judge([5, 12, 15, 60, 70], windows, (0, DAY)) == Outcome((("", 2), ("", 10)), ("",), 2, 1.0)
    assert judge([], windows, (0, DAY)) == Outcome((), ("",) * 3, 0, 1.0)


def test_random_alarms_find_a_share_of_the_time_that_windows_cover() -> None:
    assert at_random(1000, [(0, 50), (100, 150)], (0, 1000)).found == 2
    assert at_random(1, [(0, 1)], (0, 1000)).found == 0


@pytest.mark.needs("shared")
def test_a_real_latency_failure_is_found_with_few_false_alerts(shared: Path, tmp_path: Path) -> None:
    """The smallest of the labelled series that `bench.real_data` replays through an agent."""
    case = next(iter(nab_cases(shared / "nab", tmp_path)))
    recipe = find(case.recipe, None)
    bundle = decode(train(recipe, read([case.train], recipe)).built[0].raw)
    rest = read([case.rest], recipe)
    found = replay(bundle, Model(bundle.model).score, rest, split(rest, 0.01))
    span = (int(rest.event_time[0]), int(rest.event_time[-1]))
    outcome = judge([onset for _, onset in found.onsets], case.windows, span)
    assert outcome.faults == 3
    assert outcome.found >= 2
    assert outcome.false_per_stream_day < 0.5
