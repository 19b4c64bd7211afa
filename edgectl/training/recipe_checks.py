"""How a recipe's keys are checked: each failure is one sentence ``key: expected …, found …``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edgectl_agent.core.units import duration_ns

from edgectl.core.errors import ConfigError

T = TypeVar("T")


def wrong(key: str, expected: str, found: str) -> ConfigError:
    """The error for the value at `key`."""
    return ConfigError(f"{key}: expected {expected}, found {found}")


def once(key: str, names: tuple[T, ...]) -> tuple[T, ...]:
    """`names`, if each is there once."""
    for name in names:
        if names.count(name) > 1:
            raise wrong(key, "each name once", f"{name!r} twice")
    return names


def duration(key: str, text: str, zero: bool = False) -> int:
    """Nanoseconds; 0 only if `zero`."""
    ns = at(key, duration_ns, text)
    if ns == 0 and not zero:
        raise wrong(key, "a duration above zero", repr(text))
    return ns


def at(key: str, parse: Callable[[str], T], text: str) -> T:
    """What `parse` makes of `text`; its error names `key`."""
    try:
        return parse(text)
    except ConfigError as e:
        raise ConfigError(f"{key}: {e.message}") from e
