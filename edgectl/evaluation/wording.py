"""How figures are written, on a terminal and on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command's help imports this
    from edgectl.evaluation.results import Figure

NOTHING = "-"
_HOUR_NS = 3600 * 10**9


def number(value: float | None, digits: int = 3) -> str:
    """Or a dash."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """A value with the ends of its interval, as far as they are known."""
    if value is None or low is None or high is None:
        return number(value, digits)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def figure(found: Figure, digits: int = 3) -> str:
    """A figure with its interval."""
    return interval(found.value, found.low, found.high, digits)


def share(found: Figure, wide: bool = True) -> str:
    """A figure from 0 to 1 as percent; its interval if `wide`."""
    if found.value is None or found.low is None or found.high is None or not wide:
        return NOTHING if found.value is None else f"{found.value:.0%}"
    return f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]"


def delay(ns: int | None) -> str:
    """Hours, or minutes below one."""
    if ns is None:
        return NOTHING
    return f"{ns / _HOUR_NS:.1f} h" if abs(ns) >= _HOUR_NS else f"{ns / _HOUR_NS * 60:.0f} min"
