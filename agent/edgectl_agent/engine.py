"""One loaded model at work on this node: the bundle's session, its detector, and what it costs."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import compress
from typing import Any
from weakref import WeakSet

import msgspec
import numpy as np

from edgectl_agent.core import bundle as bundles
from edgectl_agent.core import online
from edgectl_agent.core.batch import Batch, Float32, Float64, Int32, Int64, StreamTable
from edgectl_agent.core.categories import code_table
from edgectl_agent.core.detector import Detection, Detector
from edgectl_agent.core.errors import AdmissionError
from edgectl_agent.core.join import Membership
from edgectl_agent.core.limit import IDLE_NS, StreamLimit
from edgectl_agent.core.messages import ModelStatus
from edgectl_agent.core.online import detector_of, no_model
from edgectl_agent.inference import Model, golden_error
from edgectl_agent.sources.interface import Chunk

_LATENCIES = 1000
Observe = Callable[[float], None]


class Engine:
    """Built by `load`, fed by the worker alone."""

    def __init__(self, raw: bytes, build: Callable[[], Detector], golden: float, limit: StreamLimit) -> None:
        self.raw = raw
        self._build = build
        self.detector, self.golden_error = build(), golden
        self.recipe, self.variant = self.detector.bundle.recipe, self.detector.bundle.variant
        self.digest, self.version = self.detector.digest, self.detector.version
        self.activated_ns = 0
        self.inferences_before = 0
        """Of the detector's count, those made on an earlier boot."""
        self._limit = limit
        self._followers: WeakSet[Detector] = WeakSet()
        """Of trials, which share the stream indices."""
        spec = self.detector.bundle.features
        self._channels = tuple(channel.name for channel in spec.channels)
        self._membership: Membership | None = None
        if not isinstance(spec.join, msgspec.UnsetType):
            self._channels = spec.join.columns or self._channels
            self._membership = Membership(spec.join)
        self._categories = self.detector.bundle.features.categories
        self._code_table = code_table(self.detector.bundle.features)
        self._latencies_us: deque[float] = deque(maxlen=_LATENCIES)
        self.fed_s = -math.inf
        """When it last got readings, by the monotonic clock."""

    @classmethod
    def load(
        cls,
        raw: bytes,
        version: str,
        node: str,
        streams: StreamTable,
        max_streams: int,
        observe: Observe,
        idle_ns: int = IDLE_NS,
    ) -> Engine:
        """Decode a bundle, build its session and run its golden vectors.

        Args:
            raw: the bundle's bytes.
            version: the release's, as alerts show it.
            node: the node's name.
            streams: shared with a predecessor whose window state is to be kept.
            max_streams: readings of further streams are refused.
            observe: is told the seconds of each call of the model.
            idle_ns: how long in event time a stream must be idle before it gives way to a new one.

        Raises:
            TrustError: the bytes are no bundle; as `AdmissionError`: the model does not load or answers otherwise than
                where it was made.
        """
        bundle = bundles.decode(raw)
        answers, deviation = _answers(bundle)
        if not deviation <= 1:
            raise AdmissionError(
                f"{bundle.recipe} {version} deviates {deviation:.3g} times the tolerance from its golden vectors, "
                "expected at most 1",
                reason="golden",
            )

        def score(x: Float32) -> Float32:
            started = time.perf_counter()
            answer = answers(x)
            observe(time.perf_counter() - started)
            return answer

        digest = bundles.digest(raw)

        def build() -> Detector:
            return detector_of(
                bundle, node=node, version=version, digest=digest, streams=streams, score=score, max_streams=max_streams
            )

        limit = StreamLimit(max_streams, max(idle_ns, bundle.features.lateness))
        return cls(raw, build, deviation, limit)

    def batches(
        self,
        chunk: Chunk,
        channels: tuple[str, ...],
        categories: tuple[str, ...] = (),
        horizon_ns: int | None = None,
    ) -> Iterator[Batch]:
        """The readings of `chunk`, whose columns are `channels` and `categories`, as this model wants them.

        A channel or category that the source lacks is missing in every reading. It is one batch, unless streams must
        give way to new ones: process each batch before you ask for the next. Streams beyond the limit get an index that
        the detector refuses and counts; their names are not kept.
        """
        member = None
        if self._membership is not None:
            chunk, member = self._joined(self._membership, chunk)
        values = self._values(chunk, channels)
        codes = self._codes(chunk, categories)
        stream = self.detector.streams.indices(chunk.streams)
        if stream is not None:
            yield Batch(stream, chunk.event_time, values, codes, member)
            return
        begin, n = 0, len(chunk)
        while begin < n:
            placed = self._limit.place(
                self.detector, chunk.streams[begin:], chunk.event_time[begin:], horizon_ns, self._evict
            )
            part = slice(begin, begin + len(placed))
            rest = Batch(placed, chunk.event_time[part], values[part], None if codes is None else codes[part])
            yield rest if member is None else replace(rest, member=member[part])
            begin = part.stop

    def _joined(self, membership: Membership, chunk: Chunk) -> tuple[Chunk, Int32]:
        """The readings of members under their joined streams' names; those of other streams are left out."""
        names, member = membership.place(chunk.streams)
        mine = member >= 0
        if not mine.all():
            self.detector.counters["not_joined"] += int((~mine).sum())
            names, member = list(compress(names, mine)), member[mine]
        time, values = chunk.event_time[mine], chunk.values[mine]
        return replace(chunk, streams=tuple(names), event_time=time, values=values, texts=()), member

    def _values(self, chunk: Chunk, channels: tuple[str, ...]) -> Float64:
        if channels == self._channels:
            return chunk.values
        values = np.full((len(chunk), len(self._channels)), np.nan)
        for column, channel in enumerate(self._channels):
            if channel in channels:
                values[:, column] = chunk.values[:, channels.index(channel)]
        return values

    def _evict(self, streams: Int64) -> None:
        for detector in (self.detector, *self._followers):
            detector.forget(streams)
        self.detector.counters["evicted"] += len(streams)
        self.detector.streams.release(streams.tolist())

    def follow(self, shadow: Detector) -> None:
        """Let `shadow` forget the streams that give way here, for as long as it lives."""
        self._followers.add(shadow)

    def _codes(self, chunk: Chunk, categories: tuple[str, ...]) -> Int32 | None:
        if not self._categories or not len(chunk):
            return None
        texts = dict(zip(categories, chunk.texts, strict=True))
        return self._code_table.encode([texts.get(category) for category in self._categories], len(chunk))

    @property
    def patience_ns(self) -> int | None:
        """How far a source may be read ahead of another that has more, because this model joins them; None if not."""
        join = self.detector.bundle.features.join
        return join.idle_ns if join else None

    @property
    def nothing(self) -> Batch:
        """A batch without readings."""
        none = np.empty(0, np.int32)
        return Batch(none, none.astype(np.int64), np.empty((0, len(self._channels))), member=none)

    def process(
        self, batch: Batch, accepted_ns: int, now_ns: int, horizon_ns: int | None, until_ns: int | None = None
    ) -> Detection:
        """Score a batch. Raises `AdmissionError` if the model fails; the window state is then no longer exact."""
        started = time.perf_counter()
        detection = self.detector.process(batch, accepted_ns, now_ns, horizon_ns, until_ns)
        self._latencies_us.append((time.perf_counter() - started) * 1e6)
        self.fed_s = time.monotonic()
        return detection

    def flush(self, now_ns: int) -> Detection:
        """Score what is held. Raises as `process` does."""
        return self.detector.flush(now_ns)

    def inherits(self, other: Engine) -> bool:
        """Whether `succeed` would take the state over."""
        return self.detector.inherits(other.detector)

    def succeed(self, other: Engine) -> bool:
        """Take over the window state of the model that ran until now. False: the streams warm up again."""
        return self.detector.adopt_features(other.detector)

    def shadow(self) -> Detector:
        """Another detector with the same model and no state."""
        return self._build()

    def snapshot(self) -> dict[str, Any]:
        """All state as plain values."""
        return {
            "digest": self.digest,
            "streams": list(self.detector.streams.slots),
            "activated_ns": self.activated_ns,
            "detector": self.detector.snapshot(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `snapshot` was taken by an engine of the same bundle and an empty stream table."""
        self.detector.streams.restore(state["streams"])
        self.detector.restore(state["detector"])
        self.activated_ns = state["activated_ns"]
        self.inferences_before = self.detector.inferences

    @property
    def inferences(self) -> int:
        """Rows scored on this boot."""
        return self.detector.inferences - self.inferences_before

    def status(self, previous: str) -> ModelStatus:
        """For the report; `previous` is the digest in the other slot."""
        detector = self.detector
        latencies = list(self._latencies_us)
        p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (0.0, 0.0)
        return ModelStatus(
            recipe=self.recipe,
            version=self.version,
            bundle=self.digest,
            variant=self.variant,
            golden_error=self.golden_error,
            inferences=self.inferences,
            activated_ns=self.activated_ns,
            previous=previous,
            streams=detector.known_streams,
            warming=detector.warming_streams,
            streams_full=self._limit.limit if self._limit.refusing else 0,
            held=detector.held,
            open_alerts=detector.open_alerts,
            p50_us=round(float(p50), 1),
            p99_us=round(float(p99), 1),
            counters={name: count for name, count in self._counters().items() if count},
        )

    def _counters(self) -> Counter[str]:
        return self.detector.counters + Counter(code_table_refilled=self._code_table.refills)


def _answers(bundle: bundles.Bundle) -> tuple[Callable[[Float32], Float32], float]:
    """The bundle's model, and its largest deviation from the golden vectors in units of the tolerance.

    Raises:
        AdmissionError: the model does not load.
    """
    if bundle.estimator == "online":
        return no_model, online.golden_error(bundle)
    model = Model(bundle.model)
    return model.score, golden_error(model, bundle.golden, len(bundle.feature_names))


class Trial:
    """A new model beside the running one, on the same readings and a copy of its windows; what it says is not heard.

    It fails by an exception or a score that is no number. It is over with its first scored readings.
    """

    def __init__(self, candidate: Engine, running: Engine) -> None:
        self.failure = ""
        self.scored = False
        self.over = threading.Event()
        self._started = False
        self._running = running
        self._shadow = candidate.shadow()

    def observe(
        self, batch: Batch, accepted_ns: int, now_ns: int, horizon_ns: int | None, until_ns: int | None = None
    ) -> None:
        """Judge the candidate by a batch that the running model has not yet seen."""
        if self.over.is_set():
            return
        if not self._started:
            self._copy_windows()
        try:
            self._shadow.process(batch, accepted_ns, now_ns, horizon_ns, until_ns)
            if not self._shadow.bundle.features.join:
                self._shadow.flush(now_ns)  # of a copy: nobody waits here for readings that may come earlier
        except AdmissionError as e:
            self.failure = str(e)
        if self._shadow.counters["not_finite"]:
            self.failure = "it answers with scores that are no numbers"
        self.scored = self._shadow.inferences > 0
        if self.failure or self.scored:
            self.over.set()

    def _copy_windows(self) -> None:
        self._started = True
        self._shadow.copy_features(self._running.detector)
        self._running.follow(self._shadow)
