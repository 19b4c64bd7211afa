"""One model at work: readings in, alerts out.

features → standardise → model → threshold → alert. Pure: the model is a function, time is an argument, and the same
readings give the same alerts whatever the batch boundaries. Training replays held-out data through this very class.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.alerts import AlertTracker, Track
from edgectl_agent.core.arrays import planes
from edgectl_agent.core.batch import Batch, Float32, Float64, Int32, Int64, StreamTable
from edgectl_agent.core.bundle import Bundle, Scaler
from edgectl_agent.core.features import OK, OVER_LIMIT, STATUS, FeatureBuilder
from edgectl_agent.core.join import Joiner, buffer
from edgectl_agent.core.messages import Alert, AlertState, Contribution, alert_id
from edgectl_agent.core.peaks import PeakThreshold
from edgectl_agent.core.reorder import Released, Reorder
from edgectl_agent.core.runs import Runs
from edgectl_agent.core.smoothing import Smoother
from edgectl_agent.core.threshold import AdaptiveThreshold

_SHOWN = 3
"""How many contributions an alert carries."""
_FEW = 6
"""Batches of so many readings at most are faster one by one."""
_BY_TIME = attrgetter("changed_ns", "stream", "state")
_USUAL = 3.0
"""The usual range that an alert shows: centre ± this many scales."""


@dataclass(frozen=True, slots=True)
class Detection:
    """Outcome of a batch, row by row as it arrived.

    Attributes:
        scores: shape (n,), NaN where the reading was not scored.
        threshold: shape (n,), the warning threshold in force, NaN likewise.
        alerts: records of openings, rises to critical, and clearings, by event time.
        serial: shape (n,), which reading each row is, counted from the first that the detector ever got; -1 for a row
            that was joined. With a lateness the rows are those that were released, else the batch as it arrived.
    """

    scores: Float64
    threshold: Float64
    alerts: tuple[Alert, ...]
    serial: Int64


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of the readings of a batch that were scored: their rows in it, shape (k,), scores, and warning
    thresholds in force; and what they change."""

    rows: Int64
    score: Float64
    warning: Float64
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class Why:
    """Why a reading was strange: channels or features, the strangest first, and the latest values of the first."""

    contributions: tuple[Contribution, ...] = ()
    recent: tuple[float, ...] = ()


class InForce(Protocol):
    """Thresholds for each of n scores, and how improbable a score is."""

    @property
    def warning(self) -> Float64:
        """Shape (n,)."""

    @property
    def critical(self) -> Float64:
        """Shape (n,)."""

    def surprise(self, row: int, score: float) -> float:
        """-log10 of the tail probability of `score` as it was at `row`."""


Explain = Callable[[int], Why]


class Standardise:
    """The model's input: float64 until the very end, because counters exceed float32. Missing values become 0."""

    def __init__(self, scaler: Scaler) -> None:
        self._center, self._scale = np.array(scaler.center)[:, None], np.array(scaler.scale)[:, None]
        self._clip = scaler.clip

    def __call__(self, x: Float64) -> Float32:
        """Of features of shape (n, F); fastest where that is a transposed array of planes."""
        z = planes(x.shape[1], len(x))
        np.subtract(x.T, self._center, out=z)
        z /= self._scale
        np.clip(z, -self._clip, self._clip, out=z)
        if np.isnan(z.min(initial=0.0)):
            z[np.isnan(z)] = 0.0
        return np.ascontiguousarray(z.T, np.float32)


class StandardiseFew:
    """`Standardise` of few rows in plain floats: equal to the last bit, and sooner than six calls of numpy."""

    def __init__(self, scaler: Scaler) -> None:
        self._scaling = [(float(c), float(s)) for c, s in zip(scaler.center, scaler.scale, strict=True)]
        self._clip = float(scaler.clip)

    def __call__(self, rows: Sequence[Sequence[float]]) -> Float32:
        """Of rows of F features."""
        high, low, z = self._clip, -self._clip, array("f")
        for row in rows:
            scaled = [(value - center) / scale for value, (center, scale) in zip(row, self._scaling, strict=True)]
            # NaN fails every comparison.
            z.extend(
                [one if low <= one <= high else high if one > high else low if one < low else 0.0 for one in scaled]
            )
        return np.frombuffer(z, np.float32).reshape(len(rows), -1)


def standardise(x: Float64, scaler: Scaler) -> Float32:
    """`Standardise` once."""
    return Standardise(scaler)(x)


def thresholds(bundle: Bundle) -> AdaptiveThreshold | PeakThreshold:
    """Of streams that have yet to begin."""
    kind = PeakThreshold if bundle.tail.peaks else AdaptiveThreshold
    return kind(bundle.tail, bundle.budget, bundle.adaptation)


class Detector:
    """A bundle with the state of all its streams.

    Args:
        bundle: what to run.
        node: the node's name, part of every alert id.
        version: the release's version, as alerts show it.
        digest: the bundle's digest, the detector generation in every alert id.
        streams: names of the stream indices in batches; shared with whoever builds the batches.
        score: float32 (n, F) → float32 (n,), row by row.
        max_streams: readings of further streams are counted and ignored.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        node: str,
        version: str,
        digest: str,
        streams: StreamTable,
        score: Callable[[Float32], Float32],
        max_streams: int | None = None,
    ) -> None:
        self.bundle, self.version, self.digest = bundle, version, digest
        self.streams = streams
        self._node, self._score, self._max_streams = node, score, max_streams
        self._features = self._builder()
        self._takes_one = self._features.takes_one and 0.0 not in bundle.scaler.scale
        self._standardise, self._standardise_few = Standardise(bundle.scaler), StandardiseFew(bundle.scaler)
        self._reorder: Reorder | Joiner | None = buffer(bundle.features)
        self._serial = 0
        self._threshold = thresholds(bundle)
        self._smoother = Smoother(bundle.smoothing) if bundle.smoothing else None
        self._tracker = AlertTracker(bundle.rule)
        self.counters: Counter[str] = Counter()
        self.inferences = 0

    def _builder(self) -> FeatureBuilder:
        """Of the features that are scored."""
        return FeatureBuilder(self.bundle.features)

    @property
    def open_alerts(self) -> int:
        return self._tracker.open_alerts

    @property
    def bytes_per_stream(self) -> int:
        """What one stream's windows cost in memory."""
        return self._features.bytes_per_stream

    @property
    def known_streams(self) -> int:
        return self._features.streams

    @property
    def warming_streams(self) -> int:
        return self._features.warming_streams

    @property
    def held(self) -> int:
        """Readings that wait for earlier ones."""
        return self._reorder.held if self._reorder else 0

    def process(
        self,
        batch: Batch,
        accepted_ns: int,
        now_ns: int,
        horizon_ns: int | None = None,
        until_ns: int | None = None,
    ) -> Detection:
        """Score a batch.

        Args:
            batch: readings; ``values`` columns follow ``bundle.features.channels``.
            accepted_ns: when the source handed them over, on the node's clock.
            now_ns: the node's clock, for the alerts' ``raised_ns``.
            horizon_ns: readings with a later event time are refused; None for recorded data.
            until_ns: a join waits for a source that is no further than this and has more; None if none is behind.

        Raises:
            AdmissionError: the model fails on this input.
        """
        serial = np.arange(self._serial, self._serial + len(batch))
        self._serial += len(batch)
        cleared = () if horizon_ns is None else self._restart_ahead(batch, horizon_ns, now_ns)
        if self._reorder is None:
            found = self._score_rows(batch, serial, accepted_ns, now_ns, horizon_ns)
        else:
            if self._max_streams is not None:
                self.counters[STATUS[OVER_LIMIT]] += int((batch.stream >= self._max_streams).sum())
            released = self._reorder.push(batch, serial, horizon_ns, self._max_streams, until_ns)
            found = self._score_released(released, accepted_ns, now_ns)
        return replace(found, alerts=(*cleared, *found.alerts)) if cleared else found

    def flush(self, now_ns: int) -> Detection:
        """Score what is held: nothing more comes, or another model takes over. Raises as `process` does."""
        if self._reorder is None:
            return Detection(np.empty(0), np.empty(0), (), np.empty(0, np.int64))
        return self._score_released(self._reorder.flush(), now_ns, now_ns)

    def longest_idle(self, most: int, closing: NDArray[np.integer[Any]] | None = None) -> tuple[Int64, Int64]:
        """Streams that may give way to others, and the event times of their newest readings, the longest idle first:
        those without an open alert of which nothing is held.

        With `closing`, those too that may become so: these streams, and what is held, may end alerts.
        """
        known = self._newest_ns[: len(self.streams.slots)]
        newest = np.full(len(self.streams.slots), np.iinfo(np.int64).min)
        newest[: len(known)] = known
        may = np.ones(len(newest), bool)
        may[list(self._tracker.open_tracks())] = False
        if closing is not None:
            may[closing] = True
        if self._reorder:
            may[self._reorder.waiting()] = closing is not None
        may[list(self.streams.free)] = False
        found = np.flatnonzero(may)
        if len(found) > most > 0:
            found = found[newest[found] <= np.partition(newest[found], most - 1)[most - 1]]
        found = found[np.argsort(newest[found], kind="stable")[:most]]
        return found, newest[found]

    def forget(self, streams: Int64) -> None:
        """These stream indices mean other streams from now on."""
        self._features.forget(streams)
        self._threshold.forget(streams)
        if self._smoother:
            self._smoother.forget(streams)
        self._tracker.forget(streams.tolist())
        if self._reorder:
            self._reorder.forget(streams)

    @property
    def _newest_ns(self) -> Int64:
        """Of each stream's readings, held ones included."""
        return self._reorder.newest_ns if self._reorder else self._features.newest_ns

    def _restart_ahead(self, batch: Batch, horizon_ns: int, now_ns: int) -> tuple[Alert, ...]:
        """Begin streams anew whose newest reading lies beyond the horizon and that bring one that does not: they were
        told a wrong time while nobody could see it, and everything right would be late until then."""
        newest = self._newest_ns
        if len(batch) <= _FEW:
            known = len(newest)
            if not any(newest.item(s) > horizon_ns for s in batch.stream.tolist() if s < known):
                return ()
        if len(newest) == 0 or not (newest.take(batch.stream, mode="clip") > horizon_ns).any():
            return ()
        rows = np.flatnonzero((batch.stream < len(newest)) & (batch.event_time <= horizon_ns))
        streams = np.unique(batch.stream[rows]).astype(np.int64)
        streams = streams[newest[streams] > horizon_ns]
        cleared = self._cleared({s: t for s, t in self._tracker.open_tracks().items() if s in streams}, now_ns)
        self._features.forget(streams)
        self._tracker.forget(streams.tolist())
        if self._smoother:
            self._smoother.forget(streams)
        if self._reorder:
            self.counters["discarded"] += self._reorder.forget(streams)
        self.counters["restarted"] += len(streams)
        return cleared

    def _score_released(self, released: Released, accepted_ns: int, now_ns: int) -> Detection:
        for name in ("late", "future", "out_of_range"):
            self.counters[name] += getattr(released, name)
        self.counters["released_early"] += released.early
        return self._score_rows(released.batch, released.serial, accepted_ns, now_ns, None)

    def _score_rows(
        self, batch: Batch, serial: Int64, accepted_ns: int, now_ns: int, horizon_ns: int | None
    ) -> Detection:
        n = len(batch)
        if n <= _FEW and self._takes_one:
            return self._process_few(batch, serial, accepted_ns, now_ns, horizon_ns)
        scores, threshold = np.full(n, np.nan), np.full(n, np.nan)
        counted = np.ones(n, bool) if self._max_streams is None else batch.stream < self._max_streams
        if not counted.all():
            batch = batch.take(counted)
        rows = self._features.push(batch, horizon_ns)
        self.counters["out_of_range"] += rows.out_of_range
        self.counters[STATUS[OVER_LIMIT]] += int(n - counted.sum())
        for status, count in enumerate(np.bincount(rows.status, minlength=len(STATUS))):
            self.counters[STATUS[status]] += int(count)
        usable, x = rows.usable, rows.planes
        if len(usable) == 0:
            return Detection(scores, threshold, (), serial)
        if len(usable) < len(rows.rows):
            x = x.take(usable, axis=1)
        found = self._evaluate(batch, rows.rows[usable], x, accepted_ns, now_ns)
        place = np.flatnonzero(counted)[found.rows]
        scores[place], threshold[place] = found.score, found.warning
        return Detection(scores, threshold, found.alerts, serial)

    def _evaluate(self, batch: Batch, rows: Int64, x: Float64, accepted_ns: int, now_ns: int) -> Scored:
        """Scores and alerts of the readings `rows`, sorted by stream, whose features are the columns of `x`."""
        score = self._score(self._standardise(x.T)).astype(np.float64)
        self.inferences += len(rows)
        finite = np.isfinite(score)
        if not finite.all():
            self.counters["not_finite"] += int((~finite).sum())
            rows, score, x = rows[finite], score[finite], x[:, finite]
        stream, time = batch.stream[rows], batch.event_time[rows]
        if self._smoother:
            score = self._smoother.push(stream, score)
        levels = self._threshold.push(stream, time, score)
        alerts = self._alerts(stream, time, score, levels, lambda row: self._why(x[:, row]), accepted_ns, now_ns)
        return Scored(rows, score, levels.warning, alerts)

    def _process_few(
        self, batch: Batch, serial: Int64, accepted_ns: int, now_ns: int, horizon_ns: int | None
    ) -> Detection:
        """`process` reading by reading: the same outcome to the last bit, and sooner where there are few."""
        scores, threshold = [math.nan] * len(batch), [math.nan] * len(batch)
        streams, times = batch.stream.tolist(), batch.event_time.tolist()
        usable, features = self._few_features(streams, times, batch.values.tolist(), horizon_ns)
        found: list[Alert] = []
        if usable:
            raw = self._score(self._standardise_few(features)).tolist()
            self.inferences += len(usable)
            for i, x, score in zip(usable, features, raw, strict=True):
                if not math.isfinite(score):
                    self.counters["not_finite"] += 1
                    continue
                if self._smoother:
                    score = self._smoother.push_one(streams[i], score)
                level = self._threshold.push_one(streams[i], times[i], score)
                scores[i], threshold[i] = score, level.warning
                if score >= level.warning or self._tracker.follows(streams[i]):
                    time, one = batch.event_time[i : i + 1], np.array([score])
                    why = partial(self._why_alone, np.array(x))
                    found += self._alerts_of(streams[i], time, one, level.levels, slice(0, 1), why, accepted_ns, now_ns)
        found.sort(key=_BY_TIME)
        return Detection(np.array(scores), np.array(threshold), tuple(found), serial)

    def _few_features(
        self, streams: list[int], times: list[int], values: list[list[float]], horizon_ns: int | None
    ) -> tuple[list[int], list[Sequence[float]]]:
        """Which readings are to be scored, and their features."""
        usable: list[int] = []
        features: list[Sequence[float]] = []
        for i, stream in enumerate(streams):
            if self._max_streams is not None and stream >= self._max_streams:
                self.counters[STATUS[OVER_LIMIT]] += 1
                continue
            one = self._features.push_one(stream, times[i], values[i], horizon_ns)
            self.counters[STATUS[one.status]] += 1
            if one.out_of_range:
                self.counters["out_of_range"] += one.out_of_range
            if one.status == OK:
                usable.append(i)
                features.append(one.x)
        return usable, features

    def end_open_alerts(self, now_ns: int) -> tuple[Alert, ...]:
        """Clear what is open, as a model's last word before another takes over: its detector generation ends."""
        opened = self._tracker.open_tracks()
        self._tracker = AlertTracker(self.bundle.rule)
        return self._cleared(opened, now_ns)

    def inherits(self, other: Detector) -> bool:
        """Whether both build the same features of the same streams."""
        same = type(other) is type(self) and other.bundle.features == self.bundle.features
        return same and other.streams is self.streams

    def adopt_features(self, other: Detector) -> bool:
        """Take over the window state of `other`, and what it holds, if both build the same features of the same
        streams."""
        if not self.inherits(other):
            return False
        self._features, self._reorder, self._serial = other._features, other._reorder, other._serial
        return True

    def copy_features(self, other: Detector) -> bool:
        """As `adopt_features`, and `other` goes on with its own."""
        if not self.adopt_features(other):
            return False
        self._features = FeatureBuilder.restore(self._features.spec, other._features.snapshot())
        if other._reorder:
            self._reorder = buffer(self.bundle.features)
            assert self._reorder is not None
            self._reorder.restore(other._reorder.snapshot())
        return True

    def snapshot(self) -> dict[str, Any]:
        """All state as plain values."""
        return {
            "digest": self.digest,
            "features": self._features.snapshot(),
            "threshold": self._threshold.snapshot(),
            "smoother": self._smoother.snapshot() if self._smoother else None,
            "alerts": self._tracker.snapshot(),
            "counters": dict(self.counters),
            "inferences": self.inferences,
            "serial": self._serial,
            "held": self._reorder.snapshot() if self._reorder else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `snapshot` was taken by a detector of the same bundle; stream indices must mean the same."""
        self._features = FeatureBuilder.restore(self._features.spec, state["features"])
        self._threshold.restore(state["threshold"])
        if self._smoother and state.get("smoother"):
            self._smoother.restore(state["smoother"])
        self._tracker.restore(state["alerts"])
        self.counters = Counter(state["counters"])
        self.inferences = state["inferences"]
        self._serial = state.get("serial", 0)
        if self._reorder and state.get("held"):
            self._reorder.restore(state["held"])

    def _cleared(self, tracks: Mapping[int, Track], now_ns: int) -> tuple[Alert, ...]:
        """Records that end these open alerts, whose streams bring no reading that would."""
        records = tuple(
            self._record(s, t, "cleared", t.last_above_ns, self._surprise(s, t.peak), Why(), now_ns)
            for s, t in tracks.items()
        )
        self.counters["alerts_cleared"] += len(records)
        return records

    def _surprise(self, stream: int, score: float) -> float:
        """-log10 of the tail probability of `score` as the stream is at present."""
        return self._threshold.surprise(stream, score)

    def _alerts(
        self, stream: Int32, time: Int64, score: Float64, levels: InForce, why: Explain, accepted_ns: int, now_ns: int
    ) -> tuple[Alert, ...]:
        """What scored readings, sorted by stream, change; `why` explains a row of them."""
        runs = Runs.of(stream)
        above = score >= levels.warning
        tracks = self._tracker.tracks()
        if not tracks and not above.any():
            return ()
        busy = np.isin(stream[runs.starts], list(tracks))
        busy |= np.logical_or.reduceat(above, runs.starts) if len(score) else False
        found: list[Alert] = []
        for run in np.flatnonzero(busy):
            part = slice(int(runs.starts[run]), int(runs.ends[run]) + 1)
            found += self._alerts_of(int(stream[part.start]), time, score, levels, part, why, accepted_ns, now_ns)
        found.sort(key=_BY_TIME)
        return tuple(found)

    def _alerts_of(
        self, stream: int, time: Int64, score: Float64, levels: InForce, part: slice, why: Explain,
        accepted_ns: int, now_ns: int,
    ) -> Iterator[Alert]:  # fmt: skip
        """What one stream's scored readings, the rows `part`, change."""
        changes = self._tracker.push(
            stream, time[part], score[part], levels.warning[part], levels.critical[part], accepted_ns
        )
        for change in changes:
            row = part.start + change.row
            surprise = levels.surprise(row, change.track.peak)
            self.counters["alerts_cleared" if change.cleared else "alerts_opened"] += 1
            reasons = Why() if change.cleared else why(row)
            state: AlertState = "cleared" if change.cleared else "open"
            yield self._record(stream, change.track, state, int(time[row]), surprise, reasons, now_ns)

    def _record(
        self, stream: int, track: Track, state: AlertState, changed_ns: int, surprise: float, why: Why, now_ns: int
    ) -> Alert:
        name = self.streams.name(stream)
        bundle = self.bundle
        return Alert(
            id=alert_id(self._node, name, bundle.recipe, self.digest, track.onset_ns),
            node=self._node,
            stream=name,
            recipe=bundle.recipe,
            version=self.version,
            bundle=self.digest,
            variant=bundle.variant,
            severity="critical" if track.critical else "warning",
            state=state,
            onset_ns=track.onset_ns,
            changed_ns=changed_ns,
            score=track.peak,
            threshold=track.threshold,
            surprise=round(surprise, 3),
            contributions=why.contributions,
            recent=why.recent,
            runbook=bundle.rule.runbook,
            accepted_ns=track.accepted_ns,
            raised_ns=now_ns,
        )

    def _why_alone(self, x: Float64, row: int) -> Why:
        return self._why(x)

    def _why(self, x: Float64) -> Why:
        """The features furthest from their centre, in units of their scale."""
        center, scale = np.asarray(self.bundle.scaler.center), np.asarray(self.bundle.scaler.scale)
        distance = np.nan_to_num(np.abs(x - center) / scale, nan=0.0)
        contributions = tuple(
            Contribution(
                feature=self.bundle.feature_names[i],
                value=float(x[i]),
                low=float(center[i] - _USUAL * scale[i]),
                high=float(center[i] + _USUAL * scale[i]),
            )
            for i in np.argsort(-distance, kind="stable")[:_SHOWN]
            if distance[i] > 0
        )
        return Why(contributions)
