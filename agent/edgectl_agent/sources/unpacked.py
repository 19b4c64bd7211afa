"""A gzip file as the bytes in it, read forwards in bounded memory; what is damaged ends it, after all that is sound."""

from __future__ import annotations

import zlib
from typing import BinaryIO

_PACKED_BYTES = 64 * 1024
_STEP_BYTES = 256 * 1024


class Unpacked:
    """The content of `file`, which is at its start; one or several members.

    Attributes:
        damage: why it ended too early; empty while it is sound.
        ended: there is nothing more in it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rewind()

    def _rewind(self) -> None:
        self._file.seek(0)
        self._member = zlib.decompressobj(31)
        self._began = self.ended = False
        self.damage = ""
        self._have, self._at = b"", 0

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, /) -> int:
        if offset < self._at:
            self._rewind()
        while self._at < offset and self.read(min(_STEP_BYTES, offset - self._at)):
            pass
        return self._at

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; fewer only at the end. Raises OSError."""
        while len(self._have) < size and not self.ended:
            self._step()
        taken, self._have = self._have[:size], self._have[size:]
        self._at += len(taken)
        return taken

    def close(self) -> None:
        self._file.close()

    def _step(self) -> None:
        packed = self._member.unconsumed_tail or self._member.unused_data or self._file.read(_PACKED_BYTES)
        if self._member.eof:
            packed = packed.lstrip(b"\0")  # padding between members and behind the last
            self._member, self._began = zlib.decompressobj(31), False
        if not packed:
            self.ended = True
            self.damage = "it ends within compressed data" if self._began else ""
            return
        self._began = True
        try:
            self._have += self._member.decompress(packed, _STEP_BYTES)
        except zlib.error as e:
            self.ended, self.damage = True, str(e)
