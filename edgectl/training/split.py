"""Which readings a model learns from, which are held out: by time, never at random.

The held-out part is later than the fit part, as the node's readings will be. It calibrates the threshold, and every
number in the report comes from it. Windows run through both parts in order, as they do on a node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edgectl_agent.core.batch import Int64
from edgectl_agent.core.features import Bool

from edgectl.core.evaluation import WATCHED, Period
from edgectl.training.tables import Table


@dataclass(frozen=True)
class Split:
    """Where the parts meet.

    Attributes:
        cut: index of the first held-out reading; no reading before it is later than one after it.
        known: shape (n,), readings in periods that are known to be bad: in no part, though they enter the windows.
    """

    cut: int
    known: Bool

    def fit(self, usable: Bool) -> Int64:
        """Rows of the fit part, of those that are `usable`."""
        return np.flatnonzero((usable & ~self.known)[: self.cut])

    def held(self, usable: Bool) -> Int64:
        """Rows of the held-out part, of those that are `usable`."""
        return self.cut + np.flatnonzero((usable & ~self.known)[self.cut :])


def split(table: Table, share: float, exclude: tuple[Period, ...] = ()) -> Split:
    """Cut after the first `share` of the readings; readings of the same time stay together."""
    wanted = min(int(len(table) * share), len(table) - 1)
    cut = int(np.searchsorted(table.event_time, table.event_time[wanted], side="left"))
    known = np.zeros(len(table), bool)
    for period in exclude:
        if period.kind == WATCHED:
            continue
        inside = (table.event_time >= period.start_ns) & (table.event_time <= period.end_ns)
        if period.stream:
            inside &= table.stream == (table.streams.index(period.stream) if period.stream in table.streams else -1)
        known |= inside
    return Split(cut, known)
