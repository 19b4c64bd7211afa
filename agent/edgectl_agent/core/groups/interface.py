"""What a feature group is: state over streams, which turns accepted readings into columns.

The promise of every group:

* `Group.push` gets each stream's accepted readings in order of event time, and its rows depend on nothing but these:
  any batch boundaries, and any snapshot and restore between them, give the same bits;
* state has a fixed size per stream, declared in one place (`StreamArrays`); a stream that was never seen, or that was
  forgotten, is in the declared first state;
* work is a few numpy steps per batch, never a step per reading, unless its module says for which readings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Float64, Int32, Int64
from edgectl_agent.core.bundle import FeatureSpec
from edgectl_agent.core.units import DAY_NS

NEVER = int(np.iinfo(np.int64).min)
"""A time, or the number of a pane, that no reading has."""
MONDAY_NS = 4 * DAY_NS
"""A Monday's midnight, 1970-01-05 UTC, from which windows and weeks count."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Accepted readings of a batch, sorted by stream, each stream's in order of event time.

    Attributes:
        stream: shape (n,).
        event_time: shape (n,), ns.
        values: shape (n, c), NaN = missing or out of range; columns are the spec's channels.
        held: shape (n, c), the same with missing values held for as long as the channel says.
        codes: shape (n, k), -1 = missing; columns are the spec's categories.
    """

    stream: Int32
    event_time: Int64
    values: Float64
    held: Float64
    codes: Int32

    def __len__(self) -> int:
        return len(self.stream)


def elapsed(since: Int64, now: Int64) -> Int64:
    """``now - since``, 0 where `since` is `NEVER`, at most what 64 bits hold: 292 years."""
    passed = now - np.where(since == NEVER, now, since)
    found: Int64 = np.where(passed < 0, np.iinfo(np.int64).max, passed)
    return found


class StreamState(Protocol):
    """State over streams: `StreamArrays`, or what is made of such."""

    @property
    def bytes_per_stream(self) -> int: ...

    def forget(self, streams: NDArray[Any]) -> None: ...

    def snapshot(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


class StreamArrays:
    """Arrays whose first axis is the stream; they grow as streams appear, each by a declared first state."""

    def __init__(self, **columns: tuple[tuple[int, ...], type, Any]) -> None:
        """Columns by name: shape per stream, dtype, and what a new stream has (a scalar, or an array of that shape)."""
        self._first: dict[str, NDArray[Any]] = {
            name: np.full(shape, fill, dtype) for name, (shape, dtype, fill) in columns.items()
        }
        self._arrays = {name: first[None][:0] for name, first in self._first.items()}
        self._streams = 0

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    @property
    def bytes_per_stream(self) -> int:
        return sum(first.nbytes for first in self._first.values())

    def reserve(self, stream: Int32) -> None:
        """Have room for these streams."""
        self.reserve_to(int(stream.max(initial=-1)))

    def reserve_to(self, stream: int) -> None:
        """Have room for all streams up to this one."""
        self._streams = max(self._streams, stream + 1)
        for name, array in self._arrays.items():
            if len(array) < self._streams:
                more = max(self._streams, 2 * len(array)) - len(array)
                self._arrays[name] = np.concatenate([array, np.repeat(self._first[name][None], more, axis=0)])

    def forget(self, streams: NDArray[Any]) -> None:
        """Put these streams back to the first state."""
        known = streams[streams < self._streams]
        for name, array in self._arrays.items():
            array[known] = self._first[name]

    def snapshot(self) -> dict[str, Any]:
        return {name: pack_array(array[: self._streams]) for name, array in self._arrays.items()}

    def restore(self, state: dict[str, Any]) -> None:
        for name in self._arrays:
            self._arrays[name] = unpack_array(state[name])
            self._streams = len(self._arrays[name])


class Group(ABC):
    """State of one feature group for all streams."""

    width: int
    """How many columns it has."""
    state: StreamArrays
    parts: Mapping[str, StreamState] = MappingProxyType({})
    """State beside `state`, by its name in the snapshot, which no column of `state` has."""
    takes_one: ClassVar[bool] = False
    """Whether it has `push_one`."""

    @abstractmethod
    def push(self, rows: Rows) -> Float64:
        """Add readings; returns their columns, shape (n, width), NaN where there is nothing to say."""

    def push_one(self, stream: int, time_ns: int, values: Sequence[float]) -> list[float]:
        """`push` of one reading whose values are all a group needs: the same columns to the last bit, and sooner."""
        raise NotImplementedError

    def forget(self, streams: NDArray[Any]) -> None:
        """These stream indices now mean other streams, or none."""
        for kept in (self.state, *self.parts.values()):
            kept.forget(streams)

    def snapshot(self) -> dict[str, Any]:
        """All state, of plain values."""
        return self.state.snapshot() | {name: part.snapshot() for name, part in self.parts.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `snapshot` was taken by a group of the same definition."""
        self.state.restore(state)
        for name, part in self.parts.items():
            part.restore(state[name])

    @property
    def bytes_per_stream(self) -> int:
        """What one stream costs in memory, without what numpy adds per array."""
        return sum(kept.bytes_per_stream for kept in (self.state, *self.parts.values()))


def channel_columns(spec: FeatureSpec, names: tuple[str, ...]) -> list[int]:
    """Where `Rows.values` has these channels."""
    place = {channel.name: i for i, channel in enumerate(spec.channels)}
    return [place[name] for name in names]


def category_columns(spec: FeatureSpec, names: tuple[str, ...]) -> list[int]:
    """Where `Rows.codes` has these categories."""
    return [spec.categories.index(name) for name in names]
