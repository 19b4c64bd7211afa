"""When the worker looks for readings again: at once, when something arrives, or when what arrives has gathered.

A reading that comes alone is scored when it comes. Where they come one after the other, those that come within
`max_latency` after the first that waits are read together, so that none lies longer than that, and a hundred readings a
second cost some thirty turns. Where nobody knows when the first one came, because the source must be looked at (a file
on a network's file system), it counts from the begin of the turn that could not see it. Where `MANY` have come, more
are waiting: the next turn follows at once.
"""

from __future__ import annotations

MANY = 256
"""So many readings at once are a batch that is worth its turn."""


def left_s(since_s: float, now_s: float, max_latency_s: float) -> float:
    """How long readings may go on to gather, in seconds; 0 if the first one may not wait any longer.

    Args:
        since_s: when the first one came, or the last look at its source began.
        now_s: by the same clock.
        max_latency_s: how long a reading may lie.
    """
    return min(max(0.0, since_s + max_latency_s - now_s), max_latency_s)
