"""Where a member of a Kafka consumer group goes on, partition by partition. Pure.

An offset is the number of the next record to read. Two places know one: this node (its snapshot, together with the
state of the partition's streams) and the group (committed to the broker, with the name of the member that did it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

_CLUSTER = "cluster"


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


class Committed(NamedTuple):
    """What the group's coordinator holds for a partition: the offset, and the member that committed it."""

    offset: int
    member: str


def resume(own: int | None, committed: Committed | None, member: str) -> int | None:
    """The offset at which `member` goes on; None if nobody has read the partition.

    Its own, with which its state goes, unless another member has since read on from there: those alerts are raised, and
    raising them again under this node's name would double them. What lies between is a gap for its state. An own
    offset that is behind what this member itself committed (an older snapshot had to be taken up) is read again: its
    alerts come out with the same ids.
    """
    if committed is None:
        return own
    if own is None or (committed.member != member and committed.offset > own):
        return committed.offset
    return own


def pack(cluster: str, offsets: Mapping[Partition, int]) -> dict[str, int | str]:
    """A source position: plain values; `unpack` is the inverse."""
    return {_CLUSTER: cluster, **{f"{topic}:{number}": offset for (topic, number), offset in offsets.items()}}


def unpack(position: Mapping[str, int | str]) -> tuple[str, dict[Partition, int]]:
    """(cluster, offsets) of a position that `pack` made; of an empty one, nothing."""
    found = {}
    for name, offset in position.items():
        topic, colon, number = name.rpartition(":")
        if colon:
            found[Partition(topic, int(number))] = int(offset)
    return str(position.get(_CLUSTER, "")), found


def lost(wanted: int, low: int, high: int) -> tuple[int, str]:
    """(how many offsets, why) of a partition that no longer holds `wanted` but `low` up to `high`.

    ``deleted-upstream``: retention or an operator deleted records before they were read; their number, at most, since
    compaction leaves gaps. ``offset-reset``: the partition ends before `wanted`, because the topic was made anew or the
    broker lost its end; how much that was cannot be told.
    """
    return (low - wanted, "deleted-upstream") if wanted < low else (1, "offset-reset")


def behind(
    covered: Mapping[Partition, int], known: Mapping[Partition, int], among: Iterable[Partition]
) -> dict[Partition, int]:
    """What is to be committed: the partitions `among` whose `covered` offset is not `known` to the group."""
    return {p: covered[p] for p in among if p in covered and covered[p] > known.get(p, -1)}
