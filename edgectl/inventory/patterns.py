"""Names for many nodes in one line: ``press-[01-40]``, ``gw-[a,b]-[1-3]``, ``pi-[01-10,15]``. Pure.

In brackets stand ranges of numbers and words, separated by commas; several brackets give every combination, the first
one varying slowest. A range with leading zeros keeps its width, so that ``[01-40]`` is 01, 02, … 40.
"""

from __future__ import annotations

import math
import re
from itertools import product

from edgectl.core.errors import ConfigError

MOST = 100_000
"""Names that one pattern may stand for: a range with a digit too many must not fill the memory."""

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"(\d+)-(\d+)")
_WORD = re.compile(r"[A-Za-z0-9._]+")


def is_pattern(text: str) -> bool:
    """Whether `text` stands for more than itself."""
    return "[" in text or "]" in text


def expand(text: str) -> tuple[str, ...]:
    """Every name that `text` stands for, in the order of the pattern; `text` itself if it has no brackets.

    Raises:
        ConfigError: brackets that do not pair or hold something else, a range that runs backwards or changes its
            width, a name twice, more than `MOST` names.
    """
    if not is_pattern(text):
        return (text,)
    parts = _BRACKETS.split(text)
    choices = [_choices(text, part) if i % 2 else range(1) for i, part in enumerate(parts)]
    count = math.prod(len(choice) for choice in choices)
    if count > MOST:
        raise ConfigError(f"pattern {text!r} stands for {count:,} names, expected at most {MOST:,}")
    if any(is_pattern(literal) for literal in parts[::2]):
        raise ConfigError(f"pattern {text!r}: expected brackets in pairs, such as press-[01-40]")
    spelled = [_spelled(part) if i % 2 else (part,) for i, part in enumerate(parts)]
    names = tuple("".join(chosen) for chosen in product(*spelled))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"pattern {text!r} stands for {twice!r} twice")
    return names


def _choices(text: str, part: str) -> range:
    """As many as `part` has choices, without spelling them."""
    count = 0
    for item in part.split(","):
        found = _RANGE.fullmatch(item.strip())
        if found is None:
            if not _WORD.fullmatch(item.strip()):
                raise ConfigError(
                    f"pattern {text!r}: expected numbers such as [01-40] or words such as [a,b] in brackets, "
                    f"found [{part}]"
                )
            count += 1
            continue
        first, last = found[1], found[2]
        if int(first) > int(last):
            raise ConfigError(f"pattern {text!r}: range {item.strip()} runs backwards")
        if len(first) != len(last) and (first.startswith("0") or last.startswith("0")):
            raise ConfigError(f"pattern {text!r}: expected {item.strip()} with numbers of equal width, such as 01-40")
        count += int(last) - int(first) + 1
    return range(count)


def _spelled(part: str) -> tuple[str, ...]:
    names: list[str] = []
    for item in (item.strip() for item in part.split(",")):
        found = _RANGE.fullmatch(item)
        if found is None:
            names.append(item)
        else:
            width = len(found[1]) if found[1].startswith("0") else 0
            names += [f"{n:0{width}}" for n in range(int(found[1]), int(found[2]) + 1)]
    return tuple(names)
