"""Columnar readings: the only form in which data moves through a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    stream: Int32
    event_time: Int64
    values: Float64
    codes: Int32 | None = None

    def __len__(self) -> int:
        return len(self.stream)

    def take(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Batch:
        """These readings."""
        codes = None if self.codes is None else self.codes[rows]
        return Batch(self.stream[rows], self.event_time[rows], self.values[rows], codes)


class StreamTable:
    """Stream names ↔ small integers, in order of first appearance; never forgets, so indices stay valid."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        for name in names:
            self.intern(name)

    def intern(self, name: str) -> int:
        """Index of `name`, a new one if it is unknown."""
        found = self._index.get(name)
        if found is None:
            found = self._index[name] = len(self._names)
            self._names.append(name)
        return found

    def indices(self, names: Sequence[str]) -> Int32 | None:
        """Their indices, None if one of them was never interned; shape (n,)."""
        try:
            return np.fromiter(map(self._index.__getitem__, names), np.int32, len(names))
        except KeyError:
            return None

    def find(self, name: str) -> int | None:
        """Index of `name`, None if it was never interned."""
        return self._index.get(name)

    def name(self, index: int) -> str:
        return self._names[index]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def __len__(self) -> int:
        return len(self._names)
