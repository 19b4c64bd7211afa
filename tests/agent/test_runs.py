"""Scans over runs give the same bits in whichever order their rows lie."""

from __future__ import annotations

import numpy as np
import pytest
from edgectl_agent.core.arrays import columns, planes
from edgectl_agent.core.runs import ByRank, InOrder, Runs
from hypothesis import given, settings
from hypothesis import strategies as st


def loop(ufunc: np.ufunc, runs: Runs, rows: np.ndarray, first: np.ndarray) -> np.ndarray:
    found = np.empty_like(rows)
    for run, (start, length) in enumerate(zip(runs.starts, runs.lengths, strict=True)):
        before = first[..., run]
        for row in range(start, start + length):
            before = found[..., row] = ufunc(before, rows[..., row])
    return found


@pytest.mark.parametrize("order", [ByRank, InOrder])
@pytest.mark.parametrize("ufunc", [np.add, np.minimum])
@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 5), st.integers(1, 40)), min_size=1, max_size=12), seed=st.integers(0, 99)
)
def test_a_scan_adds_one_by_one_in_order(order: type[InOrder], ufunc: np.ufunc, lengths: list[int], seed: int) -> None:
    runs = Runs(np.cumsum([0, *lengths[:-1]]), sum(lengths))
    random = np.random.default_rng(seed)
    rows, first = random.normal(size=(2, sum(lengths))), random.normal(size=(2, len(lengths)))
    expected = loop(ufunc, runs, rows, first)
    layout = order(runs)
    placed = planes(*rows.shape)
    placed[:] = rows if layout.order is None else rows[:, layout.order]
    layout.scan(ufunc, placed, first if layout.order_of_runs is None else first[:, layout.order_of_runs])
    np.testing.assert_array_equal(columns(placed, layout.ends), expected[:, runs.ends])
    np.testing.assert_array_equal(placed if layout.back is None else columns(placed, layout.back), expected)
    np.testing.assert_array_equal(runs.scan(ufunc, rows, first), expected)
    np.testing.assert_array_equal(runs.fold(ufunc, rows, first), expected[:, runs.ends])


@pytest.mark.parametrize("n", [1, 7, 8, 64, 4096])
def test_the_rows_of_planes_are_an_odd_number_of_cache_lines_apart(n: int) -> None:
    found = planes(3, 2, n)
    assert found.shape == (3, 2, n)
    assert found.strides[1] % 128 == 64


def test_columns_are_those_of_the_part_that_was_asked_for() -> None:
    whole = planes(3, 10)
    whole[:] = np.arange(30).reshape(3, 10)
    places = np.array([4, 0, 4])
    np.testing.assert_array_equal(columns(whole, places), whole[:, places])
    np.testing.assert_array_equal(columns(whole[:, 3:], places), whole[:, 3:][:, places])
    np.testing.assert_array_equal(columns(whole[1:], places), whole[1:][:, places])
    np.testing.assert_array_equal(columns(whole[:2], places), whole[:2][:, places])
