"""The closed panes of a sliding window, kept so that their union takes two merges, however many they are.

Panes are numbered from 1970 on and lie in blocks of as many as a window has closed ones. A window then covers the end
of one block and the beginning of the next, and the two are kept merged: of the block that a stream is in, how its panes
are together so far; of the one before, how each pane is together with all that follow it there. Entering a block costs
one merge per pane of the one before, so a pane costs three in all (van Herk, "A fast algorithm for local minimum and
maximum filters on rectangular and octagonal kernels", 1992). What is merged with what depends on the panes' numbers
alone, hence the same bits for any batch boundaries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core import single
from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.batch import Float64, Int32, Int64
from edgectl_agent.core.moments import NOTHING, merge, planes_of, rows_of, shift
from edgectl_agent.core.runs import Runs

MomentsOf = Callable[[Int64], Float64]
NO_PANE = np.iinfo(np.int64).min


class ClosedPanes:
    """Of all streams. A row of state is one of `moments`: field after field, in each all channels.

    Args:
        slots: how many closed panes a window has, at least 1.
        pane_ns: how long a pane is.
        channels: how many each row has.
    """

    def __init__(self, slots: int, pane_ns: int, channels: int) -> None:
        self._slots, self._pane_ns, self._channels = slots, pane_ns, channels
        self._nothing = np.repeat(NOTHING, channels)
        self._number: Int64 = np.empty((0, slots), np.int64)
        """Which pane each slot is of."""
        self._folded: Float64 = np.empty((0, slots, len(self._nothing)))
        """Of the stream's block a pane, with times from its begin; of the block before the pane and all that follow it
        there, with times from the block's end."""
        self._begun: Float64 = np.empty((0, len(self._nothing)))
        """The closed panes of the stream's block, with times from the block's begin."""

    @property
    def bytes_per_stream(self) -> int:
        return sum(a.itemsize * math.prod(a.shape[1:]) for a in (self._number, self._folded, self._begun))

    def reserve(self, more: int) -> None:
        """State for so many more streams."""
        self._number = np.concatenate([self._number, np.full((more, self._slots), NO_PANE)])
        self._folded = np.concatenate([self._folded, np.zeros((more, *self._folded.shape[1:]))])
        self._begun = np.concatenate([self._begun, np.tile(self._nothing, (more, 1))])

    def forget(self, streams: NDArray[Any]) -> None:
        self._number[streams], self._begun[streams] = NO_PANE, self._nothing

    def snapshot(self) -> dict[str, Any]:
        return {"pane": pack_array(self._number), "folded": pack_array(self._folded), "begun": pack_array(self._begun)}

    def restore(self, state: dict[str, Any]) -> None:
        self._number, self._folded = unpack_array(state["pane"]), unpack_array(state["folded"])
        self._begun = unpack_array(state["begun"])

    def restore_panes(self, number: Int64, panes: Float64, current: Int64) -> None:
        """From each pane by itself, as agents saved them before, and the streams' current ones."""
        self._number, self._folded = number, panes
        self._begun = np.tile(self._nothing, (len(number), 1))
        stream = np.flatnonzero(current != NO_PANE).astype(np.int32)
        block = current[stream] // self._slots
        for slot in range(self._slots):
            self._begin(stream, np.full(len(stream), slot), self._held(stream, block, slot))
        none = np.full((len(stream), self._slots), -1)
        for slot, rows in self._ends(stream, block - 1, none, _unasked):
            over = self._number[stream, slot] != block * self._slots + slot
            self._put(stream[over], (block[over] - 1) * self._slots + slot, rows[over])

    # ── many readings ───────────────────────────────────────────────────────────────────────────────────────────────

    def close(self, stream: Int32, pane: Int64, moments: Float64) -> None:
        """The current panes of these streams are over; `moments` of shape (fields, c, streams)."""
        self._put(stream, pane, rows_of(moments))
        self._begin(stream, pane % self._slots, moments)

    def enter(self, stream: Int32, pane: Int64, current: Int64, moments: MomentsOf) -> Float64:
        """Go on to other panes.

        Args:
            stream: shape (m,), sorted; of each stream all panes of a batch, the one that it was in or is in.
            pane: shape (m,), rising within a stream.
            current: shape (m,), where the stream was before the batch; that pane is closed, or the first here.
            moments: tells those of some of these panes, as planes; is not asked for a stream's last one.

        Returns:
            The window's closed panes just before each, shape (fields, c, m), with times from the pane's begin.
        """
        block, slot = pane // self._slots, pane % self._slots
        groups = Runs.of(stream, block)
        at = groups.starts
        of, own, former = stream[at], block[at], current[at] // self._slots
        first, last = np.append(True, of[1:] != of[:-1]), np.append(of[1:] != of[:-1], True)
        stays = first & (own == former)
        follows = np.where(first, own - former == 1, np.append(False, own[1:] - own[:-1] == 1))

        begun = self._begun.take(of, axis=0)
        begun[~stays] = self._nothing
        begun = self._begun_before(groups, begun, slot, moments)
        ends = self._ends_stored(stream, block, slot)
        ends[~stays[groups.of_row]] = self._nothing
        if follows.any():
            within = _Within(groups, first, slot, self._slots)
            self._end(np.flatnonzero(follows), last, within, of, own, moments, ends)
        self._keep(stream, pane, last[groups.of_row], begun, moments)
        merged = planes_of(ends, self._channels)
        merge(merged, planes_of(begun, self._channels))
        shift(merged, -slot * self._pane_ns / 1e9)
        return merged

    def _begun_before(self, groups: Runs, first: Float64, slot: Int64, moments: MomentsOf) -> Float64:
        """Rows of what precedes each pane in its block, with times from the block's begin; `first` precedes the
        first."""
        found = np.empty((len(slot), first.shape[1]))
        found[groups.starts] = first
        for rank in range(1, int(groups.lengths.max())):
            rows = groups.starts[groups.lengths > rank] + rank - 1
            before, later = planes_of(found.take(rows, axis=0), self._channels), moments(rows)
            shift(later, slot[rows] * self._pane_ns / 1e9)
            merge(before, later)
            found[rows + 1] = rows_of(before)
        return found

    def _end(
        self, groups: Int64, last: NDArray[np.bool_], within: _Within, of: Int32, own: Int64, moments: MomentsOf,
        ends: Float64,
    ) -> None:  # fmt: skip
        """Fill `ends` of blocks that follow another; what a stream's newest one follows is stored."""
        newest, passed = np.flatnonzero(last[groups]), np.flatnonzero(~last[groups])
        stream, block = of[groups], own[groups] - 1
        table = np.empty((len(passed), self._slots, len(self._nothing)))
        for slot, rows in self._ends(stream, block, within.runs(groups), moments):
            if len(passed):
                table[:, slot], rows = rows[passed], rows[newest]
            self._put(stream[newest], block[newest] * self._slots + slot, rows)
        panes, which = within.panes(groups[newest])
        ends[panes] = self._folded[stream[newest[which]], within.slot[panes]]
        if len(passed):
            panes, which = within.panes(groups[passed])
            ends[panes] = table[which, within.slot[panes]]

    def _ends(self, stream: Int32, block: Int64, run: Int64, moments: MomentsOf) -> Iterator[tuple[int, Float64]]:
        """Each pane of `block` together with all that follow it there, with times from the block's end; from the last.

        A pane is the run of the batch that `run` says, shape (m, slots), or else what is stored.
        """
        after = planes_of(np.tile(self._nothing, (len(stream), 1)), self._channels)
        for slot in range(self._slots - 1, -1, -1):
            found = self._held(stream, block, slot)
            here = np.flatnonzero(run[:, slot] >= 0)
            if len(here):
                found[..., here] = moments(run[here, slot])
            shift(found, -(self._slots - slot) * self._pane_ns / 1e9)
            merge(found, after)
            yield slot, rows_of(found)
            after = found

    def _held(self, stream: Int32, block: Int64, slot: int) -> Float64:
        """The stored pane of `block` in `slot`, empty if there is none."""
        rows = self._folded[stream, slot]
        rows[self._number[stream, slot] != block * self._slots + slot] = self._nothing
        return planes_of(rows, self._channels)

    def _put(self, stream: Int32, pane: Int64, rows: Float64) -> None:
        slot = pane % self._slots
        self._number[stream, slot], self._folded[stream, slot] = pane, rows

    def _begin(self, stream: Int32, slot: Int64, moments: Float64) -> None:
        begun = planes_of(self._begun.take(stream, axis=0), self._channels)
        later = moments.copy()
        shift(later, slot * self._pane_ns / 1e9)
        merge(begun, later)
        self._begun[stream] = rows_of(begun)

    def _ends_stored(self, stream: Int32, block: Int64, slot: Int64) -> Float64:
        """Rows of what is kept of the block before, from `slot` on."""
        index = stream.astype(np.int64) * self._slots + slot
        rows = self._folded.reshape(-1, len(self._nothing)).take(index, axis=0)
        rows[self._number.reshape(-1).take(index) != (block - 1) * self._slots + slot] = self._nothing
        return rows

    def _keep(
        self, stream: Int32, pane: Int64, newest: NDArray[np.bool_], begun: Float64,
        moments: MomentsOf,
    ) -> None:  # fmt: skip
        """Store the closed panes of each stream's newest block."""
        is_last = np.append(stream[1:] != stream[:-1], True)
        kept, last = np.flatnonzero(newest & ~is_last), np.flatnonzero(is_last)
        self._put(stream[kept], pane[kept], rows_of(moments(kept)))
        self._begun[stream[last]] = begun.take(last, axis=0)

    # ── one reading ─────────────────────────────────────────────────────────────────────────────────────────────────

    def enter_one(self, stream: int, pane: int, current: int, moments: list[float]) -> list[float]:
        """`close` and `enter` of one stream: equal to the last bit; `moments` are those of its current pane."""
        slots, channels = self._slots, self._channels
        begun: list[float] = self._begun[stream].tolist()
        block, slot, former = pane // slots, pane % slots, current // slots
        if current not in (NO_PANE, pane):
            self._number[stream, current % slots], self._folded[stream, current % slots] = current, moments
            begun = single.merge(begun, moments, channels, current % slots * self._pane_ns / 1e9)
        if block != former:
            begun = self._nothing.tolist()
            if current != NO_PANE and block == former + 1:
                self._end_one(stream, former)
        self._begun[stream] = begun
        found = self._nothing.tolist()
        if self._number.item(stream, slot) == (block - 1) * slots + slot:
            found = self._folded[stream, slot].tolist()
        return single.shifted(single.merge(found, begun, channels), channels, -slot * self._pane_ns / 1e9)

    def _end_one(self, stream: int, block: int) -> None:
        after: list[float] = self._nothing.tolist()
        numbers = [block * self._slots + slot for slot in range(self._slots)]
        held = self._number[stream].tolist()
        for slot in range(self._slots - 1, -1, -1):
            pane = (self._folded[stream, slot] if held[slot] == numbers[slot] else self._nothing).tolist()
            early = single.shifted(pane, self._channels, -(self._slots - slot) * self._pane_ns / 1e9)
            self._folded[stream, slot] = after = single.merge(early, after, self._channels)
        self._number[stream] = numbers


class _Within:
    """Where the panes of a batch lie in the blocks of `groups`."""

    def __init__(self, groups: Runs, first: NDArray[np.bool_], slot: Int64, slots: int) -> None:
        self._groups, self._first, self.slot, self._slots = groups, first, slot, slots

    def panes(self, wanted: Int64) -> tuple[Int64, Int64]:
        """The panes of these groups, and which of `wanted` each belongs to."""
        place = np.full(len(self._first), -1)
        place[wanted] = np.arange(len(wanted))
        of_row = place[self._groups.of_row]
        panes = np.flatnonzero(of_row >= 0)
        return panes, of_row[panes]

    def runs(self, wanted: Int64) -> Int64:
        """The panes of the group before each of these, by slot; -1 for none. Shape (wanted, slots)."""
        found = np.full((len(wanted), self._slots), -1)
        inside = np.flatnonzero(~self._first[wanted])
        panes, which = self.panes(wanted[inside] - 1)
        found[inside[which], self.slot[panes]] = panes
        return found


def _unasked(panes: Int64) -> Float64:
    raise AssertionError("no pane is of a batch")
