"""A user's own history in CSV, Parquet or JSON Lines, labelled by a column, by a file of intervals, or not at all.

All streams together are one history: a recipe is trained on its first part, by time, and judged on the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.units import iso

from edgectl.core.errors import ConfigError
from edgectl.core.evaluation import WATCHED, Period
from edgectl.evaluation.corpora.smd import stretches
from edgectl.evaluation.series import Corpus, Series, Window
from edgectl.periods import read_periods
from edgectl.training import cells, columns
from edgectl.training.recipe import Recipe
from edgectl.training.tables import Table
from edgectl.training.tables import read as read_table


def read(
    paths: Sequence[Path],
    recipe: Recipe,
    *,
    share: float,
    train: Sequence[Path] = (),
    labels: Path | None = None,
    label_column: str = "",
    sort: bool = False,
) -> Corpus:
    """Read a history with its labels.

    Args:
        paths: the data files.
        recipe: names the columns.
        share: the first part of the readings, which is not scored.
        train: files with that part instead; all of `paths` is scored then.
        labels: a CSV file with the columns ``start,end`` and perhaps ``stream``.
        label_column: a column that is above 0 where a reading is anomalous.
        sort: as in `edgectl.training.tables.read`.

    Raises:
        ConfigError: what `edgectl.training.tables.read` and `edgectl.periods.read_periods` refuse; a label of a stream
            that the data does not have; a label column that is missing; `train` that ends after the rest begins.
    """
    table = read_table([*train, *paths], recipe, sort)
    periods = [one for one in read_periods(labels) if one.kind != WATCHED] if labels else []
    if label_column:
        periods += _marked(paths, recipe, label_column)
    _refuse_strangers(table, periods, labels)
    cut = (
        _first(train, paths, recipe, sort)
        if train
        else int(table.event_time[min(int(len(table) * share), len(table) - 1)])
    )
    names = tuple(channel.name for channel in recipe.features.channels)
    order = np.argsort(table.stream, kind="stable")
    bounds = np.searchsorted(table.stream[order], np.arange(len(table.streams) + 1))
    series = tuple(
        _series(table, table.streams[i], order[begin:end], names, cut, periods)
        for i, (begin, end) in enumerate(pairwise(bounds.tolist()))
    )
    return Corpus(
        name=", ".join(path.name for path in paths), series=series, together=True, templates=table.templates
    )  # fmt: skip


def _first(train: Sequence[Path], paths: Sequence[Path], recipe: Recipe, sort: bool) -> int:
    """When the scored part begins."""
    before, begin = (
        int(read_table(train, recipe, sort).event_time[-1]),
        int(read_table(paths, recipe, sort).event_time[0]),
    )
    if before >= begin:
        raise ConfigError(
            f"{train[-1]}: expected --train to end before the data begins at {iso(begin)}, found {iso(before)}"
        )
    return begin


def _series(
    table: Table, name: str, rows: Int64, channels: tuple[str, ...], cut: int, periods: Sequence[Period]
) -> Series:
    """The readings of one stream, its `rows`."""
    time = table.event_time[rows]
    begin = int(np.searchsorted(time, cut))
    series = Series(
        name=name, channels=channels, time=time, values=table.values[rows], begin=begin,
        codes=None if table.codes is None else table.codes[rows],
    )  # fmt: skip
    inside = np.zeros(len(time), bool)
    for period in periods:
        if period.stream in ("", name):
            inside |= (time >= period.start_ns) & (time <= period.end_ns)
    windows = (Window(first, last) for first, last in stretches(inside))
    return replace(series, windows=tuple(one for one in windows if one.last >= begin))


def _marked(paths: Sequence[Path], recipe: Recipe, column: str) -> list[Period]:
    """Stretches of readings that the label column marks, of each stream."""
    if recipe.zone != "UTC":
        raise ConfigError(
            f"{recipe.name} has times of {recipe.zone}: expected UTC beside a label column",
            hint="give the labels as a file of intervals: --labels FILE",
        )
    parts = [_label_cells(path, recipe, column) for path in paths]
    streams = [name for part in parts for name in part[0]]
    time, label = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    found = []
    names, place = np.unique(np.array(streams), return_inverse=True)
    order = np.lexsort((time, place))
    bounds = np.searchsorted(place[order], np.arange(len(names) + 1)).tolist()
    for name, (begin, end) in zip(names.tolist(), pairwise(bounds), strict=True):
        mine = order[begin:end]
        found += [Period(int(time[mine[a]]), int(time[mine[b]]), name) for a, b in stretches(label[mine] > 0)]
    return found


def _label_cells(path: Path, recipe: Recipe, column: str) -> tuple[list[str], Int64, Float64]:
    wanted = [recipe.time_column, column, *([recipe.stream_column] if recipe.stream_column else [])]
    source = columns.read(path, wanted)
    if column not in source.found:
        raise ConfigError(f"{path}: the label column {column!r} is missing, the file has {', '.join(source.names)}")
    time, _ = cells.times(source, recipe.time_column)
    streams = cells.texts(source, recipe.stream_column) if recipe.stream_column else [recipe.name] * len(source)
    return streams, time, cells.numbers(source, column)


def _refuse_strangers(table: Table, periods: Sequence[Period], labels: Path | None) -> None:
    for period in periods:
        if period.stream and period.stream not in table.streams:
            have = ", ".join(table.streams[:5]) + (", …" if len(table.streams) > 5 else "")
            raise ConfigError(f"{labels}: a label is of stream {period.stream!r}, the data has {have}")
