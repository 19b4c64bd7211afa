"""Which of very many alike things are written down: the first ones, then ever fewer. Pure."""

from __future__ import annotations

FIRST = 10
"""Of each reason in each window."""
WINDOW_NS = 600 * 10**9


class Sampler:
    """Of each reason the first `FIRST` in a window, then the 16th, 32nd, 64th, …: a flood of one hides no other.

    A clock that steps back begins a new window.
    """

    def __init__(self) -> None:
        self._began_ns: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    def due(self, reason: str, count: int, now_ns: int) -> int:
        """How many of the `count` that have come now are to be written."""
        age_ns = now_ns - self._began_ns.get(reason, now_ns)
        if reason not in self._began_ns or not 0 <= age_ns < WINDOW_NS:
            self._began_ns[reason], self._seen[reason] = now_ns, 0
        before = self._seen[reason]
        after = self._seen[reason] = before + count
        first = max(0, min(after, FIRST) - before)
        return first + max(0, after.bit_length() - max(before, FIRST).bit_length())
