"""Columnar readings: the only form in which data moves through a node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batch:
    """``n`` readings of ``c`` channels, in order of arrival.

    Attributes:
        stream: shape (n,), index into a `StreamTable`.
        event_time: shape (n,), nanoseconds since 1970 UTC.
        values: shape (n, c), NaN where the reading has no value.
        codes: shape (n, k), what `categories.CodeTable` makes of categories, -1 where the reading has none. None where
            nobody asks for categories.
        member: shape (n,), which member of a join brings each reading; None where nothing is joined.
    """

    stream: Int32
    event_time: Int64
    values: Float64
    codes: Int32 | None = None
    member: Int32 | None = None

    def __len__(self) -> int:
        return len(self.stream)

    def take(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Batch:
        """These readings."""
        codes = None if self.codes is None else self.codes[rows]
        member = None if self.member is None else self.member[rows]
        return Batch(self.stream[rows], self.event_time[rows], self.values[rows], codes, member)


class StreamTable:
    """Stream names ↔ small integers. An index stays valid until it is released; the lowest free one is given next."""

    def __init__(self, names: Sequence[str | None] = ()) -> None:
        self._names: list[str | None] = []
        self._index: dict[str, int] = {}
        self._free: list[int] = []
        """Falling."""
        self.restore(names)

    def intern(self, name: str) -> int:
        """Index of `name`, a free one or a new one if it is unknown."""
        found = self._index.get(name)
        if found is None:
            if self._free:
                found = self._free.pop()
                self._names[found] = name
            else:
                found = len(self._names)
                self._names.append(name)
            self._index[name] = found
        return found

    def release(self, indices: Iterable[int]) -> None:
        """These indices name no stream from now on."""
        for index in indices:
            name = self._names[index]
            if name is not None:
                del self._index[name]
                self._names[index] = None
                self._free.append(index)
        self._free.sort(reverse=True)

    def restore(self, names: Sequence[str | None]) -> None:
        """Begin with what `slots` said."""
        self._names = list(names)
        self._index = {name: index for index, name in enumerate(self._names) if name is not None}
        self._free = [index for index in reversed(range(len(self._names))) if self._names[index] is None]

    def indices(self, names: Sequence[str]) -> Int32 | None:
        """Their indices, None if one of them is unknown; shape (n,)."""
        try:
            return np.fromiter(map(self._index.__getitem__, names), np.int32, len(names))
        except KeyError:
            return None

    def places(self, names: Sequence[str], missing: int) -> Int32:
        """As `indices`, with `missing` for unknown ones."""
        return np.fromiter(map(self._index.get, names, repeat(missing)), np.int32, len(names))

    def find(self, name: str) -> int | None:
        """Index of `name`, None if it is unknown."""
        return self._index.get(name)

    def name(self, index: int) -> str:
        """The stream that `index` means. Raises `LookupError` if there is none."""
        name = self._names[index]
        if name is None:
            raise LookupError(f"no stream has the index {index}")
        return name

    @property
    def names(self) -> tuple[str, ...]:
        """Of all streams, by index."""
        return tuple(name for name in self._names if name is not None)

    @property
    def free(self) -> tuple[int, ...]:
        """Indices that name no stream."""
        return tuple(self._free)

    @property
    def slots(self) -> tuple[str | None, ...]:
        """What each index means, None for a free one: for a snapshot."""
        return tuple(self._names)

    def __len__(self) -> int:
        return len(self._index)
