"""An evaluation as one page to look through: the figures, and of each series its values, score, threshold, labelled
windows and alerts. The page holds everything itself and asks no network for anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.units import iso

from edgectl.evaluation import drawing, results
from edgectl.evaluation.running import Evaluated
from edgectl.evaluation.series import Replayed, Series
from edgectl.evaluation.wording import delay, figure, number, share
from edgectl.files import write_file

_CHANNELS = 6
"""Drawn at most: those that move most where windows or alerts are."""
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5em auto; max-width: 1080px; padding: 0 1em; color: #1b1b1b }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em } svg { width: 100%; height: auto; display: block }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto }
th, td { padding: .2em .8em .2em 0; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } tbody tr:first-child { font-weight: 600 }
details { border-top: 1px solid #ddd; padding: .4em 0 } summary { cursor: pointer }
summary b { font-weight: 600 } .bad { color: #b3261e } .quiet { color: #666 }
input { font: inherit; padding: .3em .5em; width: 24em; max-width: 100% }
"""
_SCRIPT = """
const find = document.getElementById("find");
find.addEventListener("input", () => {
  const wanted = find.value.toLowerCase();
  for (const one of document.querySelectorAll("details"))
    one.hidden = !one.dataset.name.toLowerCase().includes(wanted);
});
"""


def write(found: Evaluated, path: Path) -> None:
    """Write the page. Raises `StorageError`."""
    write_file(path, "".join(page(found)).encode())


def page(found: Evaluated) -> Iterator[str]:
    """The page, in pieces."""
    result = found.result
    title = escape(f"{result.model} on {result.corpus}")
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><h1>{title}</h1>'
    yield (
        f"<p>{result.series:,} series, {result.windows:,} labelled windows, {result.stream_days:,.1f} stream-days. "
        f"Trained on {escape(result.trained_on)}. Who chose the threshold: {escape(result.chosen_by)}.</p>"
    )
    yield _methods(result)
    if result.budgets:
        yield _budgets(result.budgets)
    yield f"<ul>{''.join(f'<li>{escape(remark)}</li>' for remark in result.remarks)}</ul>"
    yield '<h2>Series, the worst first</h2><p><input id="find" placeholder="part of a name" aria-label="filter"></p>'
    yield f"<p>{drawing.LEGEND}</p>"
    order = sorted(
        range(len(found.replays)),
        key=lambda i: (result.by_series[i].found - result.by_series[i].windows, -result.by_series[i].false_alerts),
    )
    for place, i in enumerate(order):
        yield _series(found.corpus.series[i], found.replays[i], result.by_series[i], place < 3)
    yield f"<script>{_SCRIPT}</script></body></html>\n"


def _methods(result: results.Evaluation) -> str:
    head = ["method", "false alerts per stream-day", "recall", "median delay", "VUS-PR", "range precision",
            "range recall", "NAB", "NAB best (oracle)", "threshold chosen by"]  # fmt: skip
    rows = [
        [row.method, figure(row.false_per_stream_day), share(row.recall), delay(row.delay_ns),
         figure(row.vus_pr), number(row.range_precision), number(row.range_recall), figure(row.nab_interval, 1),
         number(row.nab_best.standard, 1), row.threshold]
        for row in result.methods
    ]  # fmt: skip
    return _table(head, rows)


def _budgets(budgets: Sequence[results.Budget]) -> str:
    head = ["asked", "had", "ratio", "95 % of the ratio", "within ×2", "above ×5", "worst stream"]
    rows = [
        [f"{b.asked:g} a day", number(b.realised), number(b.ratio, 2), f"{number(b.low, 2)} to {number(b.high, 2)}",
         f"{b.within_2} of {b.streams}", str(b.above_5), f"{b.worst}: {number(b.worst_ratio, 1)}"]
        for b in budgets
    ]  # fmt: skip
    return "<h2>Budgets</h2>" + _table(head, rows)


def _series(series: Series, replayed: Replayed, found: results.SeriesResult, opened: bool) -> str:
    missed = found.windows - found.found
    said = f"{found.found} of {found.windows} windows · {found.false_alerts} false · {found.scored_days:.1f} days"
    if found.delay_ns is not None:
        said += f" · delay {delay(found.delay_ns)}"
    name, kind = escape(series.name, quote=True), "bad" if missed or found.false_alerts else "quiet"
    text = f'<details data-name="{name}"{" open" if opened else ""}><summary><b>{name}</b> '
    text += f'<span class="{kind}">{escape(said)}</span></summary>'
    if found.refused:
        return text + f'<p class="bad">{escape(found.refused)}</p></details>'
    shown = _shown(series, replayed)
    span = f"{iso(int(series.time.min()))} to {iso(int(series.time.max()))}"
    more = len(series.channels) - len(shown)
    channels = ", ".join(series.channels[i] for i in shown) + (f" and {more} more" if more else "")
    return (
        text + f'<p class="quiet">{escape(channels)} · {span}</p>{drawing.picture(series, replayed, shown)}</details>'
    )


def _shown(series: Series, replayed: Replayed) -> list[int]:
    """Channels by how far they leave their usual place where something is labelled or alerted."""
    if len(series.channels) <= _CHANNELS:
        return list(range(len(series.channels)))
    told = series.labels.astype(bool)
    told[np.isin(series.time, [alarm.raised_ns for alarm in replayed.alarms])] = True
    moved = [_moved(column, told) for column in series.values.T]
    return sorted(np.argsort([-one for one in moved], kind="stable")[:_CHANNELS].tolist())


def _moved(column: Float64, told: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    some = ~np.isnan(column)
    if not (some & told).any() or not (some & ~told).any():
        return 0.0
    usual = column[some & ~told]
    spread = float(usual.std()) + 1e-9 * float(np.abs(usual).max()) + 1e-12
    return float(np.abs(column[some & told] - usual.mean()).max()) / spread


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
