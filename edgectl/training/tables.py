"""Historical readings from files, as columns in the order of event time, checked before anything is trained on them.

Several files are one history: the file with the earliest first reading comes first. Equal times within a stream (the
second pass through the hour that daylight saving repeats, or two readings within a clock tick) are accepted; a
stream's time that goes back is refused, since on a node such a reading would be late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from edgectl_agent.core.batch import Batch, Float64, Int32, Int64, StreamTable
from edgectl_agent.core.bundle import Templates
from edgectl_agent.core.categories import CodeTable
from edgectl_agent.core.runs import Runs
from edgectl_agent.core.templates import Matcher
from edgectl_agent.core.units import SECOND_NS, iso
from numpy.typing import NDArray

from edgectl.core.errors import ConfigError
from edgectl.core.names import closest
from edgectl.training import cells, columns
from edgectl.training.columns import Columns
from edgectl.training.joins import joined
from edgectl.training.logs import read_log
from edgectl.training.mining import mine
from edgectl.training.recipe import Recipe, log_config

_QUARTER_NS = 900 * SECOND_NS
"""Every zone's offset has only ever changed at a multiple of this since 1972."""
RECORDED_TIME, RECORDED_STREAM = "time", "stream"
"""The columns of a recording that are neither channel nor category."""
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Table:
    """``n`` readings of a recipe's channels, by event time; equal times keep the order of the files.

    Attributes:
        streams: stream names; ``stream`` indexes them.
        stream: shape (n,).
        event_time: shape (n,), ns since 1970 UTC.
        values: shape (n, c), NaN = missing.
        codes: shape (n, k), as ``Batch.codes``; None for a recipe without categories.
        templates: what was mined of the categories that say so, from the readings that a model is fitted to.
    """

    streams: tuple[str, ...]
    stream: Int32
    event_time: Int64
    values: Float64
    codes: Int32 | None = None
    templates: tuple[Templates, ...] = ()

    def __len__(self) -> int:
        return len(self.stream)

    @property
    def span_ns(self) -> int:
        """From the first reading to the last."""
        return int(self.event_time[-1] - self.event_time[0]) if len(self) else 0

    @property
    def interval_ns(self) -> int:
        """Median event time between two readings of one stream; 0 if no stream has two."""
        order = np.argsort(self.stream, kind="stable")
        same = self.stream[order][1:] == self.stream[order][:-1]
        steps = np.diff(self.event_time[order])[same]
        return int(np.median(steps)) if len(steps) else 0

    def batch(self, rows: slice | NDArray[np.int64] = slice(None)) -> Batch:
        """These rows as the node would receive them."""
        return Batch(self.stream, self.event_time, self.values, self.codes).take(rows)


def read(paths: Sequence[Path], recipe: Recipe, sort: bool = False, fetched: Sequence[Columns] = ()) -> Table:
    """Read and check a history; streams that the recipe joins are joined.

    Args:
        paths: CSV, Parquet or JSON Lines files.
        recipe: names the columns.
        sort: order each stream's readings by time instead of refusing a time that goes back by more than the recipe's
            lateness.
        fetched: what came from elsewhere, under the recipe's own column names.

    Raises:
        ConfigError: a missing file or column, an empty file, a cell that is no number or time, a time that goes back,
            channels without any value, nothing but constants.
    """
    wanted = [recipe.time_column, *([recipe.stream_column] if recipe.stream_column else [])]
    wanted += [*recipe.columns, *recipe.category_columns]
    recorded = _recorded(recipe)
    parts = [
        _log_part(path, recipe)
        if recipe.log and path.suffix == ".log"
        else _part(columns.read(path, wanted, recorded), recipe)
        for path in paths
    ]
    parts += [_part(source, recipe) for source in fetched]
    if not parts:
        raise ConfigError("expected at least one data file, found none")
    parts.sort(key=lambda p: int(p.time[0]))
    names = StreamTable()
    stream = np.concatenate([np.array([names.intern(n) for n in p.streams], np.int32)[p.stream] for p in parts])
    time = np.concatenate([_localised(p, recipe.zone) if p.local else p.time for p in parts])
    if not sort:
        _refuse_backwards(parts, names.names, stream, time, recipe.features.lateness)
    order = np.argsort(time, kind="stable")
    values = np.concatenate([p.values for p in parts])[order]
    _refuse_empty_channels(recipe, values, [*paths, *(source.path for source in fetched)])
    codes = np.concatenate([p.codes for p in parts])[order] if recipe.category_columns else None
    templates = _mined(parts, order, recipe, codes)
    return joined(Table(names.names, stream[order], time[order], values, codes, templates), recipe.features)


def _recorded(recipe: Recipe) -> dict[str, str]:
    """The recipe's columns → those of a recording, which calls channels and categories by their own names."""
    names = (channel.name for channel in recipe.features.channels)
    found = {recipe.time_column: RECORDED_TIME, **dict(zip(recipe.columns, names, strict=True))}
    if recipe.stream_column:
        found[recipe.stream_column] = RECORDED_STREAM
    return found | dict(zip(recipe.category_columns, recipe.features.categories, strict=True))


def _refuse_other_units(source: Columns, recipe: Recipe) -> None:
    for column, channel in zip(recipe.columns, recipe.features.channels, strict=True):
        unit = source.units.get(column, "")
        if unit and channel.unit and unit != channel.unit:
            raise ConfigError(
                f"{source.path}: {column!r} is in {unit}, {recipe.name} expects {channel.unit}",
                hint="convert it, or change the unit in the recipe",
            )


@dataclass(frozen=True)
class _Part:
    """One file; times are local to the recipe's zone if `local`."""

    source: Columns
    streams: tuple[str, ...]
    stream: Int32
    time: Int64
    local: bool
    values: Float64
    codes: Int32
    messages: Mapping[str, Sequence[str]]
    """Of the categories of which templates are mined."""


def _mined(parts: Sequence[_Part], order: Int64, recipe: Recipe, codes: Int32 | None) -> tuple[Templates, ...]:
    """Mine the part that a model is fitted to, as far as the recipe says so, and put the templates into `codes`."""
    found = []
    for name, how in recipe.mined.items():
        assert codes is not None
        told = [message for part in parts for message in part.messages[name]]
        messages = [told[i] for i in order.tolist()]
        templates = mine(name, messages[: max(1, int(len(messages) * recipe.fit_share))], how)
        table = CodeTable(matchers={0: Matcher(templates.texts)})
        codes[:, recipe.features.categories.index(name)] = table.encode([messages], len(messages))[:, 0]
        found.append(templates)
    return tuple(found)


def _log_part(path: Path, recipe: Recipe) -> _Part:
    """A log, read as a node reads it."""
    assert recipe.log is not None
    names = [channel.name for channel in recipe.features.channels]
    categories = dict(zip(recipe.features.categories, recipe.category_columns, strict=True))
    config = log_config(recipe.log, recipe.stream_column or f"={recipe.name}", recipe.time_column, recipe.zone,
                        dict(zip(names, recipe.columns, strict=True)), categories)  # fmt: skip
    records = read_log(path, config)
    if not len(records):
        why = ", ".join(f"{count:,} {reason}" for reason, count in records.rejected.items())
        raise ConfigError(f"{path}: found no event with a time in it{f' ({why})' if why else ''}")
    table = StreamTable()
    stream = np.array([table.intern(name) for name in records.streams], np.int32)
    texts = dict(zip(categories, records.texts, strict=True))
    codes = CodeTable().encode([texts[name] for name in recipe.features.categories], len(records))
    source = Columns(path, 1, ("time",), {})
    messages = {name: texts[name] for name in recipe.mined}
    return _Part(source, table.names, stream, records.event_time, False, records.values, codes, messages)


def _part(source: Columns, recipe: Recipe) -> _Part:
    optional = {c for c, ch in zip(recipe.columns, recipe.features.channels, strict=True) if ch.optional}
    required = [recipe.time_column, *([recipe.stream_column] if recipe.stream_column else [])]
    required += [*(c for c in recipe.columns if c not in optional), *recipe.category_columns]
    for column in required:
        if column not in source.found:
            there = ", ".join(source.names) or "none"
            hint = closest(column, source.names) if source.names else None
            raise ConfigError(f"{source.path}: column {column!r} is missing, the file has {there}", hint=hint)
    _refuse_other_units(source, recipe)
    n = len(source)
    if n == 0:
        raise ConfigError(f"{source.path}: the file has a header but no readings")
    time, local = cells.times(source, recipe.time_column)
    streams, stream = _streams(source, recipe, n)
    values = np.full((n, len(recipe.columns)), np.nan)
    for i, column in enumerate(recipe.columns):
        if column in source.found:
            values[:, i] = cells.numbers(source, column)
    texts = {name: cells.categories(source, column)
             for name, column in zip(recipe.features.categories, recipe.category_columns, strict=True)}  # fmt: skip
    codes = CodeTable().encode([texts[name] for name in recipe.features.categories], n)
    messages = {name: texts[name] for name in recipe.mined}
    return _Part(source, streams, stream, time, local, values, codes, messages)


def _streams(source: Columns, recipe: Recipe, n: int) -> tuple[tuple[str, ...], Int32]:
    """Names in order of appearance, and each reading's index."""
    if not recipe.stream_column:
        return (recipe.name,), np.zeros(n, np.int32)
    table = StreamTable()
    stream = np.array([table.intern(name) for name in cells.texts(source, recipe.stream_column)], np.int32)
    return table.names, stream


def _refuse_backwards(
    parts: Sequence[_Part], names: tuple[str, ...], stream: Int32, time: Int64, lateness_ns: int
) -> None:
    """Within the lateness readings may come in any order, as on a node."""
    order = np.argsort(stream, kind="stable")
    runs, t = Runs.of(stream[order]), time[order]
    newest = runs.accumulate(np.maximum, t, t[runs.starts])
    at = np.flatnonzero(newest - t > lateness_ns)
    if len(at) == 0:
        return
    first = at[np.argmin(order[at])]
    row = int(order[first])
    name = names[stream[row]]
    for part in parts:
        if row < len(part.time):
            break
        row -= len(part.time)
    source = part.source
    when = f"from {iso(int(newest[first]))} to {iso(int(t[first]))}"
    raise ConfigError(
        f"{source.path} row {row + source.first_row}: time of stream {name!r} goes back {when}",
        hint="sort the file by time, or say --sort",
    )


def _refuse_empty_channels(recipe: Recipe, values: Float64, paths: Sequence[Path | str]) -> None:
    """Nothing can be learned from a channel without values, or from constants alone."""
    where = ", ".join(map(str, paths))
    some = ~np.isnan(values)
    for i, channel in enumerate(recipe.features.channels):
        if not some[:, i].any() and not channel.optional:
            raise ConfigError(f"{where}: column {recipe.columns[i]!r} has no value in any of {len(values)} readings")
    low = np.where(some, values, np.inf).min(axis=0)
    high = np.where(some, values, -np.inf).max(axis=0)
    if len(low) and not recipe.category_columns and (high <= low).all():
        found = ", ".join(
            f"{c.name} = {v:g}" for c, v in zip(recipe.features.channels, low, strict=True) if np.isfinite(v)
        )
        raise ConfigError(f"{where}: every channel is constant ({found}), so there is nothing to learn from")


def _localised(part: _Part, zone: str) -> Int64:
    """Local times → UTC. Of an hour that daylight saving repeats, the second pass begins where the clock goes back."""
    if zone == "UTC":
        return part.time
    early, late = (_offsets(part.time, ZoneInfo(zone), fold) for fold in (0, 1))
    offset = early.copy()
    seen: dict[int, tuple[int, bool]] = {}
    for row in np.flatnonzero(early > late):  # the repeated hours only
        stream, local = int(part.stream[row]), int(part.time[row])
        before, second = seen.get(stream, (local, False))
        if local - before > _QUARTER_NS * 96:
            second = False  # another year's
        second = second or local < before
        seen[stream] = (local, second)
        if second:
            offset[row] = late[row]
    return part.time - offset


def _offsets(local: Int64, zone: ZoneInfo, fold: int) -> Int64:
    """The zone's offset at each local time, ns; looked up once per quarter of an hour."""
    quarters, place = np.unique(local // _QUARTER_NS, return_inverse=True)
    offsets = []
    for quarter in quarters:
        moment = (_EPOCH + timedelta(minutes=15 * int(quarter))).replace(tzinfo=zone, fold=fold)
        offsets.append((moment.replace(tzinfo=UTC) - moment) // timedelta(microseconds=1) * 1000)
    return np.array(offsets, np.int64)[place]
