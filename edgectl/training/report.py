"""The numbers of one training run, and the page that people read. The same values are the JSON of ``-o json``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from edgectl_agent.core.units import format_duration, iso
from edgectl_agent.core.wording import counted


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a report."""


class DataNumbers(Value, frozen=True, kw_only=True):
    """What was read. Times are ns since 1970 UTC."""

    files: tuple[str, ...]
    readings: int
    streams: int
    first_ns: int
    last_ns: int
    interval_ns: int
    gaps: int
    """Pauses longer than the recipe's ``gap_after``."""


class SplitNumbers(Value, frozen=True, kw_only=True):
    """Readings of each part; ``not_scored`` by reason."""

    fit: int
    held: int
    cut_ns: int
    excluded: int
    not_scored: dict[str, int]


class ScoreNumbers(Value, frozen=True, kw_only=True):
    """Scores of the held-out part and the thresholds that the budget asks for."""

    median: float
    p99: float
    p999: float
    highest: float
    warning: float
    critical: float


class AlertNumbers(Value, frozen=True, kw_only=True):
    """Alerts on the held-out part, where no fault is known: false ones, as far as anybody knows."""

    budget_per_day: float
    critical_per_day: float
    stream_days: float
    alerts: int
    critical: int
    per_day: float
    """Alerts per stream per day."""


class FaultNumbers(Value, frozen=True, kw_only=True):
    """Synthetic faults of one kind; the delay is the median, None if none was found."""

    kind: str
    size: float
    injected: int
    found: int
    delay_ns: int | None


class VariantNumbers(Value, frozen=True, kw_only=True):
    """One variant and what was decided; latency is of one row, on this machine."""

    variant: str
    kept: bool
    why: str
    model_bytes: int = 0
    bundle_bytes: int = 0
    sha256: str = ""
    p50_us: float | None = None
    p99_us: float | None = None
    onset_f1: float | None = None
    alert_ratio: float | None = None


class CandidateNumbers(Value, frozen=True, kw_only=True):
    """One candidate for the model: its average precision on held-out readings, over all kinds of faults and by kind;
    None if it cannot be fitted, and `why`."""

    name: str
    figure: float | None
    by_kind: dict[str, float]
    why: str = ""


class Report(Value, frozen=True, kw_only=True):
    """Everything about one training run."""

    recipe: str
    estimator: str
    seed: int
    features: tuple[str, ...]
    data: DataNumbers
    split: SplitNumbers
    scores: ScoreNumbers
    alerts: AlertNumbers
    faults: tuple[FaultNumbers, ...]
    variants: tuple[VariantNumbers, ...]
    remarks: tuple[str, ...] = ()
    """What an operator should look at before signing."""
    ranking: tuple[CandidateNumbers, ...] = ()
    """Where the model was chosen among candidates, the best first."""


def render(report: Report) -> str:
    """The page: plain text; only the reasons beside variants and the remarks may pass 120 characters."""
    d, s, a = report.data, report.split, report.alerts
    span = f"{iso(d.first_ns)} to {iso(d.last_ns)}"
    lines = [
        f"{report.recipe}: {report.estimator}, {len(report.features)} features, seed {report.seed}",
        "",
        f"DATA      {d.readings:,} readings of {counted(d.streams, 'stream')}, {span}, "
        f"every {about(d.interval_ns)}, {counted(d.gaps, 'gap')}",
        f"SPLIT     {s.fit:,} to fit, then {s.held:,} held out from {iso(s.cut_ns)}{_unused(s)}",
        *wrapped("FEATURES  ", report.features),
        f"SCORES    held out: median {report.scores.median:.4g} · 99 % {report.scores.p99:.4g} · "
        f"99.9 % {report.scores.p999:.4g} · highest {report.scores.highest:.4g}",
        f"THRESHOLD warning {report.scores.warning:.4g} for {rate(a.budget_per_day)} · "
        f"critical {report.scores.critical:.4g} for {rate(a.critical_per_day)} (false alerts per stream)",
        f"ALERTS    held out (the part that set the threshold): {a.alerts} in {a.stream_days:.1f} stream-days = "
        f"{a.per_day:.2f} per stream and day, "
        f"{a.critical} critical",
        "",
        *faults_table(report.faults),
        "",
        *variants_table(report.variants),
    ]
    lines += ["", *ranking_table(report.ranking)] if report.ranking else []
    lines += ["", *(f"Note: {remark}" for remark in report.remarks)] if report.remarks else []
    return "\n".join(lines) + "\n"


def ranking_table(ranking: Sequence[CandidateNumbers]) -> list[str]:
    """The candidates, the chosen one first."""
    kinds = tuple(ranking[0].by_kind)
    by = "labelled periods" if kinds == ("labelled",) else "synthetic faults"
    return [
        f"Candidates by average precision on {by} in the held-out part.",
        "Chosen is the first: of those within a tenth of the best, the sturdiest.",
        *_table(
            ("CANDIDATE", "MEAN", *(kind.upper() for kind in kinds)),
            [
                (c.name, f"{c.figure:.3f}", *(f"{c.by_kind[kind]:.3f}" for kind in kinds))
                for c in ranking
                if c.figure is not None
            ],
        ),
        *(f"{c.name}: cannot be fitted: {c.why}" for c in ranking if c.figure is None),
    ]


def variants_table(variants: Sequence[VariantNumbers]) -> list[str]:
    """What ships, and why the others do not."""
    return _table(
            ("VARIANT", "SHIP", "MODEL", "BUNDLE", "P50", "P99", "ONSET F1", "WHY"),
            [
                (v.variant, "yes" if v.kept else "no", _kb(v.model_bytes), _kb(v.bundle_bytes), _us(v.p50_us),
                 _us(v.p99_us), "-" if v.onset_f1 is None else f"{v.onset_f1:.3f}", v.why)
                for v in variants
            ],
        )  # fmt: skip


def faults_table(faults: Sequence[FaultNumbers]) -> list[str]:
    """What was found of synthetic faults."""
    if not any(f.injected for f in faults):
        return ["Synthetic faults: none; they change channels, and need enough held-out readings"]
    return [
        "Synthetic faults put into the held-out part (sizes in the channel's usual spreads; real faults differ):",
        *_table(
            ("FAULT", "SIZE", "FOUND", "RECALL", "MEDIAN DELAY"),
            [
                (f.kind, f"{f.size:g}" if f.size else "-", f"{f.found} of {f.injected}", _share(f.found, f.injected),
                 "-" if f.delay_ns is None else about(f.delay_ns))
                for f in faults
            ],
        ),
    ]  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in (head, *rows)]


def wrapped(title: str, words: Sequence[str], width: int = 118, most: int = 40) -> list[str]:
    """Words in lines below each other."""
    shown = [*words[:most], *([f"and {len(words) - most} more"] if len(words) > most else [])]
    lines, line = [], title
    for word in shown:
        if len(line) + len(word) + 1 > width:
            lines.append(line.rstrip())
            line = " " * len(title)
        line += word + " "
    return [*lines, line.rstrip()]


def _unused(s: SplitNumbers) -> str:
    parts = [f"{count:,} {reason.replace('_', ' ')}" for reason, count in s.not_scored.items() if count]
    parts += [f"{s.excluded:,} in known bad periods"] if s.excluded else []
    return f"; not used: {', '.join(parts)}" if parts else ""


def about(ns: int) -> str:
    """A duration to two significant units: ``3m``, ``1.5h``."""
    if ns == 0:
        return "at once"
    exact = format_duration(ns)
    if len(exact) <= 3:
        return exact
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if ns >= size * 1e9:
            return f"{ns / size / 1e9:.3g}{unit}"
    return exact


def rate(per_day: float) -> str:
    """How often."""
    return f"{per_day:g} per day" if per_day >= 1 else f"1 per {1 / per_day:.3g} days"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _kb(size: int) -> str:
    return f"{size / 1000:.1f} kB" if size else "-"


def _us(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.0f} µs"
