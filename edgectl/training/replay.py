"""Held-out readings through the very detector that nodes run: what it would have alerted on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from edgectl_agent.core.batch import Float32, Float64, Int64, StreamTable
from edgectl_agent.core.bundle import Bundle
from edgectl_agent.core.join import unjoined
from edgectl_agent.core.messages import Severity
from edgectl_agent.core.online import detector_of

from edgectl.training.split import Split
from edgectl.training.tables import Table

CHUNK = 16_384
"""Readings per batch: bounds memory; results do not depend on it."""


@dataclass(frozen=True)
class Episode:
    """One alert: from its onset to its end (None while it lasts)."""

    stream: str
    onset_ns: int
    end_ns: int | None
    severity: Severity


@dataclass(frozen=True)
class Replay:
    """What the detector made of the held-out part.

    Attributes:
        rows: shape (n,), rows of the table that were replayed.
        scores: shape (n,), NaN where not scored.
        threshold: shape (n,), the warning threshold in force.
        episodes: alerts with an onset in the held-out part, outside known bad periods.
    """

    rows: Int64
    scores: Float64
    threshold: Float64
    episodes: tuple[Episode, ...]

    @property
    def onsets(self) -> tuple[tuple[str, int], ...]:
        """(stream, onset) of each alert."""
        return tuple((e.stream, e.onset_ns) for e in self.episodes)


def replay(
    bundle: Bundle,
    score: Callable[[Float32], Float32],
    table: Table,
    parts: Split,
    tick: Callable[[int], None] = lambda rows: None,
) -> Replay:
    """Run the held-out part, after as much of the fit part as the windows need to be warm.

    Args:
        bundle: the variant to run; its own model bytes are not used.
        score: the variant's model.
        table: all readings.
        parts: where the held-out part begins.
        tick: called with the number of readings after each chunk.
    """
    start_ns = int(table.event_time[parts.cut])
    lead = int(np.searchsorted(table.event_time, start_ns - 2 * bundle.features.warm_up_ns))
    bundle = msgspec.structs.replace(bundle, features=unjoined(bundle.features))  # rows are joined already
    detector = detector_of(
        bundle, node="training", version="", digest="", streams=StreamTable(table.streams), score=score
    )
    rows = np.arange(lead, len(table))
    scores, threshold = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    episodes: dict[str, Episode] = {}
    for at in (*range(0, len(rows), CHUNK), len(rows)):
        part = rows[at : at + CHUNK]
        last = at == len(rows)
        found = detector.flush(0) if last else detector.process(table.batch(part), accepted_ns=0, now_ns=0)
        scores[found.serial], threshold[found.serial] = found.scores, found.threshold
        for alert in found.alerts:
            end = alert.changed_ns if alert.state == "cleared" else None
            episodes[alert.id] = Episode(alert.stream, alert.onset_ns, end, alert.severity)
        tick(len(part))
    bad = _known(table, parts)
    counted = [e for e in episodes.values() if e.onset_ns >= start_ns and (e.stream, e.onset_ns) not in bad]
    counted.sort(key=lambda e: (e.onset_ns, e.stream))
    held = rows >= parts.cut
    return Replay(rows[held], scores[held], threshold[held], tuple(counted))


def _known(table: Table, parts: Split) -> set[tuple[str, int]]:
    rows = np.flatnonzero(parts.known)
    return {(table.streams[table.stream[row]], int(table.event_time[row])) for row in rows}
