"""Lines that lie behind one another in memory are read as if each came by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from edgectl_agent.config import Mapping
from edgectl_agent.sources.block import Block
from edgectl_agent.sources.decode import JsonDecoder, Records
from hypothesis import example, given, settings
from hypothesis import strategies as st

MAPPING = Mapping(path="x", stream="m", time="ts", channels={"temp": "t"})
GOOD = b'{"ts": 1, "m": "a", "t": 2}'
PIECES = [GOOD, b'{"ts": 1, "m": "b", "t": 3', *(bytes([char]) for char in b'{}[],:" \r\x007'), b'"t"', b'"u": [']
LINES = st.lists(st.lists(st.sampled_from(PIECES), max_size=4).map(b"".join), max_size=8)


def outcome(lines: Sequence[bytes]) -> tuple[object, ...]:
    got: Records = JsonDecoder(MAPPING).decode(lines)
    return (
        got.streams, got.event_time.tolist(), got.values.tobytes(), got.line.tolist(), got.rejected, got.samples,
    )  # fmt: skip


@settings(deadline=None, max_examples=500)
@given(lines=LINES)
@example(lines=[GOOD + GOOD, b'{"ts": 1, "m": "b",', b'"t": 3}'])
@example(lines=[GOOD + GOOD, b"", GOOD])
@example(lines=[b'{"ts": 1, "m": "a", "u": [{"t": 2}', b'{"ts": 1}], "t": 3}', GOOD + GOOD])
@example(lines=[b'{"ts": 1, "m": "a", "u": [{}', b',{}], "t": 3}', GOOD + GOOD])
@example(lines=[b'{"ts": 1, "m": "a', b'", "t": 3}', GOOD + b" " + GOOD])
def test_each_line_of_a_block_is_judged_alone(lines: list[bytes]) -> None:
    assert outcome(Block.join(lines)) == outcome(lines)


def test_a_block_of_good_lines_is_decoded_without_an_object_per_line() -> None:
    block = Block.join([GOOD] * 3)
    assert block.objects
    assert JsonDecoder(MAPPING).decode(block).streams == ("a", "a", "a")
    assert block._split is None


@pytest.mark.parametrize("line", [b"", b"7", b"{", b"}", b" {}", b"{} ", b"{}\r", b"[{}]"])
def test_a_line_that_begins_or_ends_otherwise_is_no_object(line: bytes) -> None:
    for lines in ([line], [line, b"{}"], [b"{}", line], [b"{}", line, b"{}"]):
        assert not Block.join(lines).objects


@settings(deadline=None, max_examples=100)
@given(lines=LINES, more=LINES, where=st.slices(8), at=st.integers(-8, 7))
def test_a_block_is_the_sequence_of_its_lines(lines: list[bytes], more: list[bytes], where: slice, at: int) -> None:
    block = Block.join(lines)
    assert block == lines
    assert len(block) == len(lines)
    assert block[where] == lines[where]
    assert np.array_equal(block[where].cuts, Block.join(lines[where]).cuts)
    assert block + Block.join(more) == [*lines, *more]
    if -len(lines) <= at < len(lines):
        assert block[at] == lines[at]
