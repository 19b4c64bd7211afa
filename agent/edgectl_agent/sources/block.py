"""Lines that lie behind one another in memory, as a file has them.

To make an object of each line costs as much as a quarter of decoding it, so that is left to whoever asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from edgectl_agent.core.batch import Int64


class Block(Sequence[bytes]):
    """A sequence of lines without their line feeds.

    Args:
        raw: the lines, each with its line feed.
        cuts: shape (n,), the offset in `raw` behind each.
    """

    def __init__(self, raw: bytes = b"", cuts: Int64 | None = None) -> None:
        self.raw = raw
        self._cuts: Int64 = np.empty(0, np.int64) if cuts is None else cuts
        self._split: list[bytes] | None = None

    @classmethod
    def of(cls, raw: bytes) -> Block:
        """The lines of `raw`, which is empty or ends with a line feed."""
        return cls(raw, np.flatnonzero(np.frombuffer(raw, np.uint8) == ord("\n")) + 1)

    @classmethod
    def join(cls, lines: Sequence[bytes]) -> Block:
        """These lines, none of which has a line feed."""
        return cls.of(b"\n".join([*lines, b""]))

    @property
    def cuts(self) -> Int64:
        """The offset in `raw` behind each line; not to be written to."""
        return self._cuts

    @property
    def objects(self) -> bool:
        """Whether each line begins with ``{`` and ends with ``}``.

        Then no JSON value reaches from one line into another: within a value, a ``{`` may not follow a ``}`` but for
        whitespace, and text may not hold a line feed.
        """
        if not len(self):
            return False
        raw, ends = np.frombuffer(self.raw, np.uint8), self._cuts - 2
        opened = raw[0] == ord("{") and (raw.take(self._cuts[:-1]) == ord("{")).all()
        return bool(opened and (raw.take(ends) == ord("}")).all())

    def __len__(self) -> int:
        return len(self._cuts)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Block: ...
    def __getitem__(self, at: int | slice) -> bytes | Block:
        """A line, or some consecutive ones."""
        if not isinstance(at, slice):
            end = int(self._cuts[at])
            return self.raw[self.raw.rfind(b"\n", 0, end - 1) + 1 : end - 1]
        first, last, step = at.indices(len(self))
        if step != 1 or first >= last:
            return Block.join(self._lines[at])
        begin = int(self._cuts[first - 1]) if first else 0
        return Block(self.raw[begin : int(self._cuts[last - 1])], self._cuts[first:last] - begin)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._lines)

    def __add__(self, more: Block) -> Block:
        return Block(self.raw + more.raw, np.append(self._cuts, more._cuts + len(self.raw))) if len(self) else more

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._lines == list(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def _lines(self) -> list[bytes]:
        if self._split is None:
            self._split = self.raw.split(b"\n")[:-1]
        return self._split
