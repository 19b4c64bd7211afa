"""The figures of an evaluation, as ``-o json`` prints them. Times are ns; what cannot be told is None."""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a result."""


class Figure(Value, frozen=True, kw_only=True):
    """A figure with its 95 % interval, by drawing files with replacement."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Nab(Value, frozen=True, kw_only=True):
    """NAB's score in its three profiles."""

    standard: float | None
    low_fp: float | None
    low_fn: float | None


class Method(Value, frozen=True, kw_only=True):
    """One row: the detector or a baseline, at its own threshold that needed no labels, unless it says ``best``."""

    method: str
    threshold: str
    """Who chose it."""
    false_alerts: int
    false_per_stream_day: Figure
    windows: int
    found: int
    recall: Figure
    """Of windows in which an alert was told."""
    covered: int
    """Windows during which an alarm was on, also if it was raised before."""
    delay_ns: int | None
    """Median, from the first reading of a found window to its first alert."""
    place: float | None
    """Median of where in a found window the first alert lies: 0 its start, 1 its end."""
    vus_pr: Figure
    range_precision: float | None
    range_recall: float | None
    nab: Nab
    """Of alerts: a detection is where an alert is raised."""
    nab_interval: Figure
    """Of ``nab.standard``."""
    nab_readings: Nab
    """A detection is every reading at or above the threshold."""
    nab_best: Nab
    """At the threshold that is best on these very labels, as published tables have it."""
    nab_best_at: float | None
    """That of the standard profile; of a detector in units of its own threshold."""


class Budget(Value, frozen=True, kw_only=True):
    """False alerts asked for and had, outside of labelled windows, per stream and day."""

    asked: float
    false_alerts: int
    stream_days: float
    realised: float | None
    ratio: float | None
    low: float | None
    high: float | None
    """95 % interval of the ratio, exact for a Poisson count."""
    streams: int
    within_2: int
    """Streams whose interval of the ratio reaches into 0.5 to 2."""
    above_5: int
    """Streams whose interval of the ratio lies above 5."""
    worst: str
    worst_ratio: float | None
    worst_low: float | None
    """The stream whose interval begins highest."""


class SeriesResult(Value, frozen=True, kw_only=True):
    """The detector on one series."""

    name: str
    readings: int
    scored_days: float
    windows: int
    found: int
    false_alerts: int
    alerts: int
    delay_ns: int | None
    vus_pr: float | None
    refused: str = ""


class Evaluation(Value, frozen=True, kw_only=True):
    """Everything that one run of ``edgectl evaluate`` found."""

    model: str
    corpus: str
    series: int
    windows: int
    stream_days: float
    trained_on: str
    chosen_by: str
    """Who chose the detector's threshold."""
    seed: int
    methods: tuple[Method, ...]
    budgets: tuple[Budget, ...]
    by_series: tuple[SeriesResult, ...]
    remarks: tuple[str, ...]
