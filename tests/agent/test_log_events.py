from __future__ import annotations

import io
import itertools

import numpy as np
from edgectl_agent.config import LogLines
from edgectl_agent.sources.lines import LineReader
from edgectl_agent.sources.log_events import EventReader, Joiner
from edgectl_agent.sources.log_lines import joiner
from hypothesis import given
from hypothesis import strategies as st

TRACE = [b"10:00 ERROR failed", b"java.net.SocketTimeoutException: timed out", b"\tat Db.query", b"Caused by: x",
         b"10:01 INFO next"]  # fmt: skip


def events(joining: Joiner, lines: list[bytes], cuts: list[int]) -> tuple[list[bytes], list[int]]:
    """All events, of lines that come in blocks which end at `cuts`."""
    ends = np.cumsum([len(line) + 1 for line in lines]).astype(np.int64)
    found: list[bytes] = []
    offsets: list[int] = []
    places = [0, *sorted(cuts), len(lines)]
    for a, b in itertools.pairwise(places):
        some, at = joining.push(lines[a:b], ends[a:b])
        found, offsets = found + some, offsets + at
    some, at = joining.flush()
    return found + some, offsets + at


def test_a_stack_trace_belongs_to_its_line() -> None:
    found, offsets = events(joiner(LogLines()), TRACE, [])
    assert found == [b"\n".join(TRACE[:4]), TRACE[4]]
    assert offsets == [sum(len(line) + 1 for line in TRACE[:4]), sum(len(line) + 1 for line in TRACE)]


def test_a_pattern_says_what_begins_an_event() -> None:
    found, _ = events(joiner(LogLines(begins=r"\d\d:\d\d ")), [b"10:00 a", b"b", b"10:01 c"], [])
    assert found == [b"10:00 a\nb", b"10:01 c"]


line = st.one_of(st.sampled_from([b" x", b"", b"\tat f", b"a", b"b", b"Caused by: y"]),
                 st.binary(max_size=6).map(lambda b: b.replace(b"\n", b"")))  # fmt: skip


@given(st.lists(line, max_size=20), st.data())
def test_events_do_not_depend_on_how_lines_are_read(lines: list[bytes], data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(lines)), max_size=4))
    said = LogLines(max_lines=3, max_event="256")
    whole, parts = joiner(said), joiner(said)
    assert events(whole, lines, []) == events(parts, lines, cuts)
    assert whole.dropped == parts.dropped
    again = [b for event in events(joiner(said), lines, [])[0] for b in event.split(b"\n")]
    assert len(again) + whole.dropped <= len(lines)
    assert sum(1 for one in again if one.strip()) + whole.dropped >= sum(1 for one in lines if one.strip())


def test_an_event_waits_for_its_next_line_until_nothing_came_for_a_while() -> None:
    now = [0.0]
    reader = EventReader(LineReader(io.BytesIO(b"a\n b\n")), joiner(LogLines()), 2.0, lambda: now[0])
    assert reader.read(100).lines == []
    assert not reader.ready
    now[0] = 2.0
    assert reader.ready
    taken = reader.read(100)
    assert (taken.lines, taken.ends.tolist()) == ([b"a\n b"], [5])


def test_lines_that_continue_nothing_are_dropped_and_counted() -> None:
    joining = joiner(LogLines(max_lines=2))
    found, _ = events(joining, [b" orphan", b"a", b" 1", b" 2", b" 3", b"b"], [])
    assert found == [b"a\n 1", b"b"]
    assert joining.dropped == 3
