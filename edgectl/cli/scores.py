"""How an evaluation looks on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.cli.output import Column, Format, emit, emit_one, note, write

if TYPE_CHECKING:
    from edgectl.evaluation.results import Evaluation, Figure

_HOUR_NS = 3600 * 10**9


def show(found: Evaluation, how: Format) -> None:
    """Tables for people with what must be known about them on stderr; or the figures for programs."""
    if how not in (Format.TABLE, Format.WIDE):
        emit_one(found, how, lambda wide: "", name="model")
        return
    note(
        f"{found.model} on {found.corpus}: {found.series:,} series, {found.windows:,} labelled windows, "
        f"{found.stream_days:,.1f} stream-days; trained on {found.trained_on}"
    )
    note(f"who chose the threshold of {found.model}: {found.chosen_by}\n")
    emit(found.methods, _methods(found), how)
    if found.budgets:
        write("")
        emit(found.budgets, _BUDGETS, how)
    if how is Format.WIDE:
        write("")
        emit(found.by_series, _SERIES, how)
    note("")
    for remark in found.remarks:
        note(f"Note: {remark}.")


def _methods(found: Evaluation) -> list[Column]:
    columns = [
        Column("METHOD", "method", whole=True),
        Column("FALSE/DAY", lambda row: figure(row.false_per_stream_day), right=True),
    ]
    if found.windows:
        columns += [
            Column("RECALL", lambda row: _share(row.recall), right=True),
            Column("ON", lambda row: f"{row.covered} of {row.windows}", right=True, wide=True),
            Column("DELAY", lambda row: hours(row.delay_ns), right=True),
            Column("AT", lambda row: _number(row.place), right=True, wide=True),
            Column("VUS-PR", lambda row: figure(row.vus_pr), right=True),
            Column("RANGE P", lambda row: _number(row.range_precision), right=True),
            Column("RANGE R", lambda row: _number(row.range_recall), right=True),
            Column("NAB", lambda row: figure(row.nab_interval, 1), right=True),
            Column("LOW FP", lambda row: _number(row.nab.low_fp, 1), right=True, wide=True),
            Column("LOW FN", lambda row: _number(row.nab.low_fn, 1), right=True, wide=True),
            Column("NAB READINGS", lambda row: _number(row.nab_readings.standard, 1), right=True, wide=True),
            Column("NAB BEST", lambda row: _number(row.nab_best.standard, 1), right=True),
            Column("BEST LOW FP", lambda row: _number(row.nab_best.low_fp, 1), right=True, wide=True),
            Column("BEST LOW FN", lambda row: _number(row.nab_best.low_fn, 1), right=True, wide=True),
        ]
    return [*columns, Column("THRESHOLD", "threshold", wide=True)]


_BUDGETS = (
    Column("ASKED/DAY", lambda row: f"{row.asked:g}", right=True),
    Column("HAD/DAY", lambda row: _number(row.realised), right=True),
    Column("RATIO", lambda row: _interval(row.ratio, row.low, row.high, 2), right=True),
    Column("FALSE", lambda row: f"{row.false_alerts:,}", right=True),
    Column("STREAM-DAYS", lambda row: f"{row.stream_days:,.1f}", right=True),
    Column("WITHIN ×2", lambda row: f"{row.within_2} of {row.streams}", right=True),
    Column("ABOVE ×5", "above_5", right=True),
    Column("WORST", lambda row: f"{row.worst}: {_number(row.worst_ratio, 1)}, at least {_number(row.worst_low, 1)}"),
)
_SERIES = (
    Column("SERIES", "name", whole=True),
    Column("DAYS", lambda row: f"{row.scored_days:.1f}", right=True),
    Column("FOUND", lambda row: f"{row.found} of {row.windows}", right=True),
    Column("FALSE", "false_alerts", right=True),
    Column("ALERTS", "alerts", right=True),
    Column("DELAY", lambda row: hours(row.delay_ns), right=True),
    Column("VUS-PR", lambda row: _number(row.vus_pr), right=True),
    Column("", "refused"),
)


def figure(found: Figure, digits: int = 3) -> str:
    """A figure with its interval."""
    return _interval(found.value, found.low, found.high, digits)


def hours(ns: int | None) -> str:
    """A delay."""
    if ns is None:
        return "-"
    return f"{ns / _HOUR_NS:.1f} h" if abs(ns) >= _HOUR_NS else f"{ns / _HOUR_NS * 60:.0f} min"


def _interval(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    if value is None or low is None or high is None:
        return _number(value, digits)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _share(found: Figure) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "-" if found.value is None else f"{found.value:.0%}"
    return f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
