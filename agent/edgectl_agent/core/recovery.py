"""What an outbox still holds after a crash or damage: segments and head in, decisions out. No I/O.

Rules, in this order:

1. Records up to the head are acknowledged, and missing ones are *lost*. The intact records that follow it without a gap
   are a *tail*: a group that a crash interrupted, or one that was acknowledged a moment before a power cut took the
   newest head. They count as acknowledged once the caller has synced them. What follows them is *torn* and goes.
2. If the head is missing or one of its slots is damaged, it is only a lower bound: every intact record counts.
3. A segment holds the sequences from its name up to the next segment's name, and no others.
4. What was released is not lost, whatever happened to its bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from edgectl_agent.core.segment import (
    GONE,
    SEGMENT_HEADER,
    START,
    Head,
    Scan,
    scan,
    segment_chain,
)

Ranges = tuple[tuple[int, int], ...]
"""Inclusive ranges of sequences, ascending and apart."""
_FOREVER = 2**63


@dataclass(frozen=True, slots=True)
class Kept:
    """One segment: its first sequence, the offsets of its records, its end, and byte ranges that are damaged."""

    first: int
    offsets: array[int]
    end: int
    damaged: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Recovered:
    """The log as it stands. ``lost`` is exact; ``torn`` counts bytes.

    ``tail`` continues the last segment: not in ``segments`` and not in ``head``, but ``grown`` is the head that has it.
    """

    head: Head
    segments: tuple[Kept, ...]
    lost: Ranges
    torn: int
    tail: Kept | None = None
    grown: Head | None = None


def recover(firsts: Sequence[int], read: Callable[[int], bytes], head: Head | None, trusted: bool) -> Recovered:
    """Decide what counts.

    Args:
        firsts: first sequence of each segment, ascending.
        read: the bytes of the segment with that first sequence; called once for each, in order.
        head: the newest intact slot, None if there is none.
        trusted: whether `head` is the newest that was ever written.
    """
    before = firsts[0] - 1 if firsts else 0
    known = head or Head(seq=before, released=before)
    trusted = trusted and not (firsts and firsts[-1] > known.seq + 1)  # segments start after an acknowledged record
    chain: bytes | None = START if known.released == 0 else None
    expected, torn = known.released + 1, 0
    kept: list[Kept] = []
    lost: list[tuple[int, int]] = []
    tail: Scan | None = None
    for i, first in enumerate(firsts):
        data = read(first)
        last = i + 1 == len(firsts)
        stop = firsts[i + 1] if not last else (known.seq + 1 if trusted else _FOREVER)
        if first != expected or chain is None:
            chain = segment_chain(data, first)
        found = scan(data, min(SEGMENT_HEADER, len(data)), range(first, stop), chain)
        end = len(data) if found.next_seq < stop else found.end
        if last and trusted:
            found = _check_end(found, known)
            tail = _tail(data, found, known)
        torn += len(data) - (tail.end if tail else end)
        kept.append(Kept(first, found.offsets, end, found.damaged))
        lost += [(expected, first - 1), *_holes(found.offsets, first)]
        expected, chain = found.next_seq, found.chain
    now = _head(known, trusted, expected, chain)
    lost.append((expected, now.seq))
    lost_now = clip(lost, now.released + 1, now.seq)
    if tail is None:
        return Recovered(now, tuple(kept), lost_now, torn)
    grown = replace(now, seq=tail.next_seq - 1, chain=tail.chain or START)
    return Recovered(now, tuple(kept), lost_now, torn, Kept(now.seq + 1, tail.offsets, tail.end, ()), grown)


def _head(known: Head, trusted: bool, expected: int, chain: bytes | None) -> Head:
    if trusted or expected <= known.seq + 1:
        return known
    return replace(known, seq=expected - 1, chain=chain or START)


def _check_end(found: Scan, head: Head) -> Scan:
    """The last acknowledged record must have the chain that the head remembers; otherwise it is another record."""
    if found.next_seq != head.seq + 1 or found.chain == head.chain or not found.offsets:
        return found
    offsets = found.offsets[:]
    at, offsets[-1] = offsets[-1], GONE
    return replace(found, offsets=offsets, damaged=(*found.damaged, (at, found.end)), chain=head.chain)


def _tail(data: bytes, found: Scan, head: Head) -> Scan | None:
    """The intact records beyond the head, if there are any."""
    if found.next_seq <= head.seq:
        return None
    beyond = scan(data, found.end, range(head.seq + 1, _FOREVER), head.chain, contiguous=True)
    return beyond if beyond.offsets else None


def _holes(offsets: array[int], first: int) -> list[tuple[int, int]]:
    if offsets.count(GONE) == 0:
        return []
    return [(first + i, first + i) for i, at in enumerate(offsets) if at == GONE]


def merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same sequences as few ranges; empty ones (end before start) vanish. Idempotent; order does not matter."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if stop < start:
            continue
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)


def clip(ranges: Iterable[tuple[int, int]], low: int, high: int) -> Ranges:
    """The part of `ranges` within ``low..high``, merged."""
    return merge((max(start, low), min(stop, high)) for start, stop in ranges)


def without(ranges: Iterable[tuple[int, int]], known: Ranges) -> Ranges:
    """The sequences of `ranges` that are not in `known`."""
    found: list[tuple[int, int]] = []
    for start, stop in merge(ranges):
        for low, high in clip(known, start, stop):
            found.append((start, low - 1))
            start = high + 1
        found.append((start, stop))
    return merge(found)


def size(ranges: Ranges) -> int:
    """How many sequences the ranges hold."""
    return sum(stop - start + 1 for start, stop in ranges)
