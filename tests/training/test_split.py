from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import ConfigError
from edgectl.core.evaluation import WATCHED, Period
from edgectl.periods import read_periods, write_periods
from edgectl.training.split import split
from edgectl.training.tables import Table


def table(times: list[int], streams: int = 1) -> Table:
    n = len(times)
    names = tuple(f"s{i}" for i in range(streams))
    return Table(names, np.arange(n, dtype=np.int32) % streams, np.sort(np.array(times, np.int64)), np.ones((n, 1)))


@given(st.lists(st.integers(0, 50), min_size=2, max_size=60), st.floats(0.1, 0.95))
def test_everything_that_is_fitted_is_earlier_than_everything_held_out(times: list[int], share: float) -> None:
    t = table(times)
    parts = split(t, share)
    usable = np.ones(len(t), bool)
    fit, held = parts.fit(usable), parts.held(usable)
    assert sorted([*fit, *held]) == list(range(len(t)))
    if len(fit):
        assert t.event_time[fit].max() < t.event_time[held].min()


def test_known_bad_periods_are_in_no_part() -> None:
    t = table(list(range(100)), streams=2)
    parts = split(t, 0.5, (Period(10, 19), Period(70, 79, "s1"), Period(0, 99, "nobody"), Period(0, 99, "s0", WATCHED)))
    usable = np.ones(100, bool)
    assert set(range(50)) - set(parts.fit(usable)) == set(range(10, 20))
    assert set(range(50, 100)) - set(parts.held(usable)) == {71, 73, 75, 77, 79}


def test_periods_are_read_with_and_without_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "incidents.csv"
    path.write_text("start,end,stream\n1970-01-01T00:00:01Z,1970-01-01T00:00:02Z,\n3,4,press-1\n")
    assert read_periods(path) == (Period(10**9, 2 * 10**9), Period(3 * 10**9, 4 * 10**9, "press-1"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("begin,end\n1,2\n", "column 'start' is missing"),
        ("start,end\n1,later\n", "row 2: expected two times, found '1' and 'later'"),
        ("start,end\n5,4\n", "row 2: the end 4 is before the start 5"),
        ("start,end\n5\n", "row 2: expected two times"),
    ],
)
def test_wrong_periods_are_named(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "incidents.csv"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_periods(path)
    assert sentence in caught.value.message


def test_a_missing_file_of_periods_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"incidents.csv: no such file \(train.exclude"):
        read_periods(tmp_path / "incidents.csv", "train.exclude of the recipe")


def test_periods_are_written_as_they_are_read(tmp_path: Path) -> None:
    periods = (Period(10**9, 2 * 10**9, "web-1", "burst"), Period(10**9, 5 * 10**9, "web-2", WATCHED))
    write_periods(tmp_path / "labels.csv", reversed(periods))
    assert read_periods(tmp_path / "labels.csv") == periods
