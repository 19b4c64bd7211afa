"""When an errand is tried next. Pure: chance is an argument, ``u`` in [0, 1).

A fleet must not come all at once, neither after a power cut nor after its server was down: every wait is spread.
"""

from __future__ import annotations

from dataclasses import dataclass

SPREAD = 0.1
FIRST_BACK_OFF_S = 1.0
LONGEST_BACK_OFF_S = 900.0
LONGEST_RETRY_AFTER_S = 86_400.0
"""A server that asks for more is not believed."""


@dataclass(frozen=True, slots=True)
class Pace:
    """An errand is due every ``every_s`` while it succeeds."""

    every_s: float

    def first(self, u: float) -> float:
        """After the start: soon, but not with everybody else."""
        return u * min(self.every_s, 10.0)

    def success(self, u: float) -> float:
        """``every_s`` ± 10 %."""
        return self.every_s * (1.0 - SPREAD + 2.0 * SPREAD * u)

    def failure(self, failing: int, u: float, retry_after_s: float = 0.0) -> float:
        """After the ``failing``-th failure in a row (from 1): twice as long each time, up to `longest`; at least what
        the server asked for."""
        back_off = min(self.longest_s, FIRST_BACK_OFF_S * 2.0 ** min(failing - 1, 32))
        asked = min(retry_after_s, LONGEST_RETRY_AFTER_S)
        return max(back_off * (0.5 + 0.5 * u), asked * (1.0 + SPREAD * u))

    @property
    def longest_s(self) -> float:
        """Never rarer than when all is well, nor needlessly rare."""
        return max(self.every_s, min(LONGEST_BACK_OFF_S, 60.0 * self.every_s))
