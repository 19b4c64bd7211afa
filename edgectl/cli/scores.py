"""How an evaluation looks on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.cli.output import Column, Format, emit, emit_one, note, write
from edgectl.evaluation.wording import delay, figure, interval, number, share

if TYPE_CHECKING:
    from edgectl.evaluation.results import Evaluation, Figure


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
    emit(found.methods, _methods(found, how is Format.WIDE), how)
    if found.budgets:
        write("")
        emit(found.budgets, _BUDGETS, how)
    if how is Format.WIDE:
        write("")
        emit(found.by_series, _SERIES, how)
    note("")
    for remark in found.remarks:
        note(f"Note: {remark}.")


def _methods(found: Evaluation, wide: bool) -> list[Column]:
    """Intervals need a wide terminal."""

    def shown(value: Figure, digits: int = 3) -> str:
        return figure(value, digits) if wide else number(value.value, digits)

    columns = [
        Column("METHOD", "method", whole=True),
        Column("FALSE/DAY", lambda row: shown(row.false_per_stream_day), right=True),
    ]
    if found.windows:
        columns += [
            Column("RECALL", lambda row: share(row.recall, wide), right=True),
            Column("ON", lambda row: f"{row.covered} of {row.windows}", right=True, wide=True),
            Column("DELAY", lambda row: delay(row.delay_ns), right=True),
            Column("AT", lambda row: number(row.place), right=True, wide=True),
            Column("VUS-PR", lambda row: shown(row.vus_pr), right=True),
            Column("RANGE P", lambda row: number(row.range_precision), right=True, wide=True),
            Column("RANGE R", lambda row: number(row.range_recall), right=True, wide=True),
            Column("NAB", lambda row: shown(row.nab_interval, 1), right=True),
            Column("LOW FP", lambda row: number(row.nab.low_fp, 1), right=True, wide=True),
            Column("LOW FN", lambda row: number(row.nab.low_fn, 1), right=True, wide=True),
            Column("NAB READINGS", lambda row: number(row.nab_readings.standard, 1), right=True, wide=True),
            Column("NAB BEST", lambda row: number(row.nab_best.standard, 1), right=True),
            Column("BEST LOW FP", lambda row: number(row.nab_best.low_fp, 1), right=True, wide=True),
            Column("BEST LOW FN", lambda row: number(row.nab_best.low_fn, 1), right=True, wide=True),
        ]
    return [*columns, Column("THRESHOLD", "threshold", wide=True)]


_BUDGETS = (
    Column("ASKED/DAY", lambda row: f"{row.asked:g}", right=True),
    Column("HAD/DAY", lambda row: number(row.realised), right=True),
    Column("RATIO", lambda row: interval(row.ratio, row.low, row.high, 2), right=True),
    Column("FALSE", lambda row: f"{row.false_alerts:,}", right=True),
    Column("DAYS", lambda row: f"{row.stream_days:,.1f}", right=True),
    Column("WITHIN ×2", lambda row: f"{row.within_2} of {row.streams}", right=True),
    Column("ABOVE ×5", "above_5", right=True),
    Column(
        "WORST",
        lambda row: f"{row.worst}: {number(row.worst_ratio, 1)}, at least {number(row.worst_low, 1)}",
        wide=True,
    ),
)
_SERIES = (
    Column("SERIES", "name", whole=True),
    Column("DAYS", lambda row: f"{row.scored_days:.1f}", right=True),
    Column("FOUND", lambda row: f"{row.found} of {row.windows}", right=True),
    Column("FALSE", "false_alerts", right=True),
    Column("ALERTS", "alerts", right=True),
    Column("DELAY", lambda row: delay(row.delay_ns), right=True),
    Column("VUS-PR", lambda row: number(row.vus_pr), right=True),
    Column("", "refused"),
)
