"""Windows that go on from a snapshot of an agent of before."""

from __future__ import annotations

import numpy as np
from edgectl_agent.core.arrays import pack_array
from edgectl_agent.core.units import SECOND_NS
from edgectl_agent.core.windows import Moments, Windows
from hypothesis import given, settings
from hypothesis import strategies as st

NO_PANE = np.iinfo(np.int64).min
PANE = 10 * SECOND_NS
STREAM = np.zeros(3, np.int32)
TIME = np.array([0, 4, 12]) * SECOND_NS
VALUES = np.array([[1.0], [3.0], [7.0]])
#            count, sum, square, t, t², t·x about the reference, reference, min, max
FIRST_PANE = [2.0, 2.0, 4.0, 4.0, 16.0, 8.0, 1.0, 1.0, 3.0]
SECOND_PANE = [1.0, 0.0, 0.0, 2.0, 4.0, 0.0, 7.0, 7.0, 7.0]


def test_windows_go_on_from_a_snapshot_that_holds_the_cells_of_all_panes() -> None:
    long_gone = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 99.0, 99.0, 99.0]
    restored = Windows(30 * SECOND_NS, 3, 1)
    restored.restore(
        {
            "pane": pack_array(np.array([[0, 1, -4], [NO_PANE] * 3])),
            "cells": pack_array(np.array([[[FIRST_PANE], [SECOND_PANE], [long_gone]], [[[0.0] * 9]] * 3])),
        }
    )
    uninterrupted = Windows(30 * SECOND_NS, 3, 1)
    uninterrupted.push(STREAM, TIME, VALUES)
    stream, time = np.array([0, 0, 1], np.int32), np.array([13, 25, 25]) * SECOND_NS
    values = np.array([[2.0], [4.0], [5.0]])
    expected = uninterrupted.push(stream, time, values)
    for found, wanted in zip(restored.push(stream, time, values), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def panes_alone(times: list[int], values: np.ndarray, slots: int) -> dict[str, object]:
    """What agents saved that kept each closed pane by itself, after these readings of one stream."""
    alone = Windows(PANE, 1, 1)
    found = alone.push(np.zeros(len(times), np.int32), np.array(times), values)
    pane = np.array(times) // PANE
    number, closed = np.full((2, slots), NO_PANE), np.zeros((2, slots, 8))
    for row in np.flatnonzero(np.diff(pane)):
        number[0, pane[row] % slots] = pane[row]
        one = Moments(*(field[row, 0] for field in found))
        closed[0, pane[row] % slots] = one.n, one.mean, one.t_mean, one.m2, one.tt, one.tx, one.low, one.high
    kept = alone.snapshot()
    current, cell = np.append(pane[-1], NO_PANE), np.append(alone._cell[:1], np.zeros((1, 9)), axis=0)
    return kept | {
        "current": pack_array(current),
        "cell": pack_array(cell),
        "pane": pack_array(number),
        "closed": pack_array(closed),
    }


@settings(deadline=None, max_examples=100)
@given(
    panes=st.integers(2, 5),
    steps=st.lists(st.one_of(st.integers(1, 15), st.integers(1, 120)), min_size=4, max_size=40),
    share=st.floats(0.1, 0.9),
    seed=st.integers(0, 99),
)
def test_windows_go_on_from_a_snapshot_that_holds_each_closed_pane_by_itself(
    panes: int, steps: list[int], share: float, seed: int
) -> None:
    times = (np.cumsum(steps) * SECOND_NS - 300 * SECOND_NS).tolist()
    values = np.random.default_rng(seed).normal(size=(len(times), 1))
    cut = max(1, int(share * len(times)))
    restored = Windows(panes * PANE, panes, 1)
    restored.restore(panes_alone(times[:cut], values[:cut], panes - 1))
    none = np.zeros(len(times), np.int32)
    whole = Windows(panes * PANE, panes, 1).push(none, np.array(times), values)
    rest = restored.push(none[cut:], np.array(times[cut:]), values[cut:])
    for found, wanted in zip(rest, whole, strict=True):
        np.testing.assert_array_equal(found, wanted[cut:])
