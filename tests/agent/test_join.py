"""Several streams joined in event time: held to a plain reference, for any batches, restarts and order of arrival."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from edgectl_agent.core.batch import Batch, Int64, StreamTable
from edgectl_agent.core.bundle import Channel, FeatureSpec, InstantFeatures, Join, JoinMember
from edgectl_agent.core.join import Joiner, Membership
from edgectl_agent.core.reorder import Released
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import SECOND, batches, cuts
from tests.agent.test_reorder import EXAMPLES

RAW = ("press-1/p", "press-2/p", "oven-1", "oven-2", "hall")
LATENESS, IDLE, WITHIN = 5 * SECOND, 20 * SECOND, 12 * SECOND
KEYED = (
    JoinMember(streams="press-*/p", channels=("pressure",)),
    JoinMember(streams="oven-*", channels=("temp",)),
    JoinMember(streams="hall", channels=("humidity",)),
)
Row = tuple[str, int, tuple[float, ...]]


def spec(every: int = 0, lateness: int = LATENESS, members: tuple[JoinMember, ...] = KEYED, **join: Any) -> FeatureSpec:
    names = ("pressure", "temp", "humidity")
    said = {"stream": "line-*", "members": members, "within_ns": WITHIN, "every_ns": every, "idle_ns": IDLE} | join
    return FeatureSpec(
        channels=tuple(Channel(name=name) for name in names),
        features=(InstantFeatures(channels=names, kinds=("value",)),),
        warm_up_ns=0,
        lateness_ns=lateness or msgspec.UNSET,
        join=Join(**said),
    )


def joined(spec: FeatureSpec, batch: Batch, raw: tuple[str, ...] = RAW) -> tuple[Batch, StreamTable]:
    """As the engine hands readings on: joined streams, and each reading's member."""
    assert not isinstance(spec.join, msgspec.UnsetType)
    names, member = Membership(spec.join).place([raw[i] for i in batch.stream])
    table = StreamTable()
    stream = np.array([table.intern(name) for name in names], np.int32)
    return Batch(stream, batch.event_time, batch.values, member=member), table


def rows(released: Released, table: StreamTable) -> list[Row]:
    batch = released.batch
    return [
        (table.name(int(stream)), int(time), tuple(values))
        for stream, time, values in zip(batch.stream, batch.event_time, batch.values.tolist(), strict=True)
    ]


def through(spec: FeatureSpec, batch: Batch, where: list[slice], restart: bool = False) -> tuple[list[Row], int]:
    """Every row, by stream and in the order in which it was given out; and how many readings were late."""
    batch, table = joined(spec, batch)
    one, found, late = Joiner(spec), [], 0
    for part in where:
        released = one.push(batch.take(part), np.arange(len(batch))[part])
        found += rows(released, table)
        late += released.late
        if restart:
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(one.snapshot()))
            one = Joiner(spec)
            one.restore(state)
    found += rows(one.flush(), table)
    assert one.held == 0
    return sorted(found, key=lambda row: row[0]), late  # stable: within a stream as given out


def plain(spec: FeatureSpec, batch: Batch) -> list[Row]:
    """The rule, reading by reading, of all that there is."""
    assert not isinstance(spec.join, msgspec.UnsetType)
    columns = {"pressure": 0, "temp": 1, "humidity": 2}
    within = spec.join.within_ns
    told: dict[tuple[str, str], list[tuple[int, float]]] = {}
    leads: dict[str, set[int]] = {}
    for stream, time, values in zip(batch.stream, batch.event_time.tolist(), batch.values.tolist(), strict=True):
        (name,), (member,) = Membership(spec.join).place([RAW[stream]])
        (channel,) = spec.join.members[member].channels
        value = values[columns[channel]]
        key = "" if name == "line-*" else name
        if not math.isnan(value):
            told.setdefault((key, channel), []).append((time, value))
        if member == 0 and not spec.join.every_ns:
            leads.setdefault(key, set()).add(time)
        elif spec.join.every_ns and key and not math.isnan(value):
            every = spec.join.every_ns
            last = (time + within) // every
            leads.setdefault(key, set()).update(g * every for g in range(-(-time // every), last + 1))

    def value(key: str, channel: str, at: int) -> float:
        pairs = told.get(("" if channel == "humidity" else key, channel), [])
        known = [pair for pair in pairs if at - within <= pair[0] <= at]
        return max(known)[1] if known else math.nan

    return [(key, at, tuple(value(key, c, at) for c in columns)) for key in sorted(leads) for at in sorted(leads[key])]


def same(one: list[Row], other: list[Row]) -> bool:
    return repr(one) == repr(other)


def whole(batch: Batch) -> list[slice]:
    return [slice(0, len(batch))]


@pytest.mark.parametrize("every", [0, 2 * SECOND], ids=["leader", "grid"])
@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data(), batch=batches(streams=5, channels=3))
def test_batch_boundaries_and_restarts_change_no_row_of_a_join(every: int, data: st.DataObject, batch: Batch) -> None:
    one = through(spec(every), batch, whole(batch))
    other = through(spec(every), batch, data.draw(cuts(len(batch))), restart=True)
    assert same(one[0], other[0])
    assert one[1] == other[1]


@st.composite
def delays(draw: st.DrawFn, batch: Batch) -> Int64:
    """Members that lag behind others by up to `IDLE`, and streams out of order by up to `LATENESS`."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    member = np.array([0, 0, 1, 1, 2])[batch.stream]
    return rng.integers(0, IDLE + 1, 3)[member] + rng.integers(0, LATENESS + 1, len(batch))


@pytest.mark.parametrize("every", [0, 2 * SECOND], ids=["leader", "grid"])
@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data(), batch=batches(streams=5, channels=3))
def test_a_join_gives_what_the_plain_rule_does_for_any_order_of_arrival(
    every: int, data: st.DataObject, batch: Batch
) -> None:
    arrived = batch.take(np.argsort(batch.event_time + data.draw(delays(batch)), kind="stable"))
    found, late = through(spec(every), arrived, data.draw(cuts(len(batch))), restart=True)
    assert late == 0
    assert same(found, plain(spec(every), batch))


@pytest.mark.parametrize("every", [0, 2 * SECOND], ids=["leader", "grid"])
@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data(), batch=batches(streams=5, channels=3))
def test_sources_that_catch_up_at_their_own_pace_are_joined_as_if_read_in_order(
    every: int, data: st.DataObject, batch: Batch
) -> None:
    """The presses come from one source and the ovens from another, of which either may be read far ahead."""
    wanted = spec(every)
    jitter = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).integers(0, LATENESS + 1, len(batch))
    order = np.argsort(batch.event_time + jitter, kind="stable")
    left = [order[batch.stream[order] < 2], order[batch.stream[order] >= 2]]
    newest, behind = [0, 0], [True, True]
    arrived, table = joined(wanted, batch)
    one, found = Joiner(wanted), []
    for turn in range(200):
        source, size = turn % 2, data.draw(st.sampled_from([1, 3, 50])) if left[turn % 2].size else 1
        until = min((n for n, more in zip(newest, behind, strict=True) if more), default=None)
        now, left[source] = left[source][:size], left[source][size:]
        behind[source] = bool(now.size)
        if now.size:
            released = one.push(arrived.take(now), now, until_ns=until)
            newest[source] = max(newest[source], int(batch.event_time[now].max()))
            assert released.late == 0
            found += rows(released, table)
        elif not any(behind):
            break
    found += rows(one.push(arrived.take(slice(0, 0)), order[:0]), table) + rows(one.flush(), table)
    assert same(sorted(found, key=lambda row: row[0]), plain(wanted, batch))


ALONE = (JoinMember(streams="press", channels=("pressure",)), JoinMember(streams="oven", channels=("temp", "humidity")))


def readings(*told: tuple[int, int, float], streams: int = 2) -> Batch:
    """(stream, seconds, value of each channel)."""
    values = np.array([[value] * 3 for _, _, value in told])
    return Batch(
        np.array([s for s, _, _ in told], np.int32), np.array([t for _, t, _ in told], np.int64) * SECOND, values
    )


def lone(*told: tuple[int, int, float], **said: Any) -> tuple[Joiner, list[tuple[int, list[float]]], Released]:
    """What a join of a press and an oven gives for readings in order of arrival."""
    wanted = spec(lateness=0, members=ALONE, **({"stream": "line"} | said))
    batch, _ = joined(wanted, readings(*told), ("press", "oven"))
    one = Joiner(wanted)
    released = one.push(batch, np.arange(len(batch)))
    found = released.batch
    return one, list(zip((found.event_time // SECOND).tolist(), found.values.tolist(), strict=True)), released


def test_a_row_waits_until_each_member_is_past_it() -> None:
    one, found, _ = lone((0, 10, 1.0), (1, 9, 5.0), (0, 11, 2.0))
    assert found == []
    assert one.held == 3
    _, found, _ = lone((0, 10, 1.0), (1, 9, 5.0), (0, 11, 2.0), (1, 11, 6.0))
    assert found == [(10, [1.0, 5.0, 5.0])]


def test_a_member_that_is_silent_longer_than_idle_is_not_waited_for() -> None:
    _, found, _ = lone((0, 10, 1.0), (0, 30, 2.0), (0, 31, 3.0))
    assert [time for time, _ in found] == [10]
    assert found[0][1][0] == 1.0
    assert math.isnan(found[0][1][1])


def test_a_value_older_than_within_is_missing() -> None:
    _, found, _ = lone((1, 10, 5.0), (0, 22, 1.0), (0, 23, 1.0), (1, 24, 5.0), (0, 24, 1.0))
    assert [(time, values[1]) for time, values in found][:1] == [(22, 5.0)]
    assert found[1][0] == 23
    assert math.isnan(found[1][1][1])


def test_a_reading_of_a_time_that_was_given_out_is_late() -> None:
    _, found, released = lone((0, 10, 1.0), (1, 12, 5.0), (0, 12, 2.0), (1, 11, 7.0), (0, 13, 1.0), (1, 14, 5.0))
    assert released.late == 1
    assert [time for time, _ in found] == [10, 12]


def test_of_several_values_of_one_time_the_largest_counts_in_any_order() -> None:
    told = [(1, 10, 5.0), (1, 10, 8.0), (1, 10, 3.0)]
    for order in (told, told[::-1]):
        _, found, _ = lone((0, 10, 1.0), *order, (0, 11, 1.0), (1, 11, 1.0))
        assert found == [(10, [1.0, 8.0, 8.0])]


def test_rows_on_a_grid_last_as_long_as_a_value_is_valid() -> None:
    _, found, _ = lone((0, 11, 1.0), (1, 12, 5.0), (0, 40, 2.0), (1, 40, 5.0), every_ns=5 * SECOND)
    assert [time for time, _ in found] == [15, 20]
    assert found[0][1] == [1.0, 5.0, 5.0]


def test_a_value_out_of_range_is_missing_and_counted_once() -> None:
    wanted = spec(lateness=0, members=ALONE, stream="line")
    channels = (msgspec.structs.replace(wanted.channels[0], high=3.0), *wanted.channels[1:])
    wanted = msgspec.structs.replace(wanted, channels=channels)
    batch, _ = joined(wanted, readings((0, 10, 1.0), (0, 11, 9.0), (1, 12, 2.0), (0, 12, 2.0)), ("press", "oven"))
    released = Joiner(wanted).push(batch, np.arange(4))
    assert released.out_of_range == 1
    assert released.batch.values[:, 0].tolist() == [1.0, 1.0]


def test_a_full_buffer_gives_the_oldest_rows_early_and_says_how_many() -> None:
    wanted = spec(members=ALONE, stream="line", idle_ns=10**6 * SECOND)
    batch, _ = joined(wanted, readings(*((0, 10 + i, 1.0) for i in range(100))), ("press", "oven"))
    one = Joiner(wanted, max_held=40)
    released = one.push(batch, np.arange(100))
    assert released.early == 65
    assert one.held == 35
    assert len(released.batch) == 65


def test_a_key_that_is_forgotten_begins_anew_and_shared_members_stay() -> None:
    batch, table = joined(spec(lateness=0), readings((0, 10, 1.0), (2, 10, 2.0), (4, 10, 3.0)), RAW)
    one = Joiner(spec(lateness=0))
    one.push(batch, np.arange(3))
    line, shared = table.find("line-1"), table.find("line-*")
    assert line is not None
    assert shared is not None
    assert one.waiting().tolist() == sorted([line, shared])
    assert one.forget(np.array([line])) == 2
    assert one.newest_ns[line] < 0 < one.newest_ns[shared]
    later, _ = joined(spec(lateness=0), readings((0, 10, 4.0), (4, 11, 1.0), (2, 11, 1.0), (0, 11, 1.0)), RAW)
    found = one.push(later, np.arange(4)).batch
    assert found.values.tolist() == [[4.0, pytest.approx(math.nan, nan_ok=True), 3.0]]


def test_a_shared_member_that_told_a_wrong_time_holds_no_key_to_it_once_that_is_forgotten() -> None:
    batch, table = joined(spec(lateness=0), readings((0, 10, 1.0), (4, 10**6, 3.0), (0, 20, 2.0)), RAW)
    one = Joiner(spec(lateness=0))
    assert one.push(batch, np.arange(3)).late == 1
    shared = table.find("line-*")
    assert shared is not None
    one.forget(np.array([shared]))
    later = readings((0, 30, 3.0), (4, 31, 1.0), (2, 31, 1.0), (0, 31, 1.0))
    released = one.push(joined(spec(lateness=0), later, RAW)[0], np.arange(4))
    assert released.late == 0
    assert released.batch.event_time.tolist() == [30 * SECOND]


def test_streams_that_no_member_names_belong_to_no_join() -> None:
    join = spec().join
    assert not isinstance(join, msgspec.UnsetType)
    names, member = Membership(join).place(["press-/p", "press-7/p", "oven-7", "hall", "hall-2", "press-7"])
    assert names == ["", "line-7", "line-7", "line-*", "", ""]
    assert member.tolist() == [-1, 0, 1, 2, -1, -1]
