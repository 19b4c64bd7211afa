"""Where a member of a consumer group goes on: the rules as a table, and what must hold for any offsets."""

from __future__ import annotations

import pytest
from edgectl_agent.core.offsets import Committed, Partition, behind, lost, pack, resume, unpack
from hypothesis import given
from hypothesis import strategies as st

OFFSETS = st.integers(0, 2**62)
PARTITIONS = st.builds(Partition, st.text("abz09._-", min_size=1, max_size=20), st.integers(0, 2**31 - 1))


@pytest.mark.parametrize(
    ("own", "committed", "goes_on", "because"),
    [
        (None, None, None, "nobody has read it"),
        (None, Committed(7, "n2.k"), 7, "this node has no state of it"),
        (9, None, 9, "nothing was committed yet"),
        (9, Committed(7, "n1.k"), 9, "the snapshot is newer than the commit"),
        (5, Committed(7, "n1.k"), 5, "an older snapshot was taken up: the same alerts come out again"),
        (5, Committed(7, "n2.k"), 7, "another node has raised the alerts up to there"),
        (9, Committed(7, "n2.k"), 9, "what this node has read it does not read again"),
        (0, Committed(0, "n2.k"), 0, "zero is an offset"),
    ],
)
def test_a_member_goes_on(own: int | None, committed: Committed | None, goes_on: int | None, because: str) -> None:
    assert resume(own, committed, "n1.k") == goes_on, because


@given(st.text("abc", max_size=5), st.dictionaries(PARTITIONS, OFFSETS, max_size=5))
def test_a_position_holds_the_cluster_and_every_offset(cluster: str, offsets: dict[Partition, int]) -> None:
    assert unpack(pack(cluster, offsets)) == (cluster, offsets)


def test_what_retention_deleted_is_numbered_and_a_partition_that_ends_earlier_is_not() -> None:
    assert lost(10, 70, 100) == (60, "deleted-upstream")
    assert lost(500, 0, 100) == (1, "offset-reset")


@given(st.dictionaries(PARTITIONS, OFFSETS), st.dictionaries(PARTITIONS, OFFSETS), st.sets(PARTITIONS))
def test_a_commit_never_goes_back_nor_touches_what_others_own(
    covered: dict[Partition, int], known: dict[Partition, int], owned: set[Partition]
) -> None:
    due = behind(covered, known, owned)
    assert due.keys() <= owned & covered.keys()
    assert all(offset == covered[p] and offset > known.get(p, -1) for p, offset in due.items())
