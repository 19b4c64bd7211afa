"""What alerts were worth, as a page and as values."""

from __future__ import annotations

import math

import msgspec
from edgectl_agent.core.units import format_duration
from edgectl_agent.core.wording import counted

from edgectl.core.evaluation import Outcome

_MINUTE_NS = 60 * 10**9


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """Faults of one kind; the delay is the median, in ns."""

    kind: str
    faults: int
    found: int
    delay_ns: int | None


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """All figures; a share of nothing is None."""

    faults: int
    found: int
    false_alerts: int
    stream_days: float
    precision: float | None
    recall: float | None
    false_per_stream_day: float | None
    slack_ns: int
    kinds: tuple[Kind, ...]

    @staticmethod
    def of(outcome: Outcome, slack_ns: int) -> Scored:
        parts = [(kind, outcome.of(kind)) for kind in outcome.kinds]
        return Scored(
            faults=outcome.faults,
            found=outcome.found,
            false_alerts=outcome.false,
            stream_days=round(outcome.stream_days, 4),
            precision=_or_none(outcome.precision),
            recall=_or_none(outcome.recall),
            false_per_stream_day=_or_none(outcome.false_per_stream_day),
            slack_ns=slack_ns,
            kinds=tuple(
                Kind(kind=kind, faults=p.faults, found=p.found, delay_ns=int(p.delay_ns) if p.found else None)
                for kind, p in parts
            ),
        )


def render(outcome: Outcome, slack_ns: int) -> str:
    """For people; says the rule in one line."""
    width = max([5, *map(len, outcome.kinds)])
    lines = [f"{'FAULT':<{width}}  FOUND     MEDIAN DELAY"]
    for kind in outcome.kinds:
        part = outcome.of(kind)
        found = f"{part.found} of {part.faults}"
        lines.append(f"{kind:<{width}}  {found:<8}  {_minutes(part.delay_ns)}")
    return "\n".join(
        [
            *lines,
            "",
            one_line(outcome),
            f"An alert belongs to a fault of its stream from the fault's start to {format_duration(slack_ns)} after "
            "its end; a fault counts once, every other alert is false.",
        ]
    )


def one_line(outcome: Outcome) -> str:
    """The three figures and what they are made of."""
    return (
        f"precision {_percent(outcome.precision)} · recall {_percent(outcome.recall)} "
        f"({outcome.found} of {counted(outcome.faults, 'fault')}) · "
        f"false alerts {outcome.false_per_stream_day:.3g} per stream-day ({outcome.false} in {outcome.stream_days:.1f} "
        "stream-days)"
    )


def _minutes(ns: float) -> str:
    return "-" if math.isnan(ns) else f"{ns / _MINUTE_NS:.1f} min"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
