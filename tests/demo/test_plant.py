"""The plant can be made again, any stretch of it, and its faults are where they are said to be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.generate.plant import CHANNELS, KINDS, LASTS, Fault, labels, planned, readings, rows, with_faults

START = 1_790_000_000 * 10**9


@settings(deadline=None, max_examples=20)
@given(first=st.integers(0, 5000), count=st.integers(1, 300), seed=st.integers(0, 5))
def test_any_stretch_is_the_same_as_that_part_of_the_whole(first: int, count: int, seed: int) -> None:
    whole = readings(seed, "m1", 0, first + count, START)
    np.testing.assert_array_equal(readings(seed, "m1", first, count, START), whole[first:])


def test_machines_differ_and_follow_the_day() -> None:
    a, b = (readings(1, name, 0, 1440, START) for name in ("a", "b"))
    assert not np.allclose(a, b)
    current = CHANNELS.index("current")
    assert np.ptp(a[:, current]) > 5
    assert np.corrcoef(a[:, current], a[:, CHANNELS.index("pressure")])[0, 1] < -0.8


@pytest.mark.parametrize("kind", ["spike", "bearing", "leak", "stuck"])
def test_a_fault_changes_its_machine_in_its_time_and_nothing_else(kind: str) -> None:
    normal = readings(1, "m1", 0, 100, START)
    fault = Fault(machine="m1", kind=kind, first=40, count=20)  # type: ignore[arg-type]
    broken = with_faults(normal, "m1", 0, [fault])
    changed = np.flatnonzero((broken != normal).any(axis=1))
    assert set(changed) <= set(range(40, 60))
    assert len(changed) >= 19
    np.testing.assert_array_equal(with_faults(normal, "m2", 0, [fault]), normal)


def test_rows_are_by_time_with_every_machine() -> None:
    found = list(rows(1, ["a", "b"], 10, 3, START))
    assert [r["machine"] for r in found] == ["a", "b"] * 3
    assert [r["ts"] for r in found] == sorted(r["ts"] for r in found)
    assert set(found[0]) == {"ts", "machine", *CHANNELS}


def test_planned_faults_are_apart_and_labelled_and_every_machine_is_watched() -> None:
    faults = planned(1, ("m1", "m2"), 600, 2880)
    assert {fault.kind for fault in faults} == set(KINDS)
    mine = [fault for fault in faults if fault.machine == "m1"]
    assert all(b.first - a.first - a.count >= 270 for a, b in pairwise(mine))
    assert all(fault.first > 600 and fault.first + LASTS[fault.kind] < 3480 for fault in faults)
    told = labels(("m1", "m2"), 600, 2880, START, faults)
    assert len(told) == len(faults) + 2
    assert told[0].start_ns == START + faults[0].first * 60 * 10**9
