"""When the worker looks for readings again: at once, when something arrives, or when what arrives has gathered.

A reading that comes alone is scored when it comes. Where they come one after the other, each turn leaves those that
follow to gather until `max_latency` after it began, so that none lies longer than that, and a hundred readings a second
cost fifty turns and not a hundred. Where many have come, more are waiting: the next turn follows at once.
"""

from __future__ import annotations

MANY = 256
"""So many readings at once are a batch that is worth its turn."""


def gather_s(brought: int, turned_s: float, max_latency_s: float) -> float:
    """How long to let readings gather, in seconds after a turn that brought some; 0 to look again at once.

    Args:
        brought: readings in that turn.
        turned_s: how long it took.
        max_latency_s: how long a reading may lie.
    """
    return 0.0 if brought >= MANY else max(0.0, max_latency_s - turned_s)
