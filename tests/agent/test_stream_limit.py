"""Streams are bounded: idle ones give way to new ones by a rule, and a refusal is seen."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from edgectl_agent.core.batch import Batch, StreamTable
from edgectl_agent.core.bundle import TimingFeatures, encode
from edgectl_agent.core.detector import Detection, Detector
from edgectl_agent.core.features import feature_names
from edgectl_agent.core.limit import StreamLimit
from edgectl_agent.engine import Engine
from edgectl_agent.health import judge
from edgectl_agent.sources.interface import Chunk
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import SECOND, cuts
from tests.agent.test_detector import BUNDLE, squares
from tests.agent.test_health import OUTBOX, SOURCE
from tests.agent.test_reorder import EXAMPLES
from tests.support.bundles import make_bundle

IDLE = 100 * SECOND


class Node:
    """A detector behind a limit, as `Engine` puts them together."""

    def __init__(self, limit: int, lateness: Any = msgspec.UNSET) -> None:
        features = (*BUNDLE.features.features, TimingFeatures(kinds=("since_last",), half_life_ns=SECOND))
        spec = msgspec.structs.replace(BUNDLE.features, features=features, warm_up_ns=0, lateness_ns=lateness)
        scaler = msgspec.structs.replace(BUNDLE.scaler, center=(0.0,) * 4, scale=(1.0,) * 4)
        bundle = msgspec.structs.replace(BUNDLE, features=spec, feature_names=feature_names(spec), scaler=scaler)
        self.detector = Detector(
            bundle, node="n", version="1", digest="d" * 64, streams=StreamTable(), score=squares, max_streams=limit
        )
        self.limit = StreamLimit(limit, IDLE)
        self.evicted = 0
        self.told: list[str] = []

    def _evict(self, streams: Any) -> None:
        self.detector.forget(streams)
        self.detector.streams.release(streams.tolist())
        self.evicted += len(streams)

    def feed(self, names: list[str], time: Any, values: Any, horizon_ns: int | None = None) -> list[Any]:
        """Alerts and scores by stream name."""
        found: list[Any] = []
        while names:
            placed = self.limit.place(self.detector, tuple(names), time, horizon_ns, self._evict)
            n = len(placed)
            detection = self.detector.process(Batch(placed, time[:n], values[:n]), 0, 0, horizon_ns)
            self.told += names[:n]
            found += self._found(detection)
            names, time, values = names[n:], time[n:], values[n:]
        return found

    def flush(self) -> list[Any]:
        return self._found(self.detector.flush(0))

    def _found(self, detection: Detection) -> list[Any]:
        scored = zip(detection.serial.tolist(), detection.scores.tolist(), strict=True)
        scores = [(self.told[i], score) for i, score in scored if score == score]
        return [*((a.stream, a.onset_ns, a.state) for a in detection.alerts), *scores]


def readings(*told: tuple[str, int, float]) -> tuple[list[str], Any, Any]:
    names, seconds, values = zip(*told, strict=True)
    return list(names), np.array(seconds, np.int64) * SECOND, np.array(values, float)[:, None]


def test_the_stream_that_is_idle_longest_gives_way_to_a_new_one() -> None:
    node = Node(limit=2)
    node.feed(*readings(("a", 50, 0), ("b", 0, 0), ("c", 101, 0), ("a", 102, 0)))
    assert node.detector.streams.names == ("a", "c")
    assert (node.evicted, node.limit.refusing) == (1, False)


def test_a_new_stream_begins_with_nothing_of_the_one_whose_place_it_takes() -> None:
    told = ("new", 1000, 7.0), ("new", 1001, 9.0), ("new", 1002, 9.0)
    fresh, used = Node(limit=1), Node(limit=1)
    used.feed(*readings(*(("old", t, 0.1 * (t % 3)) for t in range(300))))
    assert used.feed(*readings(*told)) == fresh.feed(*readings(*told))


def test_readings_of_new_streams_are_refused_while_too_few_are_idle_and_the_node_says_so() -> None:
    node = Node(limit=2)
    node.feed(*readings(("a", 0, 0), ("b", 50, 0), ("c", 60, 0), ("c", 61, 0)))
    assert node.detector.streams.names == ("a", "b")
    assert (node.detector.counters["over_limit"], node.limit.refusing) == (2, True)
    node.feed(*readings(("c", 101, 0)))
    assert (node.detector.streams.names, node.limit.refusing) == (("c", "b"), False)


def test_a_stream_with_an_open_alert_never_gives_way() -> None:
    node = Node(limit=1)
    node.feed(*readings(("a", 0, 100.0)))
    assert node.detector.open_alerts == 1
    node.feed(*readings(("b", 10_000, 0)))
    assert node.detector.streams.names == ("a",)
    node.feed(*readings(("a", 10_001, 0), ("b", 20_000, 0)))
    assert node.detector.streams.names == ("b",)


def test_with_a_lateness_a_stream_gives_way_when_nothing_of_it_is_held() -> None:
    node = Node(limit=2, lateness=50 * SECOND)
    told = ("a", 0, 3.0), ("b", 1000, 1.0), ("a", 1000, 0.5)
    found = node.feed(*readings(*told, ("c", 1200, 0)))
    assert (node.detector.streams.names, node.detector.counters["over_limit"]) == (("a", "b"), 1)
    found += node.feed(*readings(("c", 1201, 0)))
    assert node.detector.streams.names == ("c", "b")
    assert [name for name, *_ in found].count("a") >= 2
    assert node.detector.counters["discarded"] == 0


def test_for_a_reading_from_the_future_nothing_gives_way() -> None:
    node = Node(limit=1)
    node.feed(*readings(("a", 0, 0), ("b", 10_000, 0)), horizon_ns=5_000 * SECOND)
    assert node.detector.streams.names == ("a",)


@settings(deadline=None, max_examples=EXAMPLES // 2)
@given(
    data=st.data(),
    limit=st.sampled_from([1, 3, 40]),
    lateness=st.sampled_from([msgspec.UNSET, 20 * SECOND]),
    seed=st.integers(0, 10_000),
)
def test_which_streams_give_way_does_not_depend_on_batch_boundaries(
    data: st.DataObject, limit: int, lateness: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n = 80
    names = [f"s{i}" for i in rng.zipf(1.3, n) % (3 * limit)]
    time = np.cumsum(rng.choice([0, SECOND, 40 * SECOND, 150 * SECOND], n))
    values = rng.normal(size=(n, 1)) * rng.choice([1, 10], n, p=[0.95, 0.05])[:, None]
    whole, parts, found = Node(limit, lateness), Node(limit, lateness), []
    for part in data.draw(cuts(n)):
        found += parts.feed(names[part], time[part], values[part])
    found += parts.flush()
    assert sorted(map(str, found)) == sorted(map(str, whole.feed(names, time, values) + whole.flush()))
    assert parts.evicted == whole.evicted
    assert len(whole.detector.streams) <= limit


def test_a_hundred_thousand_names_take_no_more_memory_than_the_limit() -> None:
    def batches() -> Iterator[tuple[list[str], Any, Any]]:
        for i in range(50):
            names = [f"s{i}-{j}" for j in range(2000)]
            yield names, np.arange(2000 * i, 2000 * (i + 1)) * SECOND, np.zeros((2000, 1))

    node = Node(limit=4000, lateness=5 * SECOND)
    for told in batches():
        node.feed(*told)
    assert len(node.detector.streams.slots) == 4000
    assert len(node.detector._features.newest_ns) <= 8000
    assert node.detector.held <= 10
    assert node.evicted >= 95_000
    assert node.detector.counters["over_limit"] == 0


def test_an_engine_that_lets_streams_go_counts_them_and_goes_on_after_a_restart() -> None:
    raw = encode(make_bundle())

    def engine() -> Engine:
        return Engine.load(raw, "1", "n", StreamTable(), 4, lambda seconds: None, idle_ns=IDLE)

    def chunk(*told: tuple[str, int, float]) -> Chunk:
        names, time, values = readings(*told)
        return Chunk(tuple(names), time, values, {}, 0)

    one = engine()
    channels = tuple(c.name for c in one.detector.bundle.features.channels)
    for told in (("a", 0, 0.0), ("b", 1, 0.0)), (("c", 2, 0.0), ("d", 103, 0.0), ("e", 104, 0.0), ("f", 105, 0.0)):
        for batch in one.batches(chunk(*told), channels):
            one.process(batch, 0, 0, None)
    assert one.detector.streams.slots == ("e", "f", "c", "d")
    again = engine()
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(one.snapshot())))
    assert again.detector.streams.slots == one.detector.streams.slots
    assert again.status("").counters["evicted"] == 2
    assert again.status("").streams == 4


def test_a_node_that_refuses_streams_is_degraded_and_says_what_to_do() -> None:
    node = Node(limit=1)
    node.feed(*readings(("a", 0, 0), ("b", 1, 0)))
    model: Any = SimpleNamespace(recipe="press", streams_full=1, counters=node.detector.counters, warming=0, streams=1)
    state, reasons = judge(("press",), (model,), {}, (SOURCE,), (), OUTBOX)
    assert state == "degraded"
    assert reasons == (
        "press: new streams are refused, 1 is the limit and too few are idle (1 readings so far) "
        "→ raise agent.streams in fleet.yaml",
    )
