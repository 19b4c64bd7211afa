"""Readings → feature rows, the same code in training and on the node.

Equal to the last bit for any batch boundaries: whatever depends on earlier readings continues from stored state, and
nothing depends on how many readings share a batch.

Which readings count (per stream, in order of arrival):

* event time above ``horizon_ns``: `FUTURE`, ignored, so that a bad clock cannot make all later readings late;
* event time below the stream's newest: `LATE`, ignored;
* event time, values and categories equal to the stream's previous reading: `DUPLICATE`, ignored;
* otherwise it enters the windows; while the stream is younger than ``warm_up_ns``: `WARMING`; with a required channel
  missing and nothing to hold: `INCOMPLETE`; else `OK`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core import groups, single
from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Batch, Float64, Int32, Int64
from edgectl_agent.core.bundle import Features, FeatureSpec, InstantFeatures, PhaseFeatures, WindowFeatures
from edgectl_agent.core.categories import MISSING, codes_of
from edgectl_agent.core.groups.interface import Rows
from edgectl_agent.core.groups.names import group_names
from edgectl_agent.core.runs import Runs
from edgectl_agent.core.units import DAY_NS
from edgectl_agent.core.windows import Moments, Windows, statistic

OK, WARMING, LATE, DUPLICATE, FUTURE, INCOMPLETE, OVER_LIMIT = range(7)
STATUS = ("ok", "warming", "late", "duplicate", "future", "incomplete", "over_limit")
Bool = NDArray[np.bool_]
T = TypeVar("T", int, Int64)
Int8 = NDArray[np.int8]

_NEVER = np.iinfo(np.int64).min // 2
_LARGEST = 1e100
"""Beyond it a square overflows; no sensor means such a value."""
_PHASE_STEPS = 1440
_PERIOD_NS = {"day": DAY_NS, "week": 7 * DAY_NS}
# 1970-01-01 was a Thursday: shift so that a week's phase begins on Monday.
_PERIOD_SHIFT_NS = {"day": 0, "week": 3 * DAY_NS}
_ANGLES = [2 * math.pi * i / _PHASE_STEPS for i in range(_PHASE_STEPS)]
# A table, because numpy's vector sine may differ from its scalar one in the last bit.
_SIN, _COS = np.array([math.sin(a) for a in _ANGLES]), np.array([math.cos(a) for a in _ANGLES])


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Features of a batch.

    Attributes:
        planes: shape (F, m), float64, of the readings that count, sorted by stream; NaN where an optional channel is
            missing.
        rows: shape (m,), which reading of the batch each column of `planes` is.
        status: shape (n,), row by row as it arrived, one of `OK` … `INCOMPLETE`.
        out_of_range: values refused because they lay outside their channel's range or were not finite.
    """

    planes: Float64
    rows: Int64
    status: Int8
    out_of_range: int

    @property
    def x(self) -> Float64:
        """Row by row as it arrived, shape (n, F), NaN in rows that are not counted."""
        x = np.full((len(self.status), len(self.planes)), np.nan)
        x[self.rows] = self.planes.T
        return x

    @property
    def usable(self) -> Int64:
        """Which columns of `planes` are to be scored."""
        return np.flatnonzero(self.status[self.rows] == OK)


@dataclass(frozen=True, slots=True)
class One:
    """Features of one reading, none if it does not count; its status, and how many values were out of range."""

    x: Sequence[float]
    status: int
    out_of_range: int


def feature_names(spec: FeatureSpec) -> tuple[str, ...]:
    """Column names in order: ``temp``, ``temp.diff``, ``temp.mean.5m``, ``day.sin``."""
    return tuple(name for group in spec.features for name in group_names(group, spec))


class FeatureBuilder:
    """Windows and last values of all streams under one `FeatureSpec`."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self.names = feature_names(spec)
        self._column = {channel.name: i for i, channel in enumerate(spec.channels)}
        low = [-math.inf if c.low is None else c.low for c in spec.channels]
        high = [math.inf if c.high is None else c.high for c in spec.channels]
        self._low, self._high = np.maximum(low, -_LARGEST), np.minimum(high, _LARGEST)
        self._required = np.array([not c.optional for c in spec.channels], bool)
        self._hold = np.array([c.hold_ns for c in spec.channels], np.int64)
        self._range = list(zip(self._low.tolist(), self._high.tolist(), strict=True))
        self._is_required, self._holds = self._required.tolist(), self._hold.tolist()
        self._windows = {
            key: Windows(key[0], key[1], len(columns)) for key, columns in _window_channels(spec, self._column).items()
        }
        self._window_columns = _window_channels(spec, self._column)
        self._groups = [groups.make(group, spec) for group in spec.features]
        channels = len(spec.channels)
        self._newest: Int64 = np.empty(0, np.int64)
        self._since: Int64 = np.empty(0, np.int64)
        self._previous: Float64 = np.empty((0, channels))
        self._previous_codes: Int32 = np.empty((0, len(spec.categories)), np.int32)
        self._last_value: Float64 = np.empty((0, channels))
        self._last_time: Int64 = np.empty((0, channels), np.int64)

    @property
    def streams(self) -> int:
        """How many streams have state."""
        return int((self._newest != _NEVER).sum())

    @property
    def known(self) -> Int64:
        """Which streams have state."""
        return np.flatnonzero(self._newest != _NEVER)

    @property
    def newest_ns(self) -> Int64:
        """Event time of each stream's newest reading, far below any where it has none; not to be written to."""
        return self._newest

    @property
    def warming_streams(self) -> int:
        """Streams whose newest reading was still within the warm-up."""
        seen = self._newest != _NEVER
        return int((seen & (self._newest - self._since < self.spec.warm_up_ns)).sum())

    @property
    def bytes_per_stream(self) -> int:
        """What one stream costs in memory, all channels together."""
        arrays = (self._newest, self._since, self._previous, self._previous_codes, self._last_value, self._last_time)
        own = sum(array.itemsize * math.prod(array.shape[1:]) for array in arrays)
        own += sum(windows.bytes_per_stream for windows in self._windows.values())
        return own + sum(group.bytes_per_stream for group in self._groups if group is not None)

    def push(self, batch: Batch, horizon_ns: int | None = None) -> FeatureRows:
        """Add a batch and return its features.

        Args:
            batch: readings in order of arrival; ``values`` columns follow ``spec.channels``, those of ``codes``
                ``spec.categories``.
            horizon_ns: readings with a later event time are refused; None for recorded data.
        """
        status = np.full(len(batch), OK, np.int8)
        if len(batch) == 0:
            return self._nothing(status, 0)
        self._reserve(int(batch.stream.max()) + 1)
        part, out_of_range = self._sorted(batch)
        part = self._accepted(part, status, horizon_ns)
        if len(part.rows) == 0:
            return self._nothing(status, out_of_range)
        planes, status[part.rows] = self._features(part)
        return FeatureRows(planes, part.rows, status, out_of_range)

    @property
    def takes_one(self) -> bool:
        """Whether `push_one` knows all of the features."""
        return not self.spec.categories and all(group is None or group.takes_one for group in self._groups)

    def push_one(self, stream: int, time_ns: int, values: list[float], horizon_ns: int | None) -> One:
        """`push` of one reading where `takes_one`: the same features to the last bit, in a tenth of the time."""
        self._reserve(stream + 1)
        values = [value + 0.0 for value in values]
        out_of_range = 0
        for i, (low, high) in enumerate(self._range):
            if values[i] < low or values[i] > high:
                values[i] = math.nan
                out_of_range += 1
        newest: int = self._newest.item(stream)
        if horizon_ns is not None and time_ns > horizon_ns:
            return One((), FUTURE, out_of_range)
        if time_ns < newest:
            return One((), LATE, out_of_range)
        if time_ns == newest and _same(values, self._previous[stream].tolist()):
            return One((), DUPLICATE, out_of_range)
        since: int = self._since.item(stream)
        if newest == _NEVER or 0 < self.spec.gap_after_ns < time_ns - newest:
            self._since[stream] = since = max(since, time_ns)
        held, before = self._last_values_one(stream, time_ns, values)
        x = self._features_one(stream, time_ns, values, held, before)
        self._newest[stream], self._previous[stream] = time_ns, values
        if any(required and value != value for required, value in zip(self._is_required, held, strict=True)):
            return One(x, INCOMPLETE, out_of_range)
        return One(x, WARMING if time_ns - since < self.spec.warm_up_ns else OK, out_of_range)

    def _last_values_one(self, stream: int, time_ns: int, values: list[float]) -> tuple[list[float], list[float]]:
        before: list[float] = self._last_value[stream].tolist()
        missing = [i for i, value in enumerate(values) if value != value]
        if not missing:
            self._last_value[stream], self._last_time[stream] = values, time_ns
            return values, before
        held, now, times = list(values), list(values), [time_ns] * len(values)
        last: list[int] = self._last_time[stream].tolist()
        for i in missing:
            now[i], times[i] = before[i], last[i]
            held[i] = before[i] if time_ns - last[i] <= self._holds[i] else math.nan
        self._last_value[stream], self._last_time[stream] = now, times
        return held, before

    def _features_one(
        self, stream: int, time_ns: int, values: list[float], held: list[float], before: list[float]
    ) -> list[float]:
        windows = {
            key: kept.push_one(stream, time_ns, [values[i] for i in self._window_columns[key]])
            for key, kept in self._windows.items()
        }
        x: list[float] = []
        for group, kept in zip(self.spec.features, self._groups, strict=True):
            if kept is not None:
                x += kept.push_one(stream, time_ns, values)
            elif isinstance(group, WindowFeatures):
                key = (group.window_ns, group.panes)
                columns = self._window_columns[key]
                for channel in group.channels:
                    place = columns.index(self._column[channel])
                    x += single.statistics(windows[key], place, len(columns), group.stats)
            elif isinstance(group, InstantFeatures):
                for channel in group.channels:
                    i = self._column[channel]
                    x += [held[i] if kind == "value" else held[i] - before[i] for kind in group.kinds]
            else:
                assert isinstance(group, PhaseFeatures)
                for period in group.periods:
                    step = _step(time_ns, period)
                    x += [_SIN.item(step), _COS.item(step)]
        return x

    def _nothing(self, status: Int8, out_of_range: int) -> FeatureRows:
        return FeatureRows(np.empty((len(self.names), 0)), np.empty(0, np.int64), status, out_of_range)

    def _sorted(self, batch: Batch) -> tuple[_Part, int]:
        """The batch sorted by stream, without values out of range, and how many these were."""
        ordered = bool((batch.stream[1:] >= batch.stream[:-1]).all())
        rows = np.arange(len(batch)) if ordered else np.argsort(batch.stream, kind="stable")
        values = batch.values.take(rows, axis=0)
        values += 0.0  # there is one zero: what minimum and maximum make of -0.0 and 0.0 depends on their order
        out_of_range = 0
        if values.size and not (
            values.min() >= self._low.max() and values.max() <= self._high.min()
        ):  # else all are in all ranges
            # NaN fails both comparisons, and is not out of range.
            outside = (values < self._low) | (values > self._high)
            out_of_range = int(np.count_nonzero(outside))
            values[outside] = np.nan
        codes = codes_of(batch, self._previous_codes.shape[1]).take(rows, axis=0)
        return _Part(rows, batch.stream.take(rows), batch.event_time.take(rows), values, codes), out_of_range

    def snapshot(self) -> dict[str, Any]:
        """All state, of plain values; `restore` continues to the same bits."""
        return {
            "windows": [[*key, windows.snapshot()] for key, windows in self._windows.items()],
            "groups": [None if group is None else group.snapshot() for group in self._groups],
            "newest": pack_array(self._newest),
            "since": pack_array(self._since),
            "previous": pack_array(self._previous),
            "previous_codes": pack_array(self._previous_codes),
            "last_value": pack_array(self._last_value),
            "last_time": pack_array(self._last_time),
        }

    @classmethod
    def restore(cls, spec: FeatureSpec, state: dict[str, Any]) -> FeatureBuilder:
        """A builder that goes on where `snapshot` was taken, under the same spec."""
        builder = cls(spec)
        for window_ns, panes, inner in state["windows"]:
            builder._windows[(window_ns, panes)].restore(inner)
        for group, inner in zip(builder._groups, state.get("groups", ()), strict=False):
            if group is not None:
                group.restore(inner)
        builder._newest = unpack_array(state["newest"])
        builder._since = unpack_array(state["since"])
        builder._previous = unpack_array(state["previous"])
        if spec.categories:
            builder._previous_codes = unpack_array(state["previous_codes"])
        else:
            builder._previous_codes = np.empty((len(builder._newest), 0), np.int32)
        builder._last_value = unpack_array(state["last_value"])
        builder._last_time = unpack_array(state["last_time"])
        return builder

    def forget(self, streams: Int64) -> None:
        """From now on these stream indices have never been seen."""
        known = streams[streams < len(self._newest)]
        for kept in (*self._windows.values(), *self._groups):
            if kept is not None:
                kept.forget(known)
        self._newest[known], self._since[known], self._last_time[known] = _NEVER, _NEVER, _NEVER
        self._previous[known], self._last_value[known] = np.nan, np.nan
        self._previous_codes[known] = MISSING

    def _reserve(self, streams: int) -> None:
        have = len(self._newest)
        if streams <= have:
            return
        more = max(streams, 2 * have) - have
        channels = len(self.spec.channels)
        self._newest = np.append(self._newest, np.full(more, _NEVER))
        self._since = np.append(self._since, np.full(more, _NEVER))
        self._previous = np.concatenate([self._previous, np.full((more, channels), np.nan)])
        missing = np.full((more, self._previous_codes.shape[1]), MISSING, np.int32)
        self._previous_codes = np.concatenate([self._previous_codes, missing])
        self._last_value = np.concatenate([self._last_value, np.full((more, channels), np.nan)])
        self._last_time = np.concatenate([self._last_time, np.full((more, channels), _NEVER)])

    def _accepted(self, part: _Part, status: Int8, horizon: int | None) -> _Part:
        """Rows that count; marks the others in `status`."""
        if horizon is not None:
            part = part.without(part.time > horizon, FUTURE, status)
        if len(part.rows) == 0:
            return part
        runs, t = Runs.of(part.stream), part.time
        first = self._newest[part.stream[runs.starts]]
        in_order = t[1:] >= t[:-1]
        in_order[runs.starts[1:] - 1] = True
        if not in_order.all() or (t[runs.starts] < first).any():
            part = part.without(t < runs.accumulate(np.maximum, t, first), LATE, status)
            if len(part.rows) == 0:
                return part
        return part.without(self._duplicates(part.stream, part.time, part.values, part.codes), DUPLICATE, status)

    def _duplicates(self, stream: Int32, time: Int64, values: Float64, codes: Int32) -> Bool:
        before_time = np.empty_like(time)
        before_time[1:] = time[:-1]
        first = np.append(True, stream[1:] != stream[:-1])
        before_time[first] = self._newest[stream[first]]
        same: Bool = time == before_time
        if same.any():
            before = np.empty_like(values)
            before[1:] = values[:-1]
            before[first] = self._previous[stream[first]]
            same &= ((values == before) | (np.isnan(values) & np.isnan(before))).all(axis=1)
            code_before = np.empty_like(codes)
            code_before[1:] = codes[:-1]
            code_before[first] = self._previous_codes[stream[first]]
            same &= (codes == code_before).all(axis=1)
        return same

    def _features(self, part: _Part) -> tuple[Float64, Int8]:
        """Columns of all groups, shape (F, m), and each row's status."""
        stream, time, values, codes = part.stream, part.time, part.values, part.codes
        runs = Runs.of(stream)
        of_run = stream[runs.starts]
        age = self._age(runs, of_run, time)
        held, before = self._last_values(runs, of_run, time, values)
        planes = np.empty((len(self.names), len(stream)))
        moments = {
            key: windows.push(stream, time, _columns(values, self._window_columns[key]))
            for key, windows in self._windows.items()
        }
        column = 0
        rows = Rows(stream, time, values, held, codes)
        for group, kept in zip(self.spec.features, self._groups, strict=True):
            if kept is None:
                column = self._fill(planes, column, group, time, held, before, moments)
            else:
                planes[column : column + kept.width] = kept.push(rows).T
                column += kept.width
        status = np.where(age < self.spec.warm_up_ns, np.int8(WARMING), np.int8(OK))
        missing = np.isnan(held)
        if missing.any():
            status[missing[:, self._required].any(axis=1)] = INCOMPLETE
        self._newest[of_run], self._previous[of_run] = time[runs.ends], values[runs.ends]
        self._previous_codes[of_run] = codes[runs.ends]
        return planes, status

    def _fill(
        self,
        planes: Float64,
        column: int,
        group: Features,
        time: Int64,
        held: Float64,
        before: Float64,
        moments: dict[tuple[int, int], Moments],
    ) -> int:
        """Write the columns of one feature group from `column` on; returns the next group's."""
        if isinstance(group, PhaseFeatures):
            waves = [wave for period in group.periods for wave in _phase(time, period)]
            planes[column : column + len(waves)] = waves
            return column + len(waves)
        if isinstance(group, WindowFeatures):
            key = (group.window_ns, group.panes)
            have = moments[key].take([self._window_columns[key].index(self._column[c]) for c in group.channels])
            found = [statistic(have, stat) for stat in group.stats]
        else:
            assert isinstance(group, InstantFeatures)
            place = [self._column[c] for c in group.channels]
            now = _columns(held, place)
            found = [now if kind == "value" else now - _columns(before, place) for kind in group.kinds]
        width = len(found) * len(group.channels)
        for i, values in enumerate(found):  # of each channel all kinds, channel after channel
            planes[column + i : column + width : len(found)] = values.T
        return column + width

    def _age(self, runs: Runs, of_run: NDArray[np.int32], time: Int64) -> Int64:
        """Event time since the stream began, or began again after a gap."""
        before = np.empty_like(time)
        before[1:] = time[:-1]
        before[runs.starts] = self._newest[of_run]
        begins = before == _NEVER
        if self.spec.gap_after_ns:
            begins |= time - before > self.spec.gap_after_ns
        if not begins.any():
            since: Int64 = self._since[of_run][runs.of_row]
            return time - since
        since = runs.accumulate(np.maximum, np.where(begins, time, _NEVER), self._since[of_run])
        self._since[of_run] = since[runs.ends]
        age: Int64 = time - since
        return age

    def _last_values(
        self, runs: Runs, of_run: NDArray[np.int32], time: Int64, values: Float64
    ) -> tuple[Float64, Float64]:
        """Per reading: the value, held where missing; and the stream's valid value before this reading."""
        n = len(time)
        valid = ~np.isnan(values)
        if valid.all():
            before = np.empty_like(values)
            before[1:] = values[:-1]
            before[runs.starts] = self._last_value[of_run]
            self._last_value[of_run], self._last_time[of_run] = values[runs.ends], time[runs.ends, None]
            return values, before
        row = np.maximum.accumulate(np.where(valid, np.arange(n)[:, None], -1), axis=0)
        start = runs.starts[runs.of_row][:, None]
        now_value, now_time = self._pick(row, start, of_run[runs.of_row], time, values)
        earlier = np.concatenate([np.full((1, values.shape[1]), -1), row[:-1]])
        before, _ = self._pick(earlier, start, of_run[runs.of_row], time, values)
        self._last_value[of_run], self._last_time[of_run] = now_value[runs.ends], now_time[runs.ends]
        held = np.where(time[:, None] - now_time <= self._hold, now_value, np.nan)
        return np.where(valid, values, held), before

    def _pick(
        self, row: Int64, start: Int64, stream: NDArray[np.int32], time: Int64, values: Float64
    ) -> tuple[Float64, Int64]:
        """Value and time at `row` per channel, or the stored ones where `row` lies before the stream's run."""
        inside = row >= start
        safe = np.maximum(row, 0)
        value = np.where(inside, np.take_along_axis(values, safe, axis=0), self._last_value[stream])
        return value, np.where(inside, time[safe], self._last_time[stream])


@dataclass(frozen=True, slots=True)
class _Part:
    """Readings of a batch, sorted by stream: where they are in the batch, and what they hold."""

    rows: Int64
    stream: Int32
    time: Int64
    values: Float64
    codes: Int32

    def without(self, bad: Bool, why: int, status: Int8) -> _Part:
        """Leave out `bad` readings, and note why."""
        if not bad.any():
            return self
        status[self.rows[bad]] = why
        good = ~bad
        return _Part(self.rows[good], self.stream[good], self.time[good], self.values[good], self.codes[good])


def _columns(values: Float64, place: list[int]) -> Float64:
    """Some columns, in this order; the array itself if these are all."""
    return values if place == list(range(values.shape[1])) else values[:, place]


def _window_channels(spec: FeatureSpec, column: dict[str, int]) -> dict[tuple[int, int], list[int]]:
    """Which channels each distinct (window, panes) needs."""
    needed: dict[tuple[int, int], list[int]] = {}
    for group in spec.features:
        if isinstance(group, WindowFeatures):
            have = needed.setdefault((group.window_ns, group.panes), [])
            have += [column[c] for c in group.channels if column[c] not in have]
    return needed


def _phase(time: Int64, period: str) -> tuple[Float64, Float64]:
    step = _step(time, period)
    return _SIN[step], _COS[step]


def _step(time: T, period: str) -> T:
    span = _PERIOD_NS[period]
    return (time + _PERIOD_SHIFT_NS[period]) % span // (span // _PHASE_STEPS)


def _same(values: list[float], others: list[float]) -> bool:
    return all(a == b or (a != a and b != b) for a, b in zip(values, others, strict=True))
