"""Many series of single values, each watched by itself as its readings come: no training, no look-ahead.

A series is one channel of one stream. How its readings become scores is `records`' business; here is what every such
formula needs: readings of a batch are taken in order, series by series, either all series' first readings at once, then
their second ones, …, as arrays, or one series' readings one by one as plain floats. Both ways give the same bits, so
it does not matter how readings were cut into batches.

Example::

    series = Univariate(Records(), warning_per_day=0.1, critical_per_day=0.01)
    found = series.push(np.array([0, 1, 1]), time_s, values)   # a reading of series 0 and two of series 1
    found.score >= found.warning
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.bundle import Records
from edgectl_agent.core.records import BINS, FIELDS, OUT, RecordsFormula
from edgectl_agent.core.runs import Runs

_FEW = 24
"""So few series are handled sooner one by one."""


class Verdicts(NamedTuple):
    """What was found of each reading; arrays of shape (n,).

    Attributes:
        score: surprise, -log10 of the calibrated probability of a reading at least so strange; NaN during warm-up.
        warning: the surprise that the budget asks for.
        critical: the same of the critical budget.
        onset: 1 where the reading is stranger than what was strange just before, else 0.
        low: the lowest value that was usual before the reading.
        high: the highest.
        kind: which of `records.KINDS` was strangest.
        of_kind: its value.
        kind_low: the lowest that was usual of it.
        kind_high: the highest.
    """

    score: Float64
    warning: Float64
    critical: Float64
    onset: Float64
    low: Float64
    high: Float64
    kind: Float64
    of_kind: Float64
    kind_low: Float64
    kind_high: Float64


class Univariate:
    """State of all series, by number from 0.

    Args:
        constants: signed, in the bundle.
        warning_per_day: false alerts that one series may raise.
        critical_per_day: likewise.
    """

    def __init__(self, constants: Records, warning_per_day: float, critical_per_day: float) -> None:
        self._formula = RecordsFormula(constants, warning_per_day, critical_per_day)
        self._warm_up = constants.warm_up
        self._state: Float64 = np.empty((0, len(FIELDS)))
        self._bins: NDArray[np.int32] = np.empty((0, BINS), np.int32)

    @property
    def bytes_per_series(self) -> int:
        """What one series costs in memory."""
        return sum(array.itemsize * array.shape[1] for array in (self._state, self._bins))

    def judges(self, series: Int64) -> NDArray[np.bool_]:
        """Of which of these the warm-up is over."""
        found = np.zeros(len(series), bool)
        known = series < len(self._state)
        found[known] = self._state[series[known], 0] >= self._warm_up
        return found

    def push(self, series: Int64, time_s: Float64, value: Float64) -> Verdicts:
        """Judge readings by what came before each, and learn from them.

        Args:
            series: shape (n,); the readings of one series are neighbours, in order.
            time_s: shape (n,), event time in seconds.
            value: shape (n,), finite.
        """
        out = np.empty((len(OUT), len(series)))
        if len(series) == 0:
            return Verdicts(*out)
        self._reserve(int(series.max()) + 1)
        value = value + 0.0  # there is one zero
        runs = Runs.of(series)
        of_run = series[runs.starts]
        active = np.argsort(-runs.lengths, kind="stable")
        for rank in range(int(runs.lengths.max())):
            active = active[: int((runs.lengths[active] > rank).sum())]
            if len(active) < _FEW:
                for run in active.tolist():
                    rows = slice(int(runs.starts[run]) + rank, int(runs.ends[run]) + 1)
                    out[:, rows] = self._one(int(of_run[run]), time_s[rows], value[rows])
                break
            at = runs.starts[active] + rank
            out[:, at] = self._many(of_run[active], time_s[at], value[at])
        return Verdicts(*out)

    def forget(self, series: Int64) -> None:
        """These numbers mean other series from now on."""
        known = series[series < len(self._state)]
        self._state[known], self._bins[known] = 0.0, 0

    def snapshot(self) -> dict[str, Any]:
        """All state, as plain values."""
        return {"state": pack_array(self._state), "bins": pack_array(self._bins)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `snapshot` was taken under the same constants."""
        self._state, self._bins = unpack_array(state["state"]), unpack_array(state["bins"])

    def _many(self, series: Int64, time_s: Float64, value: Float64) -> Float64:
        state, bins = self._state.take(series, axis=0), self._bins.take(series, axis=0)
        self._state[series], self._bins[series], out = self._formula.many(state, bins, time_s, value)
        return out

    def _one(self, series: int, time_s: Float64, value: Float64) -> Float64:
        state, bins = self._state[series].tolist(), self._bins[series].tolist()
        state, bins, out = self._formula.run(state, bins, time_s.tolist(), value.tolist())
        self._state[series], self._bins[series] = state, bins
        return np.array(out).T

    def _reserve(self, series: int) -> None:
        have = len(self._state)
        if series > have:
            more = max(series - have, have // 4)
            self._state = np.concatenate([self._state, np.zeros((more, len(FIELDS)))])
            self._bins = np.concatenate([self._bins, np.zeros((more, BINS), np.int32)])
