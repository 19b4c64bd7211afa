"""Inputs made from other inputs: what breaks decoders of text, of JSON, and of length-prefixed binary.

change = Mutator(random.Random(7), seeds=(b'{"ts":1,"v":2.5}',), words=(b'"v"',), longest=4096)
change()  # b'{"ts":1,"v":1e309}', b'{"ts":1,"v', …
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence

_TOKEN = re.compile(rb'"[^"\\\n]{0,200}"|-?\d[\d.eE+:TZ-]{0,60}|[A-Za-z_@$][\w.-]{0,60}')
_CORPUS = 400
"""Inputs that showed new behaviour and are changed further; the seeds stay beside them."""

NUMBERS = (
    b"\xd9\xa1",
    b"0", b"-0", b"-1", b"1e309", b"-1e309", b"1e-400", b"NaN", b"nan", b"Infinity", b"-inf", b"2147483648", b"0x10",
    b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"1_000", b"1.",
    b"4294967295", b"9" * 400, b"1" * 5000, b"0." + b"1" * 3000, b"1e" + b"9" * 30, b"1773479520.5",
    b"99999999999999", b"-62135596801", b"253402300800", b"9.2e18", b"0001-01-01T00:00:00Z", b"9999-12-31T23:59:59Z",
    b"2026-03-29T02:30:00", b"2026-10-25T02:30:00", b"2026-06-30T23:59:60Z", b"2026-02-30", b"2262-04-12T00:00:00Z",
)  # fmt: skip
TEXTS = (
    b'""', b"null", b"true", b"false", b"[]", b"{}", b'"\\ud800"', b'"\\u0000"', b'"\xed\xa0\x80"', b'"\xe2\x80\xae"',
    b'"' + b"x" * 300 + b'"', b'"' + b"\xf0\x9f\x92\xa9" * 400 + b'"', b"'", b'"', b"\\", b"~", b"!!python/none x",
    b"&a", b"*a", b"<<: *a", b"? ", b"- ", b": ", b"%", b"{{", b"\t", b"\x0b", b"\x85", b"\xe2\x80\xa8", b"=CMD()",
)  # fmt: skip
RAW = (
    b"\0", b"\n", b"\r", b"\r\n", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc0\xaf", b"\x80", b"\xed\xa0\x80", b",",
    b"\xf4\x90\x80\x80", b"\x1f\x8b", b"\n\n", b"[", b"]", b"{", b"}", b'"', b"\\", b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc1",
)  # fmt: skip


class Mutator:
    """Draws inputs of at most `longest` bytes from `rng` alone, so that a seed and an order of calls repeat them.

    Args:
        seeds: valid inputs.
        words: what means something to the decoder: keys, magic numbers, separators.
    """

    def __init__(
        self, rng: random.Random, seeds: Sequence[bytes], words: Sequence[bytes] = (), longest: int = 4096
    ) -> None:
        self._rng, self._longest = rng, longest
        self._seeds, self._words, self._corpus = tuple(seeds), (*words, *RAW), list(seeds)
        self._ways: tuple[Callable[[bytes], bytes], ...] = (
            self._token, self._token, self._token, self._flip, self._flip, self._cut, self._word, self._splice,
            self._integer, self._repeat, self._nest, self._recode,
        )  # fmt: skip

    def __call__(self) -> bytes:
        """The next input."""
        pick = self._rng.random
        data = self._corpus[int(pick() * len(self._corpus))]
        for _ in range(1 if pick() < 0.6 else 1 + int(pick() * 6)):
            data = self._ways[int(pick() * len(self._ways))](data)
        return data[: self._longest]

    def keep(self, data: bytes) -> None:
        """`data` showed something new: change it further."""
        if len(self._corpus) < _CORPUS + len(self._seeds):
            self._corpus.append(data)
        else:
            self._corpus[self._rng.randrange(len(self._seeds), len(self._corpus))] = data

    def _at(self, data: bytes) -> int:
        return int(self._rng.random() * (len(data) + 1))

    def _one(self, choices: Sequence[bytes]) -> bytes:
        return choices[int(self._rng.random() * len(choices))]

    def _token(self, data: bytes) -> bytes:
        """Another value in place of a number, a word or a quoted text."""
        start = self._at(data)
        found = _TOKEN.search(data, start) or _TOKEN.search(data)
        if found is None:
            return self._word(data)
        choice = self._rng.random()
        new = self._one(NUMBERS if choice < 0.5 else TEXTS if choice < 0.8 else self._words)
        return data[: found.start()] + new + data[found.end() :]

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return self._word(data)
        changed = bytearray(data)
        for _ in range(1 if self._rng.random() < 0.7 else 4):
            at = int(self._rng.random() * len(changed))
            changed[at] ^= 1 << int(self._rng.random() * 8) if self._rng.random() < 0.5 else self._rng.randrange(256)
        return bytes(changed)

    def _cut(self, data: bytes) -> bytes:
        """Without its end, its beginning, or something in it."""
        low, high = sorted((self._at(data), self._at(data)))
        choice = self._rng.random()
        return data[:low] if choice < 0.4 else data[high:] if choice < 0.5 else data[:low] + data[high:]

    def _word(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self._one(self._words) + data[at:]

    def _splice(self, data: bytes) -> bytes:
        other = self._one(self._corpus)
        return data[: self._at(data)] + other[self._at(other) :]

    def _integer(self, data: bytes) -> bytes:
        """A binary number of some width over what is there: lengths and counts that lie."""
        at, value = self._at(data), 1 << int(self._rng.random() * 64)
        value += int(self._rng.random() * 3) - 1
        form = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")[int(self._rng.random() * 7)]
        number = struct.pack(form, value & ((1 << 8 * struct.calcsize(form)) - 1))
        return data[:at] + number + data[at + len(number) :]

    def _repeat(self, data: bytes) -> bytes:
        """Some of it many times: a line, a key, a bracket, a member."""
        low = self._at(data)
        high = min(len(data), low + 1 + int(self._rng.random() ** 3 * 200))
        times = min(1 << int(self._rng.random() * 14), 1 + self._longest // max(1, high - low))
        return data[:low] + data[low:high] * times + data[high:]

    def _nest(self, data: bytes) -> bytes:
        depth = 1 << int(self._rng.random() * 12)
        left, right = ((b"[", b"]"), (b'{"v":', b"}"), (b"{a: ", b"}"), (b"- ", b""))[int(self._rng.random() * 4)]
        found = _TOKEN.search(data, self._at(data))
        at, end = found.span() if found else (len(data), len(data))
        return (
            data[:at] + left * depth + data[at:end] + (right * depth if self._rng.random() < 0.7 else b"") + data[end:]
        )

    def _recode(self, data: bytes) -> bytes:
        encoding = ("utf-16", "utf-16-le", "utf-32", "cp1252", "utf-7", "cp500")[int(self._rng.random() * 6)]
        return data.decode("latin-1").encode(encoding, "replace")
