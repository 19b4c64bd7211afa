"""How many streams a model keeps, and which give way when new ones come.

Up to the limit, every new stream gets state. At the limit a sixteenth of the streams (at least one) gives way together,
if so many are idle: those whose newest reading is oldest, each more than ``idle_ns`` of event time older than the
reading of the new stream. A stream with an open alert never gives way. If too few are idle, the reading is refused and
counted, and so until there is room: state in use is not thrown away for names that may be noise.

The rule looks at the readings alone and at the point in their order where the new stream comes, so batch boundaries and
restarts do not matter. Several give way at once so that a flood of new names costs little per reading.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgectl_agent.core.batch import Int32, Int64
from edgectl_agent.core.detector import Detector
from edgectl_agent.core.units import SECOND_NS

IDLE_NS = 3600 * SECOND_NS
_SHARE = 16


class StreamLimit:
    """Places the readings of unknown streams.

    Attributes:
        limit: how many streams may have state.
        refusing: whether the newest reading of an unknown stream was refused.
    """

    def __init__(self, limit: int, idle_ns: int) -> None:
        self.limit, self._idle_ns = limit, idle_ns
        self._together = max(1, limit // _SHARE)
        self.refusing = False

    def place(
        self,
        detector: Detector,
        names: tuple[str, ...],
        time: Int64,
        horizon_ns: int | None,
        evict: Callable[[Int64], None],
    ) -> Int32:
        """Indices of the first readings, at least one: as many as need no stream to give way in between.

        Args:
            detector: whose streams these are; all readings before were processed.
            names: n stream names in order of arrival.
            time: shape (n,), event times.
            horizon_ns: for a reading beyond it nothing gives way.
            evict: takes the state and the names from these streams.
        """
        table = detector.streams
        first = dict(zip(reversed(names), range(len(names) - 1, -1, -1), strict=True))
        while True:
            unknown = sorted((row, name) for name, row in first.items() if table.find(name) is None)
            room = max(0, self.limit - len(table))
            beyond = {name for _, name in unknown[room:]}
            refused = np.fromiter(map(beyond.__contains__, names), bool, len(names))
            may = refused if horizon_ns is None else refused & (time <= horizon_ns)
            end = self._first_to_fit(detector, names, np.flatnonzero(may), time, fresh=min(room, len(unknown)))
            if end > 0:
                break
            evict(detector.longest_idle(self._together)[0])
        for _, name in unknown[:room]:
            table.intern(name)
        self.refusing = bool(refused[:end].any())
        return table.places(names[:end], missing=self.limit)

    def _first_to_fit(self, detector: Detector, names: tuple[str, ...], rows: Int64, time: Int64, fresh: int) -> int:
        """The first of these rows at which enough streams may be idle; ``len(time)`` if there is none.

        Of the `fresh` streams that get state before it, nothing is known yet, and streams that bring readings may end
        their alerts: they count as idle, and the next call sees what they are. All else makes streams less idle.
        """
        if len(rows) and rows[0] == 0:
            if len(self._fit(detector.longest_idle(self._together)[1], self._together, rows[:1], time)):
                return 0
            rows = rows[1:]
        if len(rows):
            placed = detector.streams.places(names, missing=-1)
            needed = max(0, self._together - fresh)
            rows = self._fit(detector.longest_idle(needed, placed[placed >= 0])[1], needed, rows, time)
        return int(rows[0]) if len(rows) else len(time)

    def _fit(self, newest: Int64, needed: int, rows: Int64, time: Int64) -> Int64:
        """The rows at which `needed` streams, whose newest event times rise, are idle."""
        if len(newest) < needed:
            return rows[:0]
        return rows[time[rows] > newest[-1] + self._idle_ns] if needed else rows
