"""Exponentially decayed moments with a half-life in event time, and how fast things decay.

A reading of age ``a`` has the weight ``2^(-a / half_life)``, whatever came between: the decay is one of time, not of
readings, so gaps and irregular sampling need no care (forward decay: Cormode, Shkapenyuk, Srivastava & Xu, "Forward
Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009, section 3).

Time is cut into panes of `_HALVINGS` half-lives. Inside a pane weights grow from 1 with the time since its start, so
that one running sum, strictly in order of arrival, serves all readings; at its end the pane's moments are merged into
those of the panes before (Chan, Golub & LeVeque 1979), which first fade by an exact power of two. Sums are about the
pane's first value, hence do not cancel when the level is large. Weights come from a table in steps of 1/4096 half-life
(0.02 %), because numpy's vector functions may differ from its scalar ones in the last bit.

A batch takes as many numpy steps as one stream's readings in it lie in different panes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Float64, Int32, Int64
from edgectl_agent.core.groups.interface import NEVER, StreamArrays
from edgectl_agent.core.runs import Runs
from edgectl_agent.core.windows import first_valid

_HALVINGS = 64
_STEPS = 4096
_POWERS = np.array([2.0 ** (i / _STEPS) for i in range(_STEPS)])
Z_LIMIT = 100.0
"""Bound of a deviation in units of the usual spread."""
_LEAST_SPREAD = 0.01
"""Of a habit without any spread, in units of its mean."""


def power(halvings: Float64) -> Float64:
    """``2 ** halvings`` in steps of 1/4096, the same bits for every shape of the argument."""
    steps = np.floor(halvings * _STEPS).astype(np.int64)
    found: Float64 = np.ldexp(_POWERS[steps % _STEPS], np.maximum(steps // _STEPS, -2000).astype(np.int32))
    return found


class Weighted(NamedTuple):
    """Mergeable moments of weighted values, all of one shape."""

    weight: Float64
    mean: Float64
    m2: Float64
    """Weighted sum of squared deviations."""

    def merge(self, other: Weighted) -> Weighted:
        """Of both together; merging with an empty one gives the other to the last bit."""
        weight = self.weight + other.weight
        share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0)
        dx = other.mean - self.mean
        mean = np.where(self.weight > 0, self.mean + dx * share, other.mean)
        return Weighted(weight, mean, self.m2 + other.m2 + dx * dx * self.weight * share)

    def fade(self, factor: Float64) -> Weighted:
        """All weights times `factor`."""
        return Weighted(self.weight * factor, self.mean, self.m2 * factor)

    def at(self, unit: Float64) -> Weighted:
        """With weights in units of `unit`; a division, so that equal times give whole numbers."""
        return Weighted(self.weight / unit, self.mean, self.m2 / unit)

    def take(self, rows: NDArray[np.int64]) -> Weighted:
        return Weighted(*(field[rows] for field in self))

    @property
    def std(self) -> Float64:
        return np.sqrt(np.divide(self.m2, self.weight, out=np.zeros_like(self.m2), where=self.weight > 0))


def deviation(residual: Float64, habit: Weighted) -> Float64:
    """`residual` in units of the habit's spread, within ± `Z_LIMIT`.

    A spread counts as at least 1 % of the habit's mean, so that one without any spread still gives a finite number.
    """
    spread = np.maximum(habit.std, _LEAST_SPREAD * np.abs(habit.mean))
    with np.errstate(over="ignore"):
        z = np.divide(residual, spread, out=np.sign(residual) * Z_LIMIT, where=spread > 0)
    return np.clip(z, -Z_LIMIT, Z_LIMIT)


class DecayedMoments:
    """Moments of some channels for all streams."""

    def __init__(self, half_life_ns: int, channels: int) -> None:
        self._half_life_ns = half_life_ns
        self._pane_ns = _HALVINGS * half_life_ns
        self.state = StreamArrays(
            pane=((), np.int64, NEVER),
            cell=((channels, 4), np.float64, 0.0),  # weight, sum, sum of squares about the reference; the reference
            carry=((3, channels), np.float64, 0.0),  # of the panes before, `Weighted` at the start of this one
        )

    def push(self, stream: Int32, event_time: Int64, values: Float64) -> tuple[Weighted, Weighted]:
        """Add readings, sorted by stream and in event-time order within a stream.

        Args:
            stream: shape (n,).
            event_time: shape (n,), ns.
            values: shape (n, c), NaN = missing.

        Returns:
            Moments just after each reading and just before it, both with weights at its time, shapes (n, c).
        """
        state = self.state
        state.reserve(stream)
        pane = event_time // self._pane_ns
        runs = Runs.of(stream, pane)
        run_stream, run_pane = stream[runs.starts], pane[runs.starts]
        goes_on = state["pane"][run_stream] == run_pane
        start = np.where(goes_on[:, None, None], state["cell"][run_stream], 0.0)
        weight = power((event_time - pane * self._pane_ns) / self._half_life_ns)[:, None]
        running = running_cells(runs, start, weight, values)
        final = running[runs.ends]
        carry = self._carries(run_stream, run_pane, goes_on, final)
        last = np.append(run_stream[1:] != run_stream[:-1], True)
        kept = run_stream[last]
        state["pane"][kept], state["cell"][kept] = run_pane[last], final[last]
        state["carry"][kept] = np.stack(carry.take(np.flatnonzero(last)), axis=1)
        before = np.concatenate([start[:1], running[:-1]])
        before[runs.starts] = start
        carried = carry.take(runs.of_row)
        after, before_it = carried.merge(weighted(running)), carried.merge(weighted(before))
        return after.at(weight), before_it.at(weight)

    def _carries(self, run_stream: Int32, run_pane: Int64, goes_on: NDArray[np.bool_], final: Float64) -> Weighted:
        """For each run, the moments of the panes before its own, with weights at the start of its pane."""
        stored, cell = self.state["carry"][run_stream], self.state["cell"][run_stream]
        old = Weighted(*stored.swapaxes(0, 1))
        age = np.where(self.state["pane"][run_stream] == NEVER, 0, run_pane - self.state["pane"][run_stream])
        faded = old.merge(weighted(cell)).fade(_fading(age))
        carry = Weighted(*(np.where(goes_on[:, None], *pair) for pair in zip(old, faded, strict=True)))
        own = weighted(final)
        rank = Runs.of(run_stream).rank
        for step in range(1, int(rank.max(initial=0)) + 1):
            rows = np.flatnonzero(rank == step)
            before = carry.take(rows - 1).merge(own.take(rows - 1)).fade(_fading(run_pane[rows] - run_pane[rows - 1]))
            for target, found in zip(carry, before, strict=True):
                target[rows] = found
        return carry


def _fading(panes: Int64) -> Float64:
    """By how much weights shrink over whole panes: a power of two, hence exact; shape (runs, 1)."""
    found: Float64 = np.ldexp(1.0, -_HALVINGS * np.minimum(panes, 1000))[:, None]
    return found


def running_cells(runs: Runs, start: Float64, weight: Float64, values: Float64) -> Float64:
    """The pane's cell after each reading, shape (n, c, 4)."""
    valid = ~np.isnan(values)
    reference = np.where(start[..., 0] == 0, first_valid(runs, values, valid), start[..., 3])
    x = np.where(valid, values - reference[runs.of_row], 0.0)
    w = np.where(valid, weight, 0.0)
    cells = np.empty((*values.shape, 4))
    cells[..., :3] = runs.accumulate(np.add, np.stack([w, w * x, w * x * x], axis=-1), start[..., :3])
    cells[..., 3] = reference[runs.of_row]
    return cells


def weighted(cells: Float64) -> Weighted:
    """Moments of cells, shape (…, 4); empty ones have all zeros."""
    weight, s1, s2, reference = np.moveaxis(cells, -1, 0)
    shift = np.divide(s1, weight, out=np.zeros_like(s1), where=weight > 0)
    return Weighted(weight, np.where(weight > 0, reference + shift, 0.0), np.maximum(s2 - s1 * shift, 0.0))
