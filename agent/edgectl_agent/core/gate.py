"""Whether an action fires now: lateness, then a cooldown per stream, then a token bucket for all streams. Pure.

Times are the node's clock in nanoseconds, so that they hold across restarts. A clock that was set back makes an action
wait for one cooldown, or one empty bucket, from then on: never longer, and it never fires more often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["fire", "late", "cooldown", "rate"]


@dataclass(frozen=True, slots=True)
class Rule:
    """`burst` effects at once, and `burst` more in each `per_ns`; 0 for `max_age_ns`: however old the alert is."""

    cooldown_ns: int
    burst: int
    per_ns: int
    max_age_ns: int

    @property
    def token_ns(self) -> int:
        """How long it takes until one more may fire; rounded up, so that no more than `burst` come in `per_ns`."""
        return -(-self.per_ns // self.burst)

    def late(self, event_ns: int, now_ns: int) -> bool:
        """Whether an alert of event time `event_ns` is too old to act on."""
        return bool(self.max_age_ns) and now_ns - event_ns > self.max_age_ns


@dataclass(frozen=True, slots=True)
class Decision:
    """`full_ns` is when the bucket will be full again, `last_ns` when this stream last fired (None: never)."""

    verdict: Verdict
    full_ns: int
    last_ns: int | None


def decide(rule: Rule, full_ns: int, last_ns: int | None, event_ns: int, now_ns: int) -> Decision:
    """Decide on an alert of event time `event_ns`; the other times are as the last `Decision` had them."""
    capacity_ns = rule.token_ns * rule.burst
    full_ns = min(full_ns, now_ns + capacity_ns)
    last_ns = None if last_ns is None else min(last_ns, now_ns)
    if rule.late(event_ns, now_ns):
        return Decision("late", full_ns, last_ns)
    if last_ns is not None and now_ns - last_ns < rule.cooldown_ns:
        return Decision("cooldown", full_ns, last_ns)
    after_ns = max(full_ns, now_ns) + rule.token_ns
    if after_ns - now_ns > capacity_ns:
        return Decision("rate", full_ns, last_ns)
    return Decision("fire", after_ns, now_ns)
