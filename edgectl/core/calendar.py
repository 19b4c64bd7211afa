"""When a site may be changed: ``Sat 02:00-05:00``, ``Mon-Fri 22:00-04:00``, ``daily 03:00-04:00``.

Pure: a window is a value, and the moment is an argument. A window that ends at or before its beginning ends on the
next day; its days are those on which it begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from edgectl.core.errors import ConfigError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_MIN = 24 * 60
_WINDOW = re.compile(r"(?P<days>\S+) (?P<first>\d\d:\d\d)-(?P<last>\d\d:\d\d)")


@dataclass(frozen=True, kw_only=True)
class Window:
    """Every week from `start_min` to `end_min` (minutes after midnight, local time) on `days` (0 is Monday)."""

    days: frozenset[int]
    start_min: int
    end_min: int

    def holds(self, at: datetime, zone: str) -> bool:
        """Whether `at` (with an offset) lies in the window as the clocks of `zone` show it."""
        local = at.astimezone(ZoneInfo(zone))
        minute = local.hour * 60 + local.minute
        if self.start_min < self.end_min:
            return local.weekday() in self.days and self.start_min <= minute < self.end_min
        began_today = local.weekday() in self.days and minute >= self.start_min
        return began_today or ((local.weekday() - 1) % 7 in self.days and minute < self.end_min)


def parse(text: str) -> Window:
    """Raises `ConfigError` for what is not of the form ``DAYS HH:MM-HH:MM``."""
    match = _WINDOW.fullmatch(text.strip())
    days, start, end = (
        (_days(match["days"]), _minutes(match["first"]), _minutes(match["last"])) if match else (None, None, None)
    )
    if days is None or start is None or end is None:
        raise ConfigError(f"expected days and times such as 'Sat 02:00-05:00' or 'Mon-Fri 22:00-04:00', found {text!r}")
    return Window(days=days, start_min=start, end_min=end % _DAY_MIN)


def _days(text: str) -> frozenset[int] | None:
    if text.lower() == "daily":
        return frozenset(range(7))
    found: set[int] = set()
    for item in text.split(","):
        first, _, last = item.partition("-")
        if first.title() not in DAYS or (last or first).title() not in DAYS:
            return None
        begin, end = DAYS.index(first.title()), DAYS.index((last or first).title())
        found.update((begin + i) % 7 for i in range((end - begin) % 7 + 1))
    return frozenset(found)


def _minutes(text: str) -> int | None:
    hours, _, minutes = text.partition(":")
    total = int(hours) * 60 + int(minutes)
    return total if int(minutes) < 60 and total <= _DAY_MIN else None
