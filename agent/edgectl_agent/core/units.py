"""Durations, sizes and event times as people write them.

``5m``, ``24h``, ``20ms``; ``200M``, ``500kB``; ``2026-03-14T09:12:00Z``, ``2026-03-14 09:12:00``, ``1773479520.5``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from edgectl_agent.core.errors import ConfigError

_DURATION = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
    "w": 7 * 86400 * 10**9,
}
_SIZE = {"": 1, "B": 1, "k": 1000, "kB": 1000, "M": 10**6, "MB": 10**6, "G": 10**9, "GB": 10**9,
         "Ki": 1024, "KiB": 1024, "Mi": 2**20, "MiB": 2**20, "Gi": 2**30, "GiB": 2**30}  # fmt: skip
_NUMBER_UNIT = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)")
_DECIMAL = re.compile(r"[+-]?\d{1,20}(?:\.\d{0,30})?", re.ASCII)
_FINER = re.compile(r"[.,]\d{6}(\d+)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_NS = _DURATION["d"]
SECOND_NS = _DURATION["s"]
LAST_NS = 9_200_000_000_000_000_000
"""Event times beyond ± this do not fit int64 nanoseconds (the year 2261)."""


def duration_ns(text: str) -> int:
    """Nanoseconds of ``5m``, ``1.5h``, ``20ms``. Raises `ConfigError` for anything else."""
    match = _NUMBER_UNIT.fullmatch(text.strip())
    if match is None or match[2] not in _DURATION:
        raise ConfigError(f"expected a duration such as 30s, 5m or 24h, found {text!r}")
    return round(float(match[1]) * _DURATION[match[2]])


def format_duration(ns: int) -> str:
    """The shortest exact spelling: ``300 * 10**9`` → ``5m``. Inverse of `duration_ns`."""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        if ns and ns % _DURATION[unit] == 0:
            return f"{ns // _DURATION[unit]}{unit}"
    return f"{ns}ns"


def size_bytes(text: str) -> int:
    """Bytes of ``200M``, ``500kB``, ``64MiB``. Raises `ConfigError` for anything else."""
    match = _NUMBER_UNIT.fullmatch(text.strip())
    if match is None or match[2] not in _SIZE:
        raise ConfigError(f"expected a size such as 500kB, 200M or 2G, found {text!r}")
    return round(float(match[1]) * _SIZE[match[2]])


def per_day(text: str) -> float:
    """Events per day of ``1/day``, ``1/30d``, ``3/h``. Raises `ConfigError` for anything else."""
    count, slash, period = text.partition("/")
    try:
        if not slash:
            raise ValueError
        period = {"day": "1d", "hour": "1h", "week": "1w"}.get(period.strip(), period.strip())
        rate = float(count) * DAY_NS / duration_ns(period if period[0].isdigit() else f"1{period}")
    except (ValueError, IndexError, ZeroDivisionError, ConfigError):
        raise ConfigError(f"expected a rate such as 1/day, 3/h or 1/30d, found {text!r}") from None
    if not 0 < rate < float("inf"):
        raise ConfigError(f"expected a rate above zero, found {text!r}")
    return rate


def event_time_ns(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time (UTC unless it has an offset) or of seconds since 1970; exact.

    Numbers from 1e11 on are milliseconds, from 1e14 on microseconds, from 1e17 on nanoseconds. Raises ValueError.
    """
    text = text.strip()
    if _DECIMAL.fullmatch(text):
        return _decimal_ns(text)
    try:
        return epoch_ns(float(text))
    except ValueError:
        moment = datetime.fromisoformat(text)
    finer = _FINER.search(text)  # than a datetime is
    return moment_ns(moment) + (int(finer[1][:3].ljust(3, "0")) if finer else 0)


def moment_ns(moment: datetime) -> int:
    """Nanoseconds since 1970; UTC unless it has an offset."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - _EPOCH
    return (since.days * 86400 + since.seconds) * SECOND_NS + since.microseconds * 1000


def epoch_ns(number: float) -> int:
    """As `event_time_ns` of a number that is a float, with the precision that it has. Raises ValueError."""
    if not abs(number) < LAST_NS:
        raise ValueError(f"not a time: {number!r}")
    whole = int(number)
    factor = _factor(abs(whole))
    return whole * factor + round((number - whole) * factor)


def whole_ns(number: int) -> int:
    """As `event_time_ns` of a whole number."""
    return number * _factor(abs(number))


def _decimal_ns(text: str) -> int:
    whole, _, fraction = text.lstrip("+-").partition(".")
    factor = _factor(int(whole))
    ns = int(whole) * factor
    if fraction:
        one = 10 ** len(fraction)
        ns += (2 * int(fraction) * factor + one) // (2 * one)  # to the nearest
    if ns >= LAST_NS:
        raise ValueError(f"not a time: {text!r}")
    return -ns if text.startswith("-") else ns


def _factor(size: int) -> int:
    """Nanoseconds that one unit of a number of this size means."""
    return 10**9 if size < 10**11 else 10**6 if size < 10**14 else 10**3 if size < 10**17 else 1


def iso(ns: int) -> str:
    """``2026-03-14T09:12:00.500Z``: UTC, milliseconds only where there are any."""
    moment = _EPOCH + timedelta(microseconds=ns // 1000)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{moment.microsecond // 1000:03d}Z" if moment.microsecond >= 1000 else f"{text}Z"
