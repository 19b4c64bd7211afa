"""Windows that go on from a snapshot of an agent of before."""

from __future__ import annotations

import numpy as np
from edgectl_agent.core.arrays import pack_array
from edgectl_agent.core.units import SECOND_NS
from edgectl_agent.core.windows import Windows

NO_PANE = np.iinfo(np.int64).min
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
