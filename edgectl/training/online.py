"""A recipe of the estimator ``online`` → its bundle and report: there is nothing to fit, so no data is needed.

The bundle holds the recipe, the detector's constants, and golden vectors: a made-up series with what the detector says
of it. With a history the bundle is the same; the history is replayed through the node's own detector from its first
reading on, and the report says what a node would have alerted on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from edgectl_agent.core.batch import Batch, StreamTable
from edgectl_agent.core.bundle import Bundle, Records, Scaler, Tail, digest, encode
from edgectl_agent.core.features import feature_names
from edgectl_agent.core.online import OnlineDetector, golden_vectors, no_model
from edgectl_agent.core.units import SECOND_NS, iso
from edgectl_agent.core.wording import counted

from edgectl.core.errors import ConfigError
from edgectl.periods import read_periods
from edgectl.training import faults, quantize, summary
from edgectl.training.pipeline import Built, Progress
from edgectl.training.recipe import Recipe
from edgectl.training.replay import Replay, replay
from edgectl.training.report import (
    AlertNumbers,
    DataNumbers,
    FaultNumbers,
    Value,
    VariantNumbers,
    about,
    faults_table,
    rate,
    variants_table,
    wrapped,
)
from edgectl.training.split import split
from edgectl.training.tables import Table

_UNIT_MEAN = 1 / math.log(10)
"""Of what a surprise exceeds a level by: its tail is exponential by definition, 10 ** -surprise."""
_LONE = 400


class OnlineReport(Value, frozen=True, kw_only=True):
    """Everything about a bundle that learns on the node; `data`, `alerts` and `faults` if a history was replayed."""

    recipe: str
    estimator: str
    features: tuple[str, ...]
    warm_up: int
    """Readings."""
    budget_per_day: float
    critical_per_day: float
    data: DataNumbers | None = None
    alerts: AlertNumbers | None = None
    faults: tuple[FaultNumbers, ...] = ()
    variants: tuple[VariantNumbers, ...]


@dataclass(frozen=True)
class Made:
    """What there is to register; `held` and `table` if a history was replayed."""

    recipe: Recipe
    built: tuple[Built, ...]
    report: OnlineReport
    held: Replay | None = None
    table: Table | None = None


def make(
    recipe: Recipe,
    table: Table | None = None,
    *,
    files: tuple[str, ...] = (),
    seed: int | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Made:
    """The bundle of a recipe; with a history, what a node would have made of it.

    Args:
        recipe: of the estimator ``online``.
        table: the history.
        files: names for the report.
        seed: of the synthetic faults, instead of the recipe's.
        progress: as `pipeline.train` has it.

    Raises:
        ConfigError: a reading takes longer than the recipe's limit.
    """
    bundle = bundle_of(recipe)
    raw = encode(bundle)
    p50, p99 = _latency(bundle)
    if recipe.max_p99_us is not None and p99 > recipe.max_p99_us:
        raise ConfigError(
            f"no variant of {recipe.name} is within the recipe's limits (a reading takes {p99:.0f} µs, "
            f"ship.latency_p99 is {recipe.max_p99_us:.0f} µs)"
        )
    sha256 = digest(raw)
    numbers = [
        VariantNumbers(
            variant="fp32", kept=True, why="the detector itself", bundle_bytes=len(raw), sha256=sha256,
            p50_us=round(p50, 1), p99_us=round(p99, 1),
        )
    ]  # fmt: skip
    numbers += [
        VariantNumbers(variant=variant, kept=False, why=quantize.why_not("online", variant))
        for variant in recipe.variants
        if variant != "fp32"
    ]
    held = alerts = data = None
    found: tuple[FaultNumbers, ...] = ()
    if table is not None:
        data = summary.data(recipe, table, files, recipe.every_ns or max(table.interval_ns, 1))
        held, alerts, found = _replayed(recipe, bundle, table, recipe.seed if seed is None else seed, progress)
    page = OnlineReport(
        recipe=recipe.name,
        estimator=recipe.estimator,
        features=bundle.feature_names,
        warm_up=_constants(recipe).warm_up,
        budget_per_day=recipe.budget.warning_per_day,
        critical_per_day=recipe.budget.critical_per_day,
        data=data,
        alerts=alerts,
        faults=found,
        variants=tuple(numbers),
    )
    return Made(recipe, (Built("fp32", raw, sha256, p99),), page, held, table)


def bundle_of(recipe: Recipe) -> Bundle:
    """The bundle, which depends on the recipe alone."""
    names = feature_names(recipe.features)
    width = len(names)
    return Bundle(
        recipe=recipe.name,
        estimator="online",
        variant="fp32",
        features=recipe.features,
        feature_names=names,
        scaler=Scaler(center=(0.0,) * width, scale=(1.0,) * width),
        tail=Tail(
            base=1.0, base_fraction=0.1, weight=1000.0, excesses=100.0, excess_mean=_UNIT_MEAN,
            excess_square=2 * _UNIT_MEAN**2, interval_ns=recipe.every_ns or 60 * SECOND_NS,
        ),
        budget=recipe.budget,
        rule=recipe.rule,
        adaptation=recipe.adaptation,
        golden=golden_vectors(_constants(recipe), width),
        model=b"",
        online=_constants(recipe),
    )  # fmt: skip


def render(report: OnlineReport) -> str:
    """The page: plain text."""
    d, a = report.data, report.alerts
    lines = [
        f"{report.recipe}: {report.estimator}, {counted(len(report.features), 'feature')}, learns on the node",
        "",
        *wrapped("FEATURES  ", report.features),
        f"WARM-UP   {report.warm_up} readings of a channel; until then it is not judged",
        f"BUDGET    warning {rate(report.budget_per_day)} · critical {rate(report.critical_per_day)} "
        "(false alerts per stream)",
    ]
    if d is not None and a is not None:
        lines += [
            f"DATA      {d.readings:,} readings of {counted(d.streams, 'stream')}, {iso(d.first_ns)} to "
            f"{iso(d.last_ns)}, every {about(d.interval_ns)}",
            f"ALERTS    replayed from the first reading on: {a.alerts} in {a.stream_days:.1f} stream-days = "
            f"{a.per_day:.2f} per stream and day, {a.critical} critical",
            "",
            *faults_table(report.faults),
        ]
    return "\n".join([*lines, "", *variants_table(report.variants)]) + "\n"


def _constants(recipe: Recipe) -> Records:
    assert recipe.online is not None, "of the estimator online"
    return recipe.online


def _replayed(
    recipe: Recipe, bundle: Bundle, table: Table, seed: int, progress: Progress
) -> tuple[Replay, AlertNumbers, tuple[FaultNumbers, ...]]:
    """What a node would have said of the history, and of its last part with synthetic faults in it."""
    known = read_periods(recipe.exclude, "train.exclude of the recipe") if recipe.exclude else ()
    whole, later = split(table, 0.0, known), split(table, recipe.fit_share, known)
    held = replay(bundle, no_model, table, whole, _ticker("history", len(table), progress))
    window_ns = max(recipe.longest_window_ns, _constants(recipe).warm_up * max(table.interval_ns, 1) // 10)
    planned = faults.plan(table, later.cut, window_ns, seed)
    faulty = faults.inject(table, planned, recipe.features.channels, 1.0)
    seen = replay(bundle, no_model, faulty, whole, _ticker("faults", len(table), progress))
    found = faults.judge(planned, seen.onsets, window_ns)
    return held, summary.alerts(recipe, table, whole, held), summary.found(found)


def _ticker(name: str, total: int, progress: Progress) -> Callable[[int], None]:
    done = 0

    def tick(rows: int) -> None:
        nonlocal done
        done += rows
        progress(f"replay {name}", done, total)

    return tick


def _latency(bundle: Bundle) -> tuple[float, float]:
    """(p50, p99) in µs of one reading alone through the node's detector, after the warm-up; processor time."""
    detector = OnlineDetector(bundle, node="training", version="", digest="", streams=StreamTable(["s"]))
    channels = len(bundle.features.channels)
    rng, spent = np.random.default_rng(0), []
    n = _LONE + (bundle.golden.rows if channels else 0)
    values = rng.normal(0, 1e-3, (n, channels)) + [_middle(c.low, c.high) for c in bundle.features.channels]
    for i in range(n):
        at = np.array([i * bundle.tail.interval_ns])
        one = Batch(np.zeros(1, np.int32), at, values[i : i + 1])
        began = time.thread_time_ns()
        detector.process(one, 0, 0)
        spent.append(time.thread_time_ns() - began)
    p50, p99 = np.percentile(spent[-_LONE:], [50, 99]) / 1e3
    return float(p50), float(p99)


def _middle(low: float | None, high: float | None) -> float:
    if low is None or high is None:
        return low if low is not None else high if high is not None else 0.0
    return (low + high) / 2
