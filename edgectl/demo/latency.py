"""From the first faulty reading to the committed row: the demo's headline, computed from what the collector printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

NS_PER_MS = 1e6


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``edgectl collect --follow -o jsonl``; further fields are ignored."""

    id: str
    node: str
    stream: str
    recipe: str
    onset_ns: int
    accepted_ns: int
    committed_ns: int


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One injected fault: `event_ns` is the event time of its first faulty reading."""

    node: str
    stream: str
    kind: str
    event_ns: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class Summary:
    """How many faults became alerts, and how fast; latencies in milliseconds."""

    injected: int
    found: int
    other_alerts: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


def summarise(faults: Iterable[Fault], rows: Iterable[Collected]) -> Summary:
    """Match openings to faults by node, stream and onset time; p99 is the nearest rank."""
    wanted = list(faults)
    # The first record of each alert: a short one may have opened and cleared between two looks, and says so at once.
    opened = {row.id: row for row in reversed(list(rows))}
    by_stream: dict[tuple[str, str], list[Collected]] = {}
    for row in opened.values():
        by_stream.setdefault((row.node, row.stream), []).append(row)
    matched: dict[str, float] = {}
    found = 0
    for fault in wanted:
        hits = [
            row for row in by_stream.get((fault.node, fault.stream), [])
            if fault.event_ns <= row.onset_ns <= fault.until_ns
        ]  # fmt: skip
        if hits:
            found += 1
            first = min(hits, key=lambda row: row.onset_ns)
            matched[first.id] = (first.committed_ns - first.accepted_ns) / NS_PER_MS
    ordered = sorted(matched.values())
    return Summary(
        injected=len(wanted),
        found=found,
        other_alerts=len(opened) - len(matched),
        p50_ms=nearest_rank(ordered, 0.50),
        p99_ms=nearest_rank(ordered, 0.99),
        worst_ms=ordered[-1] if ordered else float("nan"),
    )


def nearest_rank(ordered: list[float], quantile: float) -> float:
    """The smallest value that at least `quantile` of the values do not exceed; NaN of nothing."""
    if not ordered:
        return float("nan")
    return ordered[max(0, -int(-len(ordered) * quantile // 1) - 1)]
