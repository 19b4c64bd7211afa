"""The life cycle of an update on a node, as one table; an illegal event raises and changes nothing.

::

    idle ──requested──▶ verifying ──verified──▶ staging ──staged──▶ prepared ──committing──▶ committing ──done──▶ idle
      └───reverting───▶ deciding ───permitted─────────────────────────┘

``refused``, ``failed`` and ``abandoned`` lead back to idle from wherever they can happen: what ran keeps running until
``committing`` is done, so a crash in any state is a restart in ``idle``. A newer request supersedes what is prepared.
"""

from __future__ import annotations

from typing import Literal

State = Literal["idle", "verifying", "staging", "deciding", "prepared", "committing"]
Event = Literal[
    "requested",
    "reverting",
    "verified",
    "unchanged",
    "refused",
    "staged",
    "permitted",
    "committing",
    "abandoned",
    "done",
    "failed",
]

TRANSITIONS: dict[State, dict[Event, State]] = {
    "idle": {"requested": "verifying", "reverting": "deciding"},
    "verifying": {"verified": "staging", "unchanged": "idle", "refused": "idle", "failed": "idle"},
    "staging": {"staged": "prepared", "failed": "idle"},
    "deciding": {"permitted": "prepared", "failed": "idle"},
    "prepared": {
        "requested": "verifying",
        "reverting": "deciding",
        "committing": "committing",
        "abandoned": "idle",
    },
    "committing": {"done": "idle", "failed": "idle"},
}


class IllegalEvent(ValueError):
    """A mistake of ours: this event cannot happen in this state."""


def after(state: State, event: Event) -> State:
    """The state that `event` leads to from `state`. Raises `IllegalEvent` where the table has no entry."""
    found = TRANSITIONS[state].get(event)
    if found is None:
        raise IllegalEvent(f"{event!r} cannot happen while an update is {state!r}")
    return found
