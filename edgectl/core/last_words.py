"""The last lines of an agent's log, as the end of a sentence. No I/O."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

LONGEST_LINE = 160
_ENDS = "; its log ends: "


def ending(lines: Sequence[str]) -> str:
    """``; its log ends: …`` for the end of a sentence; empty without lines."""
    return f"{_ENDS}{' | '.join(dict.fromkeys(map(spoken, lines)))}" if lines else ""


def retold(sentence: str) -> str:
    """A sentence whose ending a machine wrote, with the lines in it as `ending` has them."""
    said, ends, lines = sentence.partition(_ENDS)
    return f"{said.rstrip()}{ending(lines.split(' | ') if ends else ())}"


def spoken(line: str) -> str:
    """The sentence of a JSON log line, or the line; never longer than `LONGEST_LINE`."""
    with contextlib.suppress(ValueError, RecursionError):
        entry: Any = json.loads(line)
        if isinstance(entry, dict) and "event" in entry:
            hidden = ("time", "level", "event", "exception", "node", "boot")
            facts = " ".join(f"{k}={v}" for k, v in entry.items() if k not in hidden and v not in ("", None, []))
            line = f"{entry['event']} {facts}"
    line = line.strip()
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"
