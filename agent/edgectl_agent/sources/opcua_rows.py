"""Values that an OPC UA server reports → rows of channels by stream and source time; pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from edgectl_agent.core.units import LAST_NS, moment_ns

_NO_TIME_NS = moment_ns(datetime(1601, 1, 1, tzinfo=UTC))
"""What OPC UA writes where there is none."""
_BAD = 0x8000_0000
_OVERFLOW = 0x0480
"""Of a status code: it tells about a value, and the server's queue lost some before it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A reading: `values` in the order of the source's channels, NaN = missing."""

    stream: str
    event_time: int
    values: list[float]

    def __len__(self) -> int:
        return 8 * len(self.values) + len(self.stream)


@dataclass(frozen=True, slots=True)
class Reported:
    """One value of one node.

    Attributes:
        place: the stream and the number of the channel that the node is.
        value: as the server sent it.
        status: OPC UA's status code.
        time: of the source, or the server's if that is missing, or None.
    """

    place: tuple[str, int]
    value: Any
    status: int
    time: datetime | None


def rows(reported: Iterable[Reported], width: int, now_ns: int, rejected: Counter[str]) -> list[Row]:
    """Values of one stream and one time form one row; ordered by time.

    A value that is bad or no finite number is missing, and counted in `rejected`: ``bad-status``, ``not-a-number``,
    ``not-finite``; so is one whose time no event can have, ``bad-time``. ``lost-upstream`` is counted once each time
    that a server's queue overflowed. One without any time counts as of `now_ns`.
    """
    found: dict[tuple[int, str], list[float]] = {}
    for one in reported:
        rejected["lost-upstream"] += one.status & _OVERFLOW == _OVERFLOW
        number = _number(one)
        if isinstance(number, str):
            rejected[number] += 1
            continue
        stream, channel = one.place
        event_time = _ns(one.time, now_ns)
        if abs(event_time) >= LAST_NS:
            rejected["bad-time"] += 1
            continue
        key = (event_time, stream)
        values = found.setdefault(key, [math.nan] * width)
        values[channel] = number
    return [Row(stream, at, values) for (at, stream), values in sorted(found.items(), key=lambda item: item[0])]


def _number(one: Reported) -> float | str:
    if one.status & _BAD:
        return "bad-status"
    if not isinstance(one.value, int | float):
        return "not-a-number"
    try:
        number = float(one.value)
    except OverflowError:
        return "not-finite"
    return number if math.isfinite(number) else "not-finite"


def _ns(moment: datetime | None, now_ns: int) -> int:
    if moment is None:
        return now_ns
    found = moment_ns(moment)
    return now_ns if found == _NO_TIME_NS else found
