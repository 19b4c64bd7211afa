"""A model without training at work: each feature of each stream is watched by itself, from its first reading on.

The outside is that of `Detector`; so are windows, lateness, limits and alerts. In place of a model's score stands the
surprise of the stream's strangest feature (`univariate`), in place of a calibrated threshold the surprise that the
budget asks for, shared among the features, at the pace of the stream's own readings.

A feature without a value, because its channel had none, has no reading.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Batch, Float32, Float64, Int64, StreamTable
from edgectl_agent.core.bundle import Bundle, Golden, Records
from edgectl_agent.core.detector import Detector, Scored, Why
from edgectl_agent.core.features import FeatureBuilder
from edgectl_agent.core.messages import Contribution
from edgectl_agent.core.recent import RECENT, Recent
from edgectl_agent.core.records import KINDS
from edgectl_agent.core.runs import Runs
from edgectl_agent.core.univariate import Univariate, Verdicts

_SHOWN = 3
"""How many features an alert names."""
_FAR = 1e6
"""More than any surprise."""
_GOLDEN_SEED, _GOLDEN_ROWS, _GOLDEN_STEP_S, _GOLDEN_BUDGET = 7, 64, 60.0, (1.0, 0.1)
_GOLDEN_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Surprises:
    """Levels in force of k readings, where the score is itself a surprise."""

    warning: Float64
    critical: Float64

    def surprise(self, row: int, score: float) -> float:
        """-log10 of the tail probability of `score`: the score."""
        return score


class OnlineDetector(Detector):
    """A bundle of the estimator ``online`` with the state of all its streams; the arguments are those of `Detector`."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        node: str,
        version: str,
        digest: str,
        streams: StreamTable,
        max_streams: int | None = None,
    ) -> None:
        super().__init__(
            bundle, node=node, version=version, digest=digest, streams=streams, score=no_model, max_streams=max_streams
        )
        self._takes_one = False
        self._width = len(bundle.feature_names)
        self._series, self._recent = self._fresh(), Recent()

    def _fresh(self) -> Univariate:
        budget, share = self.bundle.budget, 1.0 / self._width
        return Univariate(constants(self.bundle), budget.warning_per_day * share, budget.critical_per_day * share)

    def _builder(self) -> FeatureBuilder:
        """No channel is required: those that are there are watched."""
        spec = self.bundle.features
        channels = tuple(msgspec.structs.replace(channel, optional=True) for channel in spec.channels)
        return FeatureBuilder(msgspec.structs.replace(spec, channels=channels))

    @property
    def bytes_per_stream(self) -> int:
        return super().bytes_per_stream + self._width * (self._series.bytes_per_series + self._recent.bytes_per_series)

    @property
    def warming_streams(self) -> int:
        """Streams of which nothing is judged yet."""
        known = self._features.known
        judged = self._series.judges(self._numbers(known).ravel()).reshape(len(known), self._width)
        return int((~judged.any(axis=1)).sum())

    def inherits(self, other: Detector) -> bool:
        """Whether both learn the same of the same features of the same streams."""
        return super().inherits(other) and constants(self.bundle) == constants(other.bundle)

    def adopt_features(self, other: Detector) -> bool:
        if not super().adopt_features(other):
            return False
        assert isinstance(other, OnlineDetector)
        self._series, self._recent = self._fresh(), other._recent
        self._series.restore(other._series.snapshot())  # budgets may differ
        return True

    def copy_features(self, other: Detector) -> bool:
        if not super().copy_features(other):
            return False
        recent, self._recent = self._recent, Recent()
        self._recent.restore(recent.snapshot())
        return True

    def forget(self, streams: Int64) -> None:
        super().forget(streams)
        numbers = self._numbers(streams).ravel()
        self._series.forget(numbers)
        self._recent.forget(numbers)

    def snapshot(self) -> dict[str, Any]:
        return super().snapshot() | {"series": self._series.snapshot(), "recent": self._recent.snapshot()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._series.restore(state["series"])
        self._recent.restore(state["recent"])

    def _numbers(self, streams: NDArray[np.integer[Any]]) -> Int64:
        """Of their series, shape (n, features)."""
        found: Int64 = streams.astype(np.int64)[:, None] * self._width + np.arange(self._width)
        return found

    def _surprise(self, stream: int, score: float) -> float:
        return score

    def _evaluate(self, batch: Batch, rows: Int64, x: Float64, accepted_ns: int, now_ns: int) -> Scored:
        stream, time = batch.stream[rows], batch.event_time[rows]
        seen = _Seen(self._numbers(stream), time, x)
        verdicts = self._series.push(seen.series, seen.time_s, seen.value)
        judged = seen.spread(verdicts)
        self.inferences += len(rows)
        scored = np.flatnonzero(~np.isnan(judged.score).all(axis=0))
        self.counters["warming"] += len(rows) - len(scored)
        self.counters["ok"] -= len(rows) - len(scored)
        if len(scored) == 0:
            self._recent.push(seen.runs, seen.series, seen.value)
            return Scored(rows[:0], np.empty(0), np.empty(0), ())
        strongest = _Strongest(judged, scored)

        def why(row: int) -> Why:
            return self._reasons(seen, judged, int(scored[row]), int(stream[scored[row]]))

        alerts = self._alerts(stream[scored], time[scored], strongest.new, strongest.levels, why, accepted_ns, now_ns)
        self._recent.push(seen.runs, seen.series, seen.value)
        return Scored(rows[scored], strongest.score, strongest.levels.warning, alerts)

    def _reasons(self, seen: _Seen, judged: Verdicts, column: int, stream: int) -> Why:
        """The features beyond their level at one reading, the strongest first, as values and what was usual of them."""
        beyond = judged.score[:, column] - judged.warning[:, column]
        beyond[~(beyond >= 0)] = -np.inf
        new = np.where(judged.onset[:, column] > 0, beyond, -np.inf)
        order = sorted(range(self._width), key=lambda i: (-new[i], -beyond[i], i))
        found: list[Contribution] = []
        for i in order[:_SHOWN]:
            if beyond[i] == -np.inf:
                break
            found += self._contribution(judged, seen.x, i, column)
        recent = self._recent.values(stream * self._width + order[0])
        recent += seen.earlier(order[0], column)
        return Why(tuple(found), tuple(recent[-RECENT:]))

    def _contribution(self, judged: Verdicts, x: Float64, feature: int, column: int) -> list[Contribution]:
        """The value and what was usual; before it, if something else of it was strange, that."""
        at, name = (feature, column), self.bundle.feature_names[feature]
        kind = KINDS[int(judged.kind[at])]
        value = Contribution(feature=name, value=float(x[at]), low=float(judged.low[at]), high=float(judged.high[at]))
        if kind == KINDS[0]:
            return [value]
        of_kind, low, high = float(judged.of_kind[at]), float(judged.kind_low[at]), float(judged.kind_high[at])
        return [Contribution(feature=f"{name}.{kind}", value=of_kind, low=low, high=high), value]


class _Seen:
    """Features of readings, sorted by stream, as readings of series, series after series.

    Attributes:
        x: shape (features, k), NaN where a feature has no value.
        runs: of equal series.
        series, time_s, value: shape (m,), of those that have one.
    """

    def __init__(self, numbers: Int64, time: Int64, x: Float64) -> None:
        self.x = x
        self._at = np.flatnonzero(~np.isnan(x).ravel())
        self._column = self._at % max(x.shape[1], 1)
        self.series = numbers.T.ravel()[self._at]
        self.time_s, self.value = time[self._column] / 1e9, x.ravel()[self._at]
        self.runs = Runs.of(self.series)
        self._numbers = numbers

    def spread(self, verdicts: Verdicts) -> Verdicts:
        """Each of shape (features, k), NaN where there was no value."""
        found = np.full((len(verdicts), self.x.size), np.nan)
        found[:, self._at] = verdicts
        return Verdicts(*found.reshape(len(verdicts), *self.x.shape))

    def earlier(self, feature: int, column: int) -> list[float]:
        """The feature's values of the same stream in this batch up to this reading, at most `RECENT`."""
        same = self._numbers[: column + 1, feature] == self._numbers[column, feature]
        values = self.x[feature, : column + 1][same]
        found: list[float] = values[~np.isnan(values)][-RECENT:].tolist()
        return found


class _Strongest:
    """Of each of the readings `columns` the strongest feature.

    Attributes:
        score: the highest surprise of all, shape (k,).
        new: that of the feature furthest above its level among those with an onset; 0 if there is none.
        levels: of the feature that `new` is from.
    """

    def __init__(self, judged: Verdicts, columns: Int64) -> None:
        score, warning, critical, onset = (
            each[:, columns] for each in (judged.score, judged.warning, judged.critical, judged.onset)
        )
        row = np.arange(len(columns))
        self.score = np.nanmax(score, axis=0)
        above = np.where(np.isnan(score), -np.inf, np.where(onset > 0, score - warning, -_FAR + score))
        best = above.argmax(axis=0)
        self.new = np.where(onset[best, row] > 0, score[best, row], 0.0)
        self.levels = Surprises(warning[best, row], critical[best, row])


def detector_of(
    bundle: Bundle,
    *,
    node: str,
    version: str,
    digest: str,
    streams: StreamTable,
    score: Callable[[Float32], Float32],
    max_streams: int | None = None,
) -> Detector:
    """The detector that a bundle is for; `score` is its model, which the estimator ``online`` does not have."""
    if bundle.estimator == "online":
        return OnlineDetector(
            bundle, node=node, version=version, digest=digest, streams=streams, max_streams=max_streams
        )
    return Detector(
        bundle, node=node, version=version, digest=digest, streams=streams, score=score, max_streams=max_streams
    )


def no_model(x: Float32) -> Float32:
    """What stands for the model of the estimator ``online``."""
    raise AssertionError("the estimator online has no model")


def constants(bundle: Bundle) -> Records:
    """Of a bundle of the estimator ``online``."""
    assert isinstance(bundle.online, Records), "decode refuses others"
    return bundle.online


# ── golden vectors: a series that was made up, through the detector itself ──────────────────────────────────────────


def golden_vectors(constants: Records, width: int) -> Golden:
    """What every node must say of made-up series: a rhythm with noise, a step, and a spike after the warm-up."""
    rng = np.random.default_rng(_GOLDEN_SEED)
    n = constants.warm_up + _GOLDEN_ROWS
    rows = np.sin(np.arange(n) / 9)[:, None] + rng.normal(0, 0.3, (n, width))
    rows[-40:] += 3.0
    rows[-20] += 30.0
    inputs = rows.astype("<f4")
    scores = _golden_scores(constants, inputs.astype(np.float64))
    return Golden(rows=n, inputs=inputs.tobytes(), scores=scores.tobytes(), tolerance=_GOLDEN_TOLERANCE)


def golden_error(bundle: Bundle) -> float:
    """Largest deviation from the golden scores in units of the tolerance; at most 1 passes."""
    golden, width = bundle.golden, len(bundle.feature_names)
    inputs = np.frombuffer(golden.inputs, "<f4").reshape(golden.rows, width).astype(np.float64)
    expected = np.frombuffer(golden.scores, "<f4").astype(np.float64)
    if not np.isfinite(inputs).all():
        return math.inf
    found = _golden_scores(constants(bundle), inputs).astype(np.float64)
    deviation = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    worst = float(deviation.max()) / golden.tolerance
    return worst if worst == worst else math.inf


def _golden_scores(constants: Records, inputs: Float64) -> NDArray[np.float32]:
    """The strangest feature's surprise of each row, 0 during the warm-up, as little-endian float32."""
    n, width = inputs.shape
    series = np.repeat(np.arange(width), n)
    time_s = np.tile(np.arange(n) * _GOLDEN_STEP_S, width)
    found = Univariate(constants, *_GOLDEN_BUDGET).push(series, time_s, inputs.T.ravel())
    scores: NDArray[np.float32] = np.nan_to_num(found.score).reshape(width, n).max(axis=0).astype("<f4")
    return scores
