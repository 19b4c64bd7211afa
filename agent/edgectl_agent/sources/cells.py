"""Single cells → numbers, times, stream names and texts; what `decode` falls back to, and its fast path for times.

A function here answers with the value or with the reason for refusing it; none raises on what a device sends.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, cast

import numpy as np

from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.units import LAST_NS, epoch_ns, event_time_ns, whole_ns

Time = str | int | float


class Reasons(dict[int, str]):
    """Why records are refused, by their index; ``""`` while nothing is wrong. The first reason found stays."""

    def __missing__(self, index: int) -> str:
        return ""


MAX_STREAM_CHARS = 200
MAX_TEXT_CHARS = 1000
_FEW = 6
"""So many cells are converted sooner one by one."""
_BOUNDS = np.array([10**11, 10**14, 10**17], np.int64)
"""Below the first a number of this size means seconds, then milliseconds, microseconds, at last nanoseconds."""
_MAGNITUDES = _BOUNDS.astype(np.float64)
_FACTORS = np.array([10**9, 10**6, 10**3, 1], np.int64)
_LARGEST = np.iinfo(np.int64).max
_NINE = 9
_EXACT = 2.0**53
"""Below it a float holds every whole number."""
_LIMITS = -(-LAST_NS // _FACTORS)
"""Whole numbers of each size from which on that is so."""


def number(cell: str) -> float | str:
    """A cell's number, NaN for a missing one, or the reason why it is neither."""
    text = cell.strip()
    if text in ("", "null"):
        return math.nan
    if not text.isascii() or "_" in text:  # float() reads both, no device means them
        return "not-a-number"
    try:
        number = float(text)
    except ValueError:
        return "not-a-number"
    return number if math.isfinite(number) else "not-finite"


def numbers(cells: Sequence[Any], why: Reasons) -> Float64:
    """A channel's cells, text or numbers, NaN for a missing one; notes in `why` where a cell is neither."""
    found = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells):
        one = number(cell) if isinstance(cell, str) else float(cell)
        if isinstance(one, str):
            why[i] = why[i] or one
        else:
            found[i] = one
    return found


def stream_name(name: str | int) -> str:
    """The stream that a cell names; empty if it cannot be one."""
    if isinstance(name, int):
        return str(name) if abs(name) < 1 << 64 else ""
    name = name.strip()
    return name if len(name) <= MAX_STREAM_CHARS and name.isprintable() else ""


def texts(cells: Sequence[Any], why: Reasons) -> tuple[str, ...]:
    """A category's cells as text without surrounding blanks, ``""`` for a missing one; notes in `why` what is too long.

    Numbers and truth values are spelled as JSON does, so that a category means the same in every format.
    """
    try:
        found = tuple(map(str.strip, cells))
    except TypeError:  # something among them is not text
        found = tuple(map(text, cells))
    if max(map(len, found), default=0) > MAX_TEXT_CHARS:
        for i, one in enumerate(found):
            if len(one) > MAX_TEXT_CHARS:
                why[i] = why[i] or "bad-category"
    return found


def refuse_other_units(found: Sequence[str], unit: str, why: Reasons) -> None:
    """Notes in `why` which records say another unit than `unit`; one that says none has the source's."""
    if set(found) <= {unit, ""}:
        return
    for i, one in enumerate(found):
        if one not in (unit, ""):
            why[i] = why[i] or "unit-mismatch"


def text(cell: str | int | bool | None) -> str:
    """One value of a category as its text."""
    if cell is None:
        return ""
    return cell.strip() if isinstance(cell, str) else str(cell).lower()


def times(raw: Sequence[Time], zone: tzinfo, why: Reasons) -> Int64:
    """Event times in ns, by the rules of `event_time_ns`; notes in `why` where a cell is no time.

    Whole numbers and text are exact. A number with a fraction has a float's precision: 0.24 µs for seconds of today.
    """
    if len(raw) > _FEW:
        whole = _whole(raw)
        if whole is not None:
            return _whole_ns(whole, why)
        numbers = _as_floats(raw)
        if numbers is not None and (np.abs(numbers) < _EXACT).all():
            return _float_ns(numbers, why)
        decimals = _decimals(raw) if isinstance(raw[0], str) else None
        if decimals is not None:
            return _decimal_ns(*decimals, why)
        known = {cell: _time(cell, zone) for cell in dict.fromkeys(raw)}
        found = [known[cell] for cell in raw]
    else:
        found = [_time(cell, zone) for cell in raw]
    for i, one in enumerate(found):
        if one is None:
            why[i] = why[i] or "bad-time"
    return np.array([one or 0 for one in found], np.int64)


def _whole(raw: Sequence[Time]) -> Int64 | None:
    """None where something among them is no whole number."""
    try:
        return np.array(array("q", cast(Sequence[int], raw)), np.int64)  # usually all are
    except (TypeError, OverflowError):
        pass
    if not isinstance(raw[0], str):
        return None
    try:
        "".join(cast(Sequence[str], raw))  # all are text: int() would cut a number's fraction off
        return np.array(array("q", map(int, cast(Sequence[str], raw))), np.int64)
    except (TypeError, ValueError, OverflowError):
        return None


def _as_floats(raw: Sequence[Time]) -> Float64 | None:
    """None where something among them is no number but text."""
    try:
        return np.array(array("d", cast(Sequence[float], raw)), np.float64)
    except (TypeError, OverflowError):
        return None


def _decimals(raw: Sequence[Time]) -> tuple[Int64, Int64, Int64] | None:
    """Of digits, a point at the same place in all, and at most nine digits: what is before and behind the point, and
    how many digits that is. None where something among them is anything else."""
    try:
        texts = cast(Sequence[str], raw)
        point = texts[0].find(".")
        heads, tails = [text[:point] for text in texts], [text[point + 1 :] for text in texts]
        digits = np.fromiter(map(len, tails), np.int64, len(tails))
        points = "".join([text[point : point + 1] for text in texts])
        every = "".join(heads) + "".join(tails)
        if points != "." * len(texts) or not (every.isascii() and every.isdigit()) or not 0 < digits.max() <= _NINE:
            return None
        return np.array(array("q", map(int, heads)), np.int64), np.array(array("q", map(int, tails)), np.int64), digits
    except (TypeError, ValueError, OverflowError):
        return None


def _decimal_ns(whole: Int64, fraction: Int64, digits: Int64, why: Reasons) -> Int64:
    """`event_time_ns` of such texts."""
    factor, one = _FACTORS[np.searchsorted(_BOUNDS, whole, "right")], 10**digits
    rest: Int64 = (2 * fraction * factor + one) // (2 * one)
    return _whole_ns(whole, why) + rest


def _whole_ns(numbers: Int64, why: Reasons) -> Int64:
    """The whole numbers' half of `event_time_ns` for an array."""
    size = np.abs(numbers)
    least, most = np.searchsorted(_BOUNDS, (size.min(initial=_LARGEST), size.max(initial=0)), "right")
    place = least if least == most else np.searchsorted(_BOUNDS, size, "right")
    beyond = (size >= _LIMITS[place]) | (numbers == np.iinfo(np.int64).min)
    if beyond.any():
        why.update(dict.fromkeys(np.flatnonzero(beyond).tolist(), "bad-time"))
        numbers = np.where(beyond, 0, numbers)
    found: Int64 = numbers * _FACTORS[place]
    return found


def _float_ns(numbers: Float64, why: Reasons) -> Int64:
    """`epoch_ns` of each."""
    size = np.abs(numbers)
    least, most = np.searchsorted(_MAGNITUDES, (size.min(initial=np.inf), size.max(initial=0.0)), "right")
    place = least if least == most else np.searchsorted(_MAGNITUDES, size, "right")
    factor = _FACTORS[place]
    whole = np.trunc(numbers)
    fits = np.abs(whole * factor) <= LAST_NS
    part = np.where(fits, numbers - whole, 0.0)
    ns: Int64 = np.where(fits, whole, 0.0).astype(np.int64) * factor + np.rint(part * factor).astype(np.int64)
    beyond = ~fits | (np.abs(ns) >= LAST_NS)
    if beyond.any():
        why.update(dict.fromkeys(np.flatnonzero(beyond).tolist(), "bad-time"))
    return ns


def _time(cell: Time, zone: tzinfo) -> int | None:
    """One event time in ns, or None. Text without an offset is local time in `zone`."""
    try:
        if isinstance(cell, int):
            ns = whole_ns(cell)
        elif isinstance(cell, float):
            ns = epoch_ns(cell)
        else:
            ns = event_time_ns(_with_offset(cell, zone))
    except (ValueError, OverflowError):
        return None
    return ns if abs(ns) < LAST_NS else None


def _with_offset(text: str, zone: tzinfo) -> str:
    if zone is UTC:
        return text
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return text
    return text if moment.tzinfo else moment.replace(tzinfo=zone).isoformat()
