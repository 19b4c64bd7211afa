"""The detector without training: equal for any batch boundaries and restarts, and what it finds in plain series."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from edgectl_agent.core.bundle import Records
from edgectl_agent.core.univariate import Univariate, Verdicts
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import cuts

MANY = 40
"""More series than are handled one by one."""


def univariate() -> Univariate:
    return Univariate(Records(warm_up=20, refractory=10), warning_per_day=5.0, critical_per_day=0.5)


def restarted(one: Univariate) -> Univariate:
    again = univariate()
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(one.snapshot())))
    return again


def push(one: Univariate, series: Any, time: Any, value: Any) -> Any:
    """Row by row as it arrived, shape (fields, n)."""
    order = np.argsort(series, kind="stable")
    found = np.empty((len(Verdicts._fields), len(series)))
    found[:, order] = np.array(one.push(series[order], time[order], value[order]))
    return found


def alone(value: Any, step_s: float = 60.0) -> Verdicts:
    """One series from its beginning."""
    value = np.asarray(value, float)
    return univariate().push(np.zeros(len(value), np.int64), np.arange(len(value)) * step_s, value)


def onsets(found: Verdicts) -> list[int]:
    return np.flatnonzero((found.onset > 0) & (found.score >= found.warning)).tolist()


@st.composite
def readings(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Series of all sorts, mixed: noise, walks, steps, constants, few distinct values, tiny and huge ones."""
    n, count = draw(st.integers(1, 600)), draw(st.sampled_from([1, 3, MANY]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    series = rng.integers(0, count, n)
    noise = rng.normal(size=n)
    value = np.select(
        [series % 5 == i for i in range(4)],
        [noise, noise.cumsum(), np.round(noise), np.where(np.arange(n) > n // 2, 5.0, 0.0)],
        1.0,
    ) * draw(st.sampled_from([1.0, 1e-300, 1e99, -1e-5]))
    time = np.cumsum(rng.choice([0.0, 0.2, 1.0, 500.0], n))
    return series.astype(np.int64), time, value


@settings(deadline=None, max_examples=60)
@given(data=st.data(), told=readings())
def test_verdicts_are_equal_for_any_batch_boundaries_and_restarts(data: st.DataObject, told: tuple[Any, ...]) -> None:
    series, time, value = told
    whole = push(univariate(), series, time, value)
    one, found = univariate(), []
    for where in data.draw(cuts(len(series))):
        found.append(push(one, series[where], time[where], value[where]))
        one = restarted(one)
    assert np.concatenate(found, axis=1).tobytes() == whole.tobytes()


@settings(deadline=None, max_examples=30)
@given(told=readings(), forgotten=st.integers(0, MANY))
def test_a_forgotten_series_begins_as_if_it_had_never_been(told: tuple[Any, ...], forgotten: int) -> None:
    series, time, value = told
    one = univariate()
    push(one, series, time, value)
    one.forget(np.array([forgotten]))
    mine = series == forgotten
    fresh = push(univariate(), series[mine], time[mine], value[mine])
    assert push(one, series, time, value)[:, mine].tobytes() == fresh.tobytes()


def test_nothing_is_said_before_the_warm_up_is_over() -> None:
    found = alone([*np.random.default_rng(1).normal(size=19), 1e6, 0.0])
    assert np.isnan(found.score[:20]).all()
    assert not found.onset[:20].any()
    assert np.isfinite(found.score[20])


def test_a_spike_is_an_onset_once_with_the_range_that_was_usual() -> None:
    noise = np.random.default_rng(2).normal(size=400)
    noise[300:303] = 40.0
    shipped = Univariate(Records(), warning_per_day=0.1, critical_per_day=0.01)
    found = shipped.push(np.zeros(400, np.int64), np.arange(400) * 60.0, noise)
    assert onsets(found) == [300]
    assert found.low[300] == pytest.approx(noise[:300].min(), rel=0.1)
    assert found.high[300] == pytest.approx(noise[:300].max(), rel=0.1)


def test_the_less_is_asked_for_the_higher_is_the_level_and_the_faster_readings_come() -> None:
    value = np.random.default_rng(3).normal(size=200)
    slow, fast = alone(value, 3600.0), alone(value, 1.0)
    assert (slow.warning[2:] < slow.critical[2:]).all()
    assert fast.warning[-1] == pytest.approx(slow.warning[-1] + np.log10(3600.0))


def test_it_is_known_of_which_series_the_warm_up_is_over() -> None:
    one = univariate()
    one.push(np.repeat([0, 2], [19, 20]), np.arange(39.0), np.ones(39))
    assert one.judges(np.arange(5)).tolist() == [False, False, True, False, False]


def test_a_series_costs_less_than_two_kilobytes() -> None:
    assert univariate().bytes_per_series <= 2_000
