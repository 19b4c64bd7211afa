"""What a node's clock can vouch for: the latest time that it may be now, so that a reading beyond is from the future.

A clock that is wrong must not refuse readings that are right. So this errs on the late side:

* a clock before 2025 was never set: nothing can be told, nor by one that is earlier than the last snapshot's;
* a clock that is set back is not believed for a day: until then time goes on from where it was;
* a clock that was set ahead is believed, as one is after a start in 1970; if it then returns to where it would have
  been, that is taken back at once.

It decides about future readings alone. Windows, idle streams and alerts look at event times and never at the clock.
"""

from __future__ import annotations

from edgectl_agent.core.units import DAY_NS, SECOND_NS

FIRST_NS = 1_735_689_600 * SECOND_NS
"""2025-01-01: a clock before it was never set."""
_STEP_NS = 600 * SECOND_NS
"""More than clocks drift between two looks."""


class ClockWatch:
    """Looks at the wall clock beside the monotonic one."""

    def __init__(self) -> None:
        self._ahead: int | None = None
        """What the wall clock is ahead of the monotonic one, as it is believed; None: nothing is known."""
        self._before: int | None = None
        """The same before the last step forward."""
        self._behind_since_ns: int | None = None
        self._floor_ns = 0
        self._latest_ns = 0

    def latest_ns(self, wall_ns: int, monotonic_ns: int) -> int | None:
        """The latest time that it may be; None where that cannot be told."""
        if not self._believes(wall_ns, monotonic_ns) or self._ahead is None:
            return None
        self._latest_ns = self._ahead + monotonic_ns
        return self._latest_ns

    def snapshot(self) -> int:
        """The latest time seen."""
        return max(self._latest_ns, self._floor_ns)

    def restore(self, latest_ns: int) -> None:
        """Time does not run back behind what `snapshot` said."""
        self._floor_ns = latest_ns

    def _believes(self, wall_ns: int, monotonic_ns: int) -> bool:
        """Take a look; whether anything can be told."""
        ahead = wall_ns - monotonic_ns
        if self._ahead is None:
            credible = wall_ns >= max(FIRST_NS, self._floor_ns) or (wall_ns >= FIRST_NS and self._waited(monotonic_ns))
            if credible:
                self._ahead, self._behind_since_ns = ahead, None
            return credible
        if ahead >= self._ahead:
            if ahead > self._ahead + _STEP_NS:
                self._before = self._ahead
            self._ahead, self._behind_since_ns = ahead, None
        elif self._returns(ahead) or (wall_ns >= FIRST_NS and self._waited(monotonic_ns)):
            self._ahead, self._before, self._behind_since_ns = ahead, None, None
        return True

    def _returns(self, ahead: int) -> bool:
        """Whether the last step forward is undone."""
        return self._before is not None and abs(ahead - self._before) <= _STEP_NS

    def _waited(self, monotonic_ns: int) -> bool:
        """Whether the clock has been behind for a day."""
        if self._behind_since_ns is None:
            self._behind_since_ns = monotonic_ns
        return monotonic_ns - self._behind_since_ns > DAY_NS
