"""How long the store keeps what nobody needs any more. Pure; `edgectl.store.prune` carries it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
from edgectl_agent.core.units import DAY_NS

from edgectl.core.records import RolloutRecord
from edgectl.core.rollout import OPEN, RESUMABLE


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """Ages in nanoseconds; `rollouts` is a number."""

    alerts_ns: int = 90 * DAY_NS
    """Cleared alerts; critical ones only once somebody acknowledged them."""
    reports_ns: int = 30 * DAY_NS
    """The history of reports (the newest of each node always stays), and answered or expired orders."""
    findings_ns: int = 90 * DAY_NS
    """What an audit found and a later one saw resolved."""
    actions_ns: int = 365 * DAY_NS
    """Who did what; assignments that no kept rollout made; tokens that are revoked or expired."""
    rollouts: int = 50
    """Finished rollouts per recipe, with their plans and journals."""
    rollouts_ns: int = 0
    """Only finished rollouts older than this go."""

    def older_than(self, age_ns: int) -> Retention:
        """The same age for everything; of the finished rollouts, all that are older and not their recipe's newest."""
        return Retention(
            alerts_ns=age_ns, reports_ns=age_ns, findings_ns=age_ns, actions_ns=age_ns, rollouts=1, rollouts_ns=age_ns
        )


def disposable(
    newest_first: Iterable[RolloutRecord], keep: Retention, now_ns: int, needed: frozenset[int]
) -> tuple[int, ...]:
    """Numbers of the rollouts that may go.

    Those that are open, or can be resumed, stay; so do those in `needed` (they made the assignment in force), the
    newest of each recipe (a deployment asks it where nodes return to), and the newest of all: its number must not be
    given again.
    """
    seen: Counter[str] = Counter()
    gone = []
    for i, rollout in enumerate(newest_first):
        seen[rollout.recipe] += 1
        if rollout.state in OPEN | RESUMABLE or rollout.number in needed or i == 0:
            continue
        beyond = seen[rollout.recipe] > max(1, keep.rollouts)
        if beyond and now_ns - rollout.changed_ns > keep.rollouts_ns:
            gone.append(rollout.number)
    return tuple(gone)
