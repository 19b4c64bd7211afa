"""A model without training at work: batch boundaries, missing values, warm-up, what an alert says, who may run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from edgectl_agent.admission import admit
from edgectl_agent.core.batch import Batch, StreamTable
from edgectl_agent.core.bundle import Bundle, decode, encode
from edgectl_agent.core.errors import AdmissionError, TrustError
from edgectl_agent.core.messages import Alert
from edgectl_agent.core.online import OnlineDetector
from edgectl_agent.engine import Engine
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import cuts, part
from tests.agent.test_detector import same_but_clock
from tests.support.bundles import MINUTE, make_bundle
from tests.support.online import online_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return online_bundle(tmp_path_factory.mktemp("online"))


def detector(bundle: Bundle, streams: int = 40, digest: str = "d" * 64) -> OnlineDetector:
    table = StreamTable([f"s{i}" for i in range(streams)])
    return OnlineDetector(bundle, node="n1", version="1", digest=digest, streams=table)


def readings(seed: int, n: int, streams: int) -> Batch:
    """Two channels of noise with spikes and missing values; readings a minute apart in each stream."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 2))
    values[rng.random((n, 2)) < 0.01] += 40
    values[rng.random((n, 2)) < 0.1] = np.nan
    time = np.repeat(np.arange(n // streams + 1), streams)[:n] * MINUTE
    return Batch((np.arange(n) % streams).astype(np.int32), time.astype(np.int64), values)


def fed(bundle: Bundle, *rows: tuple[float, float]) -> tuple[OnlineDetector, tuple[Alert, ...]]:
    one = detector(bundle)
    time = np.arange(len(rows)) * MINUTE
    found = one.process(Batch(np.zeros(len(rows), np.int32), time, np.array(rows)), accepted_ns=5, now_ns=6)
    return one, found.alerts


def at(minute: int, alerts: tuple[Alert, ...]) -> Alert:
    """The alert that begins then."""
    return next(alert for alert in alerts if alert.onset_ns == minute * MINUTE)


def calm(n: int, seed: int = 1) -> list[tuple[float, float]]:
    rng = np.random.default_rng(seed)
    return [(10.0 + float(rng.normal()), float(rng.normal())) for _ in range(n)]


@settings(deadline=None, max_examples=15)
@given(data=st.data(), seed=st.integers(0, 1000), streams=st.sampled_from([1, 3, 30]))
def test_scores_and_alerts_are_equal_for_any_batch_boundaries_and_restarts(
    bundle: Bundle, data: st.DataObject, seed: int, streams: int
) -> None:
    batch = readings(seed, 45 * streams + 200, streams)
    whole = detector(bundle).process(batch, 1, 2)
    one, scores, alerts = detector(bundle), [], []
    for where in data.draw(cuts(len(batch))):
        found = one.process(part(batch, where), where.start, where.stop)
        scores.append(found.scores)
        alerts += found.alerts
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(one.snapshot()))
        one = detector(bundle)
        one.restore(state)
    assert np.concatenate(scores).tobytes() == whole.scores.tobytes()
    assert same_but_clock(alerts) == same_but_clock(list(whole.alerts))


def test_an_alert_says_which_channel_its_value_what_was_usual_and_what_came_before(bundle: Bundle) -> None:
    rows = [*calm(300), (90.0, 0.0)]
    _, alerts = fed(bundle, *rows)
    alert = at(300, alerts)
    assert (alert.state, alert.stream, alert.onset_ns, alert.accepted_ns) == ("open", "s0", 300 * MINUTE, 5)
    value = next(c for c in alert.contributions if c.feature == "a")
    assert value.value == 90.0
    assert 6 < value.low < 9 < 11 < value.high < 14
    assert alert.recent == tuple(a for a, _ in rows[-32:])
    assert alert.surprise == pytest.approx(alert.score, abs=1e-3)
    assert alert.score >= alert.threshold


def test_what_came_before_reaches_back_beyond_the_batch_and_a_restart(bundle: Bundle) -> None:
    rows = [*calm(300), (90.0, 0.0)]
    one, _ = fed(bundle, *rows[:290])
    again = detector(bundle)
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(one.snapshot())))
    late = Batch(np.zeros(11, np.int32), np.arange(290, 301) * MINUTE, np.array(rows[290:]))
    alert = at(300, again.process(late, 0, 0).alerts)
    assert alert.recent == tuple(a for a, _ in rows[-32:])


def test_a_channel_without_a_value_has_no_reading_and_the_others_are_watched(bundle: Bundle) -> None:
    _, alerts = fed(bundle, *((a, np.nan) for a, _ in calm(300)), (90.0, np.nan))
    assert [c.feature for c in at(300, alerts).contributions if c.value == 90.0] == ["a"]


def test_a_stream_warms_up_until_one_of_its_channels_is_judged(bundle: Bundle) -> None:
    one, _ = fed(bundle, *calm(29))
    assert (one.known_streams, one.warming_streams, one.inferences) == (1, 1, 29)
    assert one.counters["warming"] == 29
    one, _ = fed(bundle, *calm(31))
    assert (one.known_streams, one.warming_streams) == (1, 0)
    assert (one.counters["warming"], one.counters["ok"]) == (30, 1)


def test_a_stream_that_gave_way_begins_anew(bundle: Bundle) -> None:
    batch = readings(3, 400, 4)
    one = detector(bundle)
    one.process(batch, 0, 0)
    one.forget(np.array([2]))
    later = Batch(batch.stream, batch.event_time + 10**14, batch.values)
    fresh = detector(bundle).process(later.take(later.stream == 2), 0, 0)
    again = one.process(later, 0, 0)
    assert again.scores[later.stream == 2].tobytes() == fresh.scores.tobytes()


def test_a_new_release_with_another_budget_goes_on_with_what_was_learnt(bundle: Bundle) -> None:
    old, _ = fed(bundle, *calm(200))
    budget = msgspec.structs.replace(bundle.budget, warning_per_day=0.5)
    new = OnlineDetector(
        msgspec.structs.replace(bundle, budget=budget), node="n1", version="2", digest="e" * 64, streams=old.streams
    )
    assert new.adopt_features(old)
    assert new.warming_streams == 0
    spike = Batch(np.zeros(1, np.int32), np.array([200 * MINUTE]), np.array([[90.0, 0.0]]))
    (alert,) = new.process(spike, 0, 0).alerts
    assert len(alert.recent) == 32
    assert not new.inherits(detector(bundle))


@pytest.mark.parametrize(
    "change",
    [
        {"model": b"x"},
        {"variant": "int8"},
        {"estimator": "pca"},
        {"online": msgspec.UNSET},
    ],
)
def test_a_bundle_that_is_neither_trained_nor_online_is_refused(bundle: Bundle, change: dict[str, Any]) -> None:
    with pytest.raises(TrustError, match="estimator"):
        decode(encode(msgspec.structs.replace(bundle, **change)))


def test_a_trained_bundle_says_nothing_of_learning_on_the_node_so_that_digests_stay() -> None:
    assert "online" not in msgspec.msgpack.decode(encode(make_bundle(1)))


def test_a_node_runs_the_golden_series_and_refuses_what_it_judges_otherwise(bundle: Bundle) -> None:
    assert admit(bundle) == 0
    scores = np.frombuffer(bundle.golden.scores, "<f4") + np.float32(0.01)
    golden = msgspec.structs.replace(bundle.golden, scores=scores.tobytes())
    other = msgspec.structs.replace(bundle, golden=golden)
    with pytest.raises(AdmissionError, match="golden"):
        admit(other)
    with pytest.raises(AdmissionError, match="golden"):
        Engine.load(encode(other), "1", "n", StreamTable(), 10, lambda seconds: None)


def test_a_trained_bundle_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises((AdmissionError, TrustError)):
        admit(msgspec.structs.replace(make_bundle(1), model=b""))
