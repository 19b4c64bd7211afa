"""The picture of a training run: held-out scores over time with the threshold in force and the alerts.

Equal runs give equal files: the backend is Agg, SVG ids come from a fixed salt, and no file holds a date.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from edgectl_agent.core.wording import counted

from edgectl.core.errors import ConfigError, StorageError
from edgectl.training import online
from edgectl.training.pipeline import Trained
from edgectl.training.replay import Replay
from edgectl.training.tables import Table

FORMATS = (".svg", ".png")
_STREAMS = 6
"""Rows of the picture at most: the streams with the highest scores."""
_POINTS = 4000
"""Points per curve; longer ones are drawn as the highest score of equal stretches, so that no peak is lost."""
_SCORE, _THRESHOLD, _WARNING, _CRITICAL = "#31688e", "#444444", "#e69f00", "#d62728"


def check_path(path: Path) -> Path:
    """`path`, if its ending is one of `FORMATS`. Raises `ConfigError`."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: expected a plot that ends in {' or '.join(FORMATS)}, found {path.suffix or 'none'}")
    return path


def draw(trained: Trained | online.Made, path: Path) -> None:
    """Write the picture to `path`, as SVG or PNG by its ending.

    Raises:
        ConfigError: another ending.
        StorageError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_path(path)
    held, table, alerts = trained.held, trained.table, trained.report.alerts
    if held is None or table is None or alerts is None:
        raise ConfigError("there are no scores to draw without a history", hint="give --data FILE")
    streams = _worst_streams(held, table)
    with mpl.rc_context({"svg.hashsalt": "edgectl", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(11, 1.5 + 1.9 * len(streams)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(streams), 1, sharex=True, squeeze=False)[:, 0]
        for ax, stream in zip(axes, streams, strict=True):
            _draw_stream(ax, held, table, stream)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        r = trained.report
        figure.suptitle(
            f"{r.recipe} ({r.estimator}), held-out readings: {counted(alerts.alerts, 'alert')} in "
            f"{alerts.stream_days:.1f} stream-days, budget {alerts.budget_per_day:.3g} per stream and day"
        )
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else {"Software": None})
        except OSError as e:
            raise StorageError(f"{path}: cannot be written: {e.strerror or e}") from e


def _worst_streams(held: Replay, table: Table) -> list[int]:
    """Streams by their highest score in units of the threshold, at most `_STREAMS`."""
    ratio = np.nan_to_num(held.scores / np.maximum(held.threshold, 1e-12), nan=0.0)
    peak = np.zeros(len(table.streams))
    np.maximum.at(peak, table.stream[held.rows], ratio)
    return sorted(int(s) for s in np.argsort(-peak, kind="stable")[:_STREAMS])


def _draw_stream(ax: Any, held: Replay, table: Table, stream: int) -> None:
    mine = np.flatnonzero((table.stream[held.rows] == stream) & np.isfinite(held.scores))
    time = table.event_time[held.rows[mine]].astype("datetime64[ns]").astype("datetime64[ms]")
    keep = _peaks(held.scores[mine])
    ax.plot(time[keep], held.scores[mine][keep], color=_SCORE, linewidth=0.7, label="score")
    ax.plot(time[keep], held.threshold[mine][keep], color=_THRESHOLD, linewidth=0.9, linestyle="--", label="threshold")
    for severity, color in (("warning", _WARNING), ("critical", _CRITICAL)):
        onsets = [e.onset_ns for e in held.episodes
                  if e.stream == table.streams[stream] and e.severity == severity]  # fmt: skip
        at = np.array(onsets, "datetime64[ns]").astype("datetime64[ms]")
        place = np.searchsorted(time, at)
        ax.plot(at, held.scores[mine][np.minimum(place, len(mine) - 1)] if len(at) else [], "v", color=color,
                markersize=6, label=f"{severity} alert")  # fmt: skip
    ax.set_ylabel(table.streams[stream], fontsize=8)
    positive = held.scores[mine] > 0
    if positive.any() and held.scores[mine].max() > 20 * np.median(held.scores[mine][positive]):
        ax.set_yscale("log")
    ax.margins(x=0.01)
    ax.spines[["top", "right"]].set_visible(False)


def _peaks(scores: Any) -> Any:
    """Indices of the highest score in each of `_POINTS` stretches."""
    n = len(scores)
    if n <= _POINTS:
        return np.arange(n)
    starts = np.linspace(0, n, _POINTS, endpoint=False).astype(np.int64)
    return np.array([a + int(np.argmax(scores[a:b])) for a, b in zip(starts, np.append(starts[1:], n), strict=True)])
