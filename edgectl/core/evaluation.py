"""Alerts against labelled faults: precision, recall, false alerts per stream and day, delay.

The matching rule, by events and never by points:

* an alert belongs to a fault if its onset lies on the fault's stream, from the fault's first reading until `slack`
  after its last one; an alert that was open before a fault begins does not belong to it;
* a fault is *found* if any alert belongs to it, however many do: it counts once;
* an alert that belongs to no fault is *false*, each one;
* recall = found / faults, precision = found / (found + false), false alerts per stream-day = false / the time over
  which all streams were watched.

So one long alert cannot make up for a fault that was missed, and many alerts within one fault do not dilute a false
one elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from edgectl_agent.core.units import DAY_NS

WATCHED = "watched"
"""The kind of a period that is no fault but says that its stream was watched."""

Onset = tuple[str, int]
"""Stream, and the event time in ns at which its alert began."""


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of event time, inclusive; of all streams if `stream` is empty."""

    start_ns: int
    end_ns: int
    stream: str = ""
    kind: str = ""

    def has(self, onset: Onset, slack_ns: int = 0) -> bool:
        stream, at = onset
        return self.stream in ("", stream) and self.start_ns <= at <= self.end_ns + slack_ns


@dataclass(frozen=True, slots=True)
class Outcome:
    """What alerts were worth.

    Attributes:
        delays_ns: of each found fault, its kind, and from its start to the first onset that belongs to it.
        missed: kinds of the faults that were not found.
        false: alerts that belong to no fault.
        stream_days: for how long streams were watched, summed over them.
    """

    delays_ns: tuple[tuple[str, int], ...]
    missed: tuple[str, ...]
    false: int
    stream_days: float

    @property
    def found(self) -> int:
        return len(self.delays_ns)

    @property
    def faults(self) -> int:
        return self.found + len(self.missed)

    @property
    def recall(self) -> float:
        """NaN without faults."""
        return self.found / self.faults if self.faults else math.nan

    @property
    def precision(self) -> float:
        """NaN without alerts."""
        told = self.found + self.false
        return self.found / told if told else math.nan

    @property
    def false_per_stream_day(self) -> float:
        """NaN if nothing was watched."""
        return self.false / self.stream_days if self.stream_days else math.nan

    @property
    def delay_ns(self) -> float:
        """The median of all that was found; NaN if nothing was."""
        return float(median(delay for _, delay in self.delays_ns)) if self.delays_ns else math.nan

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted({kind for kind, _ in self.delays_ns} | set(self.missed)))

    def of(self, kind: str) -> Outcome:
        """The part about faults of one kind; false alerts belong to none and are not in it."""
        mine = tuple(one for one in self.delays_ns if one[0] == kind)
        return Outcome(mine, tuple(one for one in self.missed if one == kind), 0, self.stream_days)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.delays_ns + other.delays_ns,
            self.missed + other.missed,
            self.false + other.false,
            self.stream_days + other.stream_days,
        )


NOTHING = Outcome((), (), 0, 0.0)


def judge(faults: Sequence[Period], onsets: Iterable[Onset], stream_days: float, slack_ns: int = 0) -> Outcome:
    """Match onsets to faults by the rule above.

    Args:
        faults: labelled; they may overlap, and an onset may then belong to several.
        onsets: one per alert.
        stream_days: the time over which the onsets were collected, summed over the streams that could have alerted.
        slack_ns: how long after its last reading a fault may still be noticed: windows forget slowly.
    """
    told = list(onsets)
    delays: list[tuple[str, int]] = []
    missed: list[str] = []
    for fault in faults:
        hits = [onset[1] for onset in told if fault.has(onset, slack_ns)]
        if hits:
            delays.append((fault.kind, min(hits) - fault.start_ns))
        else:
            missed.append(fault.kind)
    false = sum(not any(fault.has(onset, slack_ns) for fault in faults) for onset in told)
    return Outcome(tuple(delays), tuple(missed), false, stream_days)


def judge_labels(labels: Sequence[Period], onsets: Iterable[Onset], slack_ns: int = 0) -> Outcome:
    """As `judge`, by labels that say which streams were `WATCHED` when; alerts of other times and streams are left out,
    as those of a warm-up or of a time before the labels begin."""
    watched = [label for label in labels if label.kind == WATCHED]
    faults = [label for label in labels if label.kind != WATCHED]
    told = [onset for onset in onsets if any(one.has(onset) for one in watched)]
    return judge(faults, told, _watched_ns(watched) / DAY_NS, slack_ns)


def _watched_ns(watched: Sequence[Period]) -> int:
    """For how long streams were watched, summed over them; where periods of a stream overlap, the time counts once."""
    total, stream, until = 0, None, 0
    for one in sorted(watched, key=lambda period: (period.stream, period.start_ns)):
        begin = one.start_ns if one.stream != stream else max(one.start_ns, until)
        end = max(begin, one.end_ns)
        total, stream, until = total + end - begin, one.stream, end
    return total
