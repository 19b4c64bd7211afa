"""Between the member's thread and the worker: order, bounds, and partitions that are taken away."""

from __future__ import annotations

from edgectl_agent.core.offsets import Partition
from edgectl_agent.sources.kafka_inbox import Inbox, Taken
from hypothesis import given
from hypothesis import strategies as st

A, B = Partition("t", 0), Partition("t", 1)


def filled(messages: list[tuple[Partition, int]], room: int = 10**6) -> Inbox:
    """An inbox that owns `A` and `B`, with one message per (partition, offset)."""
    inbox = Inbox(room, {})
    inbox.own({A: None, B: None})
    put(inbox, messages)
    return inbox


def put(inbox: Inbox, messages: list[tuple[Partition, int]]) -> int:
    where, offsets = [tuple(p) for p, _ in messages], [offset for _, offset in messages]
    values = [f"{p.number}:{offset}".encode() for p, offset in messages]
    return inbox.put(where, offsets, [None] * len(messages), values)  # type: ignore[arg-type]


def everything(inbox: Inbox, limit: int) -> list[Taken]:
    taken = [inbox.take(limit, 0.0)]
    while taken[-1].values or taken[-1].skipped:
        taken.append(inbox.take(limit, 0.0))
    return taken


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.booleans())), st.integers(1, 7))
def test_messages_come_out_in_order_and_each_chunk_says_where_to_go_on(
    arrivals: list[tuple[Partition, bool]], limit: int
) -> None:
    inbox, sent, next_offset = filled([]), list[tuple[Partition, int]](), {A: 0, B: 0}
    for partition, gap in arrivals:  # compaction leaves gaps
        next_offset[partition] += 1 + gap
        sent.append((partition, next_offset[partition]))
    for start in range(0, len(sent), 3):
        put(inbox, sent[start : start + 3])
    seen: dict[Partition, int] = {}
    out: list[bytes | None] = []
    for taken in everything(inbox, limit):
        assert len(taken.values) <= limit
        out += taken.values
        seen |= {p: offset + 1 for p, offset in sent[len(out) - len(taken.values) : len(out)]}
        assert taken.offsets == seen
    assert out == [f"{p.number}:{offset}".encode() for p, offset in sent]
    assert inbox.bytes == 0


def test_nothing_of_a_partition_that_was_taken_away_comes_out_nor_goes_in() -> None:
    inbox = filled([(A, 0), (B, 0), (A, 1), (B, 1)])
    inbox.take(1, 0.0)
    inbox.drop([A])
    assert put(inbox, [(A, 2), (B, 2)]) == 1
    (taken, _) = everything(inbox, 10)
    assert taken.values == [b"1:0", b"1:1", b"1:2"]
    assert taken.offsets == {A: 1, B: 3}


def test_a_partition_that_comes_back_goes_on_where_it_is_told() -> None:
    inbox = filled([(A, 0)])
    inbox.take(9, 0.0)
    inbox.drop([A])
    inbox.own({A: 40})
    assert inbox.take(9, 0.0).offsets == {A: 40}
    assert inbox.handed(A) == 40
    assert inbox.handed(B) is None


def test_what_cannot_be_read_is_counted_between_its_neighbours() -> None:
    inbox = filled([(A, 0)])
    inbox.skip(A, 70, "deleted-upstream", 69)
    put(inbox, [(A, 70)])
    first, rest = inbox.take(1, 0.0), inbox.take(9, 0.0)
    assert (first.values, first.skipped, first.offsets) == ([b"0:0"], {}, {A: 1})
    assert (rest.values, rest.skipped, rest.offsets) == ([b"0:70"], {"deleted-upstream": 69}, {A: 71})


def test_there_is_no_room_until_the_worker_takes_something() -> None:
    inbox = filled([(A, 0), (A, 1)], room=100)
    assert not inbox.wait_for_room(0.0)
    inbox.take(2, 0.0)
    assert inbox.wait_for_room(0.0)
