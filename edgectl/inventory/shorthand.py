"""The short forms of the command line for what fleet.yaml writes out.

``press=tail:/var/log/press.csv``, ``press=replay:press.csv@60``, ``host=host-metrics:10s``, ``press=http`` ·
``press=press,backup`` · ``line=press``
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from edgectl.core.errors import UsageError

_SOURCE = "NAME=tail:PATH, NAME=replay:PATH[@SPEED], NAME=host-metrics[:EVERY] or NAME=http"
_SPEED = re.compile(r"(.+)@(max|\d+(?:\.\d+)?)")


def source(text: str) -> tuple[str, dict[str, Any]]:
    """(name, entry of fleet.yaml) of one ``--source``. Raises `UsageError`."""
    name, kind, rest = _split(text)
    if kind == "host-metrics":
        return name, {"type": kind} | ({"every": rest} if rest else {})
    if kind == "http" and not rest:
        return name, {"type": kind}
    if kind == "tail" and rest:
        return name, {"type": kind, "path": rest}
    if kind == "replay" and rest:
        match = _SPEED.fullmatch(rest)
        path, speed = (match[1], match[2]) if match else (rest, "1")
        return name, {"type": kind, "path": path, "speed": speed if speed == "max" else float(speed)}
    raise UsageError(f"--source {text!r}: expected {_SOURCE}")


def sources(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """All ``--source`` options. Raises `UsageError`, also for a name twice."""
    return _once("--source", (source(text) for text in texts))


def models(texts: Iterable[str]) -> dict[str, list[str]]:
    """``RECIPE=SOURCE[,SOURCE…]`` → recipe → sources; ``RECIPE`` alone means the source of the same name."""

    def model(text: str) -> tuple[str, list[str]]:
        recipe, _, names = text.partition("=")
        found = [name.strip() for name in (names or recipe).split(",")]
        if not recipe or not all(found):
            raise UsageError(f"--model {text!r}: expected RECIPE=SOURCE or RECIPE=SOURCE,SOURCE")
        return recipe, found

    return _once("--model", (model(text) for text in texts))


def labels(texts: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` → label. Raises `UsageError`."""

    def label(text: str) -> tuple[str, str]:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"--label {text!r}: expected KEY=VALUE")
        return key, value

    return _once("--label", (label(text) for text in texts))


def _split(text: str) -> tuple[str, str, str]:
    name, equals, rest = text.partition("=")
    kind, _, rest = rest.partition(":")
    if not name or not equals:
        raise UsageError(f"--source {text!r}: expected {_SOURCE}")
    return name, kind, rest


def _once(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UsageError(f"{option}: {name!r} is given twice")
        found[name] = value
    return found
