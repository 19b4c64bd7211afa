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
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core import groups
from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Batch, Float64, Int32, Int64
from edgectl_agent.core.bundle import Features, FeatureSpec, InstantFeatures, PhaseFeatures, WindowFeatures
from edgectl_agent.core.categories import MISSING
from edgectl_agent.core.groups.interface import Rows
from edgectl_agent.core.groups.names import group_names
from edgectl_agent.core.units import DAY_NS
from edgectl_agent.core.windows import Moments, Runs, Windows, statistic

OK, WARMING, LATE, DUPLICATE, FUTURE, INCOMPLETE, OVER_LIMIT = range(7)
STATUS = ("ok", "warming", "late", "duplicate", "future", "incomplete", "over_limit")
Bool = NDArray[np.bool_]
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
    """Features of a batch, row by row as it arrived.

    Attributes:
        x: shape (n, F), float64; NaN where an optional channel is missing, and in rows that are not counted.
        status: shape (n,), one of `OK` … `INCOMPLETE`.
        out_of_range: values refused because they lay outside their channel's range or were not finite.
    """

    x: Float64
    status: Int8
    out_of_range: int

    @property
    def usable(self) -> Bool:
        usable: Bool = self.status == OK
        return usable


def feature_names(spec: FeatureSpec) -> tuple[str, ...]:
    """Column names in order: ``temp``, ``temp.diff``, ``temp.mean.5m``, ``day.sin``."""
    return tuple(name for group in spec.features for name in group_names(group))


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
        n = len(batch)
        x = np.full((n, len(self.names)), np.nan)
        status = np.full(n, OK, np.int8)
        if n == 0:
            return FeatureRows(x, status, 0)
        self._reserve(int(batch.stream.max()) + 1)
        # NaN fails both comparisons, and is not out of range.
        outside = (batch.values < self._low) | (batch.values > self._high)
        values = np.where(outside, np.nan, batch.values)
        codes = self._codes(batch)
        sorted_already = bool((batch.stream[1:] >= batch.stream[:-1]).all())
        order = np.arange(n) if sorted_already else np.argsort(batch.stream, kind="stable")
        rows = self._accepted(order, batch.stream, batch.event_time, values, codes, status, horizon_ns)
        if len(rows):
            x[rows], status[rows] = self._features(
                batch.stream[rows], batch.event_time[rows], values[rows], codes[rows]
            )
        return FeatureRows(x, status, int(outside.sum()))

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

    def _accepted(
        self, order: Int64, stream: Int32, time: Int64, values: Float64, codes: Int32, status: Int8, horizon: int | None
    ) -> Int64:
        """Rows that count, sorted by stream; marks the others in `status`."""
        if horizon is not None:
            future = time[order] > horizon
            status[order[future]] = FUTURE
            order = order[~future]
        if len(order) == 0:
            return order
        runs = Runs.of(stream[order])
        first = self._newest[stream[order[runs.starts]]]
        t = time[order]
        in_order = t[1:] >= t[:-1]
        in_order[runs.starts[1:] - 1] = True
        if not in_order.all() or (t[runs.starts] < first).any():
            late = t < runs.accumulate(np.maximum, t, first)
            status[order[late]] = LATE
            order = order[~late]
            if len(order) == 0:
                return order
        duplicate = self._duplicates(stream[order], time[order], values[order], codes[order])
        status[order[duplicate]] = DUPLICATE
        return order[~duplicate]

    def _codes(self, batch: Batch) -> Int32:
        if batch.codes is None:
            return np.full((len(batch), self._previous_codes.shape[1]), MISSING, np.int32)
        return batch.codes

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

    def _features(self, stream: Int32, time: Int64, values: Float64, codes: Int32) -> tuple[Float64, Int8]:
        runs = Runs.of(stream)
        of_run = stream[runs.starts]
        age = self._age(runs, of_run, time)
        held, before = self._last_values(runs, of_run, time, values)
        x = np.empty((len(stream), len(self.names)))
        moments = {
            key: windows.push(stream, time, values[:, self._window_columns[key]])
            for key, windows in self._windows.items()
        }
        column = 0
        rows = Rows(stream, time, values, held, codes)
        for group, kept in zip(self.spec.features, self._groups, strict=True):
            block = self._block(group, time, held, before, moments) if kept is None else kept.push(rows)
            x[:, column : column + block.shape[1]] = block
            column += block.shape[1]
        status = np.where(age < self.spec.warm_up_ns, WARMING, OK).astype(np.int8)
        status[np.isnan(held[:, self._required]).any(axis=1)] = INCOMPLETE
        self._newest[of_run], self._previous[of_run] = time[runs.ends], values[runs.ends]
        self._previous_codes[of_run] = codes[runs.ends]
        return x, status

    def _block(
        self,
        group: Features,
        time: Int64,
        held: Float64,
        before: Float64,
        moments: dict[tuple[int, int], Moments],
    ) -> Float64:
        """Columns of one feature group, shape (n, columns)."""
        if isinstance(group, WindowFeatures):
            key = (group.window_ns, group.panes)
            place = [self._window_columns[key].index(self._column[c]) for c in group.channels]
            picked = moments[key].take(place)
            return np.stack([statistic(picked, stat) for stat in group.stats], axis=2).reshape(len(time), -1)
        if isinstance(group, InstantFeatures):
            place = [self._column[c] for c in group.channels]
            kinds = {"value": held[:, place], "diff": held[:, place] - before[:, place]}
            return np.stack([kinds[kind] for kind in group.kinds], axis=2).reshape(len(time), -1)
        assert isinstance(group, PhaseFeatures)
        return np.stack([wave for period in group.periods for wave in _phase(time, period)], axis=1)

    def _age(self, runs: Runs, of_run: NDArray[np.int32], time: Int64) -> Int64:
        """Event time since the stream began, or began again after a gap."""
        before = np.empty_like(time)
        before[1:] = time[:-1]
        before[runs.starts] = self._newest[of_run]
        begins = before == _NEVER
        if self.spec.gap_after_ns:
            begins |= time - before > self.spec.gap_after_ns
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


def _window_channels(spec: FeatureSpec, column: dict[str, int]) -> dict[tuple[int, int], list[int]]:
    """Which channels each distinct (window, panes) needs."""
    needed: dict[tuple[int, int], list[int]] = {}
    for group in spec.features:
        if isinstance(group, WindowFeatures):
            have = needed.setdefault((group.window_ns, group.panes), [])
            have += [column[c] for c in group.channels if column[c] not in have]
    return needed


def _phase(time: Int64, period: str) -> tuple[Float64, Float64]:
    span = _PERIOD_NS[period]
    step = (time + _PERIOD_SHIFT_NS[period]) % span // (span // _PHASE_STEPS)
    return _SIN[step], _COS[step]
