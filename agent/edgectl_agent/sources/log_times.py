"""The time at the beginning of a log line: ISO 8601, syslog (RFC 3164), web servers' ``[10/Oct/2026:13:55:36 +0000]``,
or seconds or milliseconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from edgectl_agent.core.units import DAY_NS, LAST_NS, SECOND_NS, moment_ns

_MONTHS = {
    "Jan": 1, "Feb": 2, "Mar": 3, "Apr": 4, "May": 5, "Jun": 6,
    "Jul": 7, "Aug": 8, "Sep": 9, "Oct": 10, "Nov": 11, "Dec": 12,
}  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(
    r"[\[<(]?(\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\s?(Z|[+-]\d\d:?\d\d)?(?![\d.])[\])>]?"
)
_SYSLOG = re.compile(
    r"(?:<\d{1,3}>)?((?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d \d\d:\d\d:\d\d)(?!\d)"
)
_EPOCHS = re.compile(r"\[?(\d{10}|\d{13})(?:\.(\d{1,9}))?\]?(?=\s|$)")
_APACHE = re.compile(r"\[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d) ([+-]\d{4})\]")
_MAX_KEPT = 10_000
_APACHE_WITHIN = 200


class LogTime(NamedTuple):
    """When an event was."""

    ns: int
    tick: int
    """Length in ns of the clock's tick as written."""
    end: int
    """Where the time ends in the line."""
    local: bool = False
    """Whether it was written without an offset."""


class LogTimes:
    """Finds times; remembers what texts mean, in bounded memory."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._known: dict[tuple[str, str], int | None] = {}

    def find(self, line: str, now_ns: int) -> LogTime | None:
        """None if there is no time, or one that no event can have. `now_ns` tells the year where the line does not."""
        found = self._find(line, now_ns)
        return found if found is not None and abs(found.ns) < LAST_NS else None

    def _find(self, line: str, now_ns: int) -> LogTime | None:
        found = _ISO.match(line)
        if found:
            base = self._base(found[1], found[3] or "")
            if base is None:
                return None
            fraction, local = found[2], not found[3]
            if not fraction:
                return LogTime(base, SECOND_NS, found.end(), local)
            tick = 10 ** (9 - len(fraction))
            return LogTime(base + int(fraction) * tick, tick, found.end(), local)
        return self._other(line, now_ns)

    def _other(self, line: str, now_ns: int) -> LogTime | None:
        if found := _SYSLOG.match(line):
            at = self._without_year(found[1], now_ns)
            return None if at is None else LogTime(at, SECOND_NS, found.end(), local=True)
        if found := _EPOCHS.match(line):
            tick = SECOND_NS if len(found[1]) == 10 else SECOND_NS // 1000
            fraction = found[2] or ""
            part = int(fraction.ljust(9, "0")) * tick // SECOND_NS if fraction else 0
            return LogTime(int(found[1]) * tick + part, max(1, tick // 10 ** len(fraction)), found.end())
        if found := _APACHE.search(line, 0, _APACHE_WITHIN):
            base = self._base(found[1], found[2])
            return None if base is None else LogTime(base, SECOND_NS, 0)
        return None

    def _base(self, text: str, offset: str) -> int | None:
        key = (text, offset)
        if key not in self._known:
            if len(self._known) >= _MAX_KEPT:
                self._known.clear()
            self._known[key] = self._parse(text, offset)
        return self._known[key]

    def _parse(self, text: str, offset: str) -> int | None:
        try:
            if text[2] == "/":
                day, month, rest = text.split("/")
                year, clock = rest.split(":", 1)
                text = f"{year}-{_MONTHS[month]:02d}-{day}T{clock}"
            moment = datetime.fromisoformat(text.replace("/", "-") + offset.replace("Z", "+00:00"))
        except (ValueError, LookupError):
            return None
        return moment_ns(moment if moment.tzinfo else moment.replace(tzinfo=self._zone))

    def _without_year(self, text: str, now_ns: int) -> int | None:
        """In the year in which it is not more than a day ahead of `now_ns`."""
        now = _EPOCH + timedelta(microseconds=now_ns // 1000)
        for year in (now.year + 1, now.year, now.year - 1, now.year - 2, now.year - 3, now.year - 4):
            month, day, clock = text[:3], text[4:6].strip().zfill(2), text[7:]
            at = self._base(f"{year}-{_MONTHS[month]:02d}-{day}T{clock}", "")
            if at is not None and at <= now_ns + DAY_NS:
                return at
        return None
