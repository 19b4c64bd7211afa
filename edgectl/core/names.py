"""What to say when a name fits nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from edgectl.core.errors import NothingMatched


def closest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'a' or 'b'?``, or what there is, or that there is nothing."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    if not names:
        return "there is none yet"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"known: {', '.join(names[:8])}{more}"


def unknown(kind: str, name: str, known: Iterable[str], first: str = "") -> NothingMatched:
    """The error for a `kind` (node, model, alert) that does not exist; `first` is the command that makes the first."""
    names = tuple(known)
    more = f": {first}" if first and not names else ""
    return NothingMatched(f"unknown {kind} {name!r}", hint=f"{closest(name, names)}{more}")
