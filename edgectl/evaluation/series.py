"""The values that all of an evaluation works on: labelled series, what a method made of them, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from edgectl_agent.core.batch import Float64, Int32, Int64
from edgectl_agent.core.bundle import Templates
from edgectl_agent.core.units import DAY_NS


@dataclass(frozen=True, slots=True)
class Window:
    """A labelled anomaly: rows `first` to `last` of its series, both inclusive."""

    first: int
    last: int

    @property
    def rows(self) -> int:
        """At least 1."""
        return self.last - self.first + 1


@dataclass(frozen=True, kw_only=True)
class Series:
    """One labelled stream, ``n`` readings of ``c`` channels in order of arrival.

    Attributes:
        name: unique within its corpus.
        channels: c names.
        time: shape (n,), ns since 1970 UTC.
        values: shape (n, c), NaN = missing.
        windows: labelled anomalies, by row, without overlap; those that end before `begin` are left out.
        begin: the first row that is scored. The rows before it are history: a recipe may be trained on them.
        codes: shape (n, k), as `Batch.codes`; None without categories.
    """

    name: str
    channels: tuple[str, ...]
    time: Int64
    values: Float64
    windows: tuple[Window, ...] = ()
    begin: int = 0
    codes: Int32 | None = None

    def __len__(self) -> int:
        return len(self.time)

    @property
    def scored_days(self) -> float:
        """For how long the stream is watched, from the first scored reading to the last."""
        return float(self.time.max() - self.time[self.begin]) / DAY_NS if self.begin < len(self) else 0.0

    @property
    def interval_ns(self) -> int:
        """Median time between two readings, at least 1."""
        return max(1, int(np.median(np.diff(self.time)))) if len(self) > 1 else 1

    @property
    def labels(self) -> Int64:
        """Shape (n,), 1 within a labelled window."""
        found = np.zeros(len(self), np.int64)
        for window in self.windows:
            found[window.first : window.last + 1] = 1
        return found


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Labelled series, and how they belong together.

    Attributes:
        name: of the corpus, as reports show it.
        together: one model is trained on the history of all series; else each series has its own.
        centred: the windows are centred on the labelled instants, as NAB's are.
        templates: what was mined of the categories.
    """

    name: str
    series: tuple[Series, ...]
    together: bool = False
    centred: bool = False
    templates: tuple[Templates, ...] = ()

    @property
    def windows(self) -> int:
        """All labelled windows."""
        return sum(len(one.windows) for one in self.series)

    @property
    def days(self) -> float:
        """Scored stream-days."""
        return sum(one.scored_days for one in self.series)


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alert: when it was raised, and until when it stayed on (event time, ns; None = to the end)."""

    raised_ns: int
    end_ns: int | None = None


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a method made of one series.

    Attributes:
        score: shape (n,), higher is stranger, NaN = not scored. Of a detector: its score in units of the threshold in
            force, so that 1 is the threshold of every stream and streams compare.
        threshold: at or above this the method calls a reading anomalous; chosen without labels.
        alarms: in order of time.
        refused: why the series could not be run; then nothing of it is scored or raised.
        raw: shape (n,), a detector's own score; `level`: shape (n,), the threshold in force. Empty for a baseline.
    """

    score: Float64
    threshold: float
    alarms: tuple[Alarm, ...]
    refused: str = ""
    raw: Float64 = field(default_factory=lambda: np.empty(0))
    level: Float64 = field(default_factory=lambda: np.empty(0))

    @property
    def own(self) -> Float64:
        """The score by which the method ranks one series' readings: `raw`, where it differs from `score`."""
        return self.raw if len(self.raw) else self.score
