"""What a training run found → the numbers of its report. Pure."""

from __future__ import annotations

import math

import numpy as np
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.bundle import Bundle
from edgectl_agent.core.detector import thresholds
from edgectl_agent.core.features import STATUS, Int8
from edgectl_agent.core.units import DAY_NS, format_duration

from edgectl.training import faults, report
from edgectl.training.recipe import Recipe
from edgectl.training.replay import Replay
from edgectl.training.split import Split
from edgectl.training.tables import Table


def data(recipe: Recipe, table: Table, files: tuple[str, ...], interval_ns: int) -> report.DataNumbers:
    """What was read."""
    gaps = 0
    if recipe.features.gap_after_ns:
        order = np.argsort(table.stream, kind="stable")
        same = np.diff(table.stream[order]) == 0
        gaps = int((same & (np.diff(table.event_time[order]) > recipe.features.gap_after_ns)).sum())
    return report.DataNumbers(
        files=files,
        readings=len(table),
        streams=len(table.streams),
        first_ns=int(table.event_time[0]),
        last_ns=int(table.event_time[-1]),
        interval_ns=interval_ns,
        gaps=gaps,
    )


def parts(table: Table, cut: Split, status: Int8, fit: int, held: int) -> report.SplitNumbers:
    """How the readings were divided, and why some were not used."""
    counts = np.bincount(status, minlength=len(STATUS))
    return report.SplitNumbers(
        fit=fit,
        held=held,
        cut_ns=int(table.event_time[cut.cut]),
        excluded=int(cut.known.sum()),
        not_scored={name: int(c) for name, c in zip(STATUS[1:], counts[1:], strict=True) if c},
    )


def scores(raw: Float64, bundle: Bundle) -> report.ScoreNumbers:
    """Quantiles of the held-out scores, and the thresholds of a stream that has just begun."""
    some = raw[np.isfinite(raw)]
    median, p99, p999 = (float(v) for v in np.percentile(some, [50, 99, 99.9]))
    warning, critical = thresholds(bundle).calibrated
    return report.ScoreNumbers(
        median=median, p99=p99, p999=p999, highest=float(some.max()), warning=warning, critical=critical
    )


def alerts(recipe: Recipe, table: Table, cut: Split, held: Replay) -> report.AlertNumbers:
    """What the clean replay alerted on."""
    days = 0.0
    for stream in range(len(table.streams)):
        time = table.event_time[cut.cut :][table.stream[cut.cut :] == stream]
        days += float(time[-1] - time[0]) / DAY_NS if len(time) else 0.0
    return report.AlertNumbers(
        budget_per_day=recipe.budget.warning_per_day,
        critical_per_day=recipe.budget.critical_per_day,
        stream_days=round(days, 3),
        alerts=len(held.episodes),
        critical=sum(e.severity == "critical" for e in held.episodes),
        per_day=round(len(held.episodes) / days, 4) if days else 0.0,
    )


def found(kinds: tuple[faults.Found, ...]) -> tuple[report.FaultNumbers, ...]:
    """Recall and delay by kind of synthetic fault."""
    return tuple(
        report.FaultNumbers(
            kind=f.kind,
            size=faults.SIZES[f.kind],
            injected=f.injected,
            found=f.found,
            delay_ns=None if math.isnan(f.delay_ns) else round(f.delay_ns),
        )
        for f in kinds
    )


def remarks(recipe: Recipe, table: Table, strength: float) -> tuple[str, ...]:
    """What an operator should look at before signing."""
    said = []
    join, found = recipe.features.join, table.interval_ns
    if join:
        waits = report.about(join.idle_ns + recipe.features.lateness)
        members = ", ".join(member.streams for member in join.members)
        said.append(
            f"the readings are rows joined from {members}; a node waits for the slowest of these, up to {waits}"
        )
    if recipe.every_ns and found and not recipe.every_ns / 2 <= found <= recipe.every_ns * 2:
        said.append(
            f"the data has a reading every {report.about(found)}, the recipe says {format_duration(recipe.every_ns)}: "
            "windows will hold other counts on the node than in training"
        )
    if strength > 1:
        said.append(
            f"less than half of the synthetic faults were found at the stated sizes; variants were compared on faults "
            f"{strength:g} times as large"
        )
    if table.span_ns < DAY_NS:
        said.append(
            f"the data spans {report.about(table.span_ns)}, so a daily rhythm is unknown to the model and the expected "
            "rate of false alerts is extrapolated"
        )
    return tuple(said)
