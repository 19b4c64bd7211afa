"""The whole pipeline: equal alerts for any batch boundaries and restarts, each explaining itself."""

from __future__ import annotations

import msgspec
import numpy as np
from edgectl_agent.core.batch import Batch, Float32, StreamTable
from edgectl_agent.core.bundle import (
    Adaptation,
    AlertRule,
    Budget,
    Bundle,
    Channel,
    FeatureSpec,
    Golden,
    InstantFeatures,
    Scaler,
    Smoothing,
    WindowFeatures,
)
from edgectl_agent.core.detector import Detector
from edgectl_agent.core.features import feature_names
from edgectl_agent.core.messages import Alert, alert_id
from edgectl_agent.core.threshold import fit_tail
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import SECOND, cuts, part

FEATURES = FeatureSpec(
    channels=(Channel(name="a"),),
    features=(
        InstantFeatures(channels=("a",), kinds=("value", "diff")),
        WindowFeatures(channels=("a",), window_ns=30 * SECOND, stats=("mean",)),
    ),
    warm_up_ns=30 * SECOND,
)
BUNDLE = Bundle(
    recipe="one",
    estimator="pca",
    variant="fp32",
    features=FEATURES,
    feature_names=feature_names(FEATURES),
    scaler=Scaler(center=(0.0, 0.0, 0.0), scale=(1.0, 1.5, 0.3)),
    tail=fit_tail(np.random.default_rng(0).exponential(1.0, 2000), SECOND),
    budget=Budget(warning_per_day=50, critical_per_day=1),
    rule=AlertRule(clear_after_ns=5 * SECOND, runbook="https://wiki.example/one"),
    adaptation=Adaptation(block=16),
    golden=Golden(rows=1, inputs=bytes(12), scores=bytes(4), tolerance=1e-4),
    model=b"",
)


def squares(z: Float32) -> Float32:
    return (z[:, 0] * z[:, 0]).astype(np.float32)


SMOOTHED = msgspec.structs.replace(BUNDLE, smoothing=Smoothing(rise=0.5, fall=0.1))


def detector(max_streams: int | None = None, bundle: Bundle = BUNDLE) -> Detector:
    streams = StreamTable([f"s{i}" for i in range(5)])
    return Detector(
        bundle, node="n1", version="1.0.0", digest="d" * 64, streams=streams, score=squares, max_streams=max_streams
    )


def readings(seed: int, n: int, streams: int) -> Batch:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 1))
    values[rng.random((n, 1)) < 0.03] += 9
    time = np.repeat(np.arange(n // streams + 1), streams)[:n] * SECOND
    return Batch((np.arange(n) % streams).astype(np.int32), time.astype(np.int64), values)


def same_but_clock(alerts: list[Alert]) -> list[Alert]:
    blank = [msgspec.structs.replace(a, accepted_ns=0, raised_ns=0) for a in alerts]
    return sorted(blank, key=lambda a: (a.stream, a.changed_ns, a.state, a.severity))


@settings(deadline=None, max_examples=40)
@given(data=st.data(), seed=st.integers(0, 1000), streams=st.sampled_from([1, 4]), smooth=st.booleans())
def test_alerts_and_scores_are_equal_for_any_batch_boundaries_and_restarts(
    data: st.DataObject, seed: int, streams: int, smooth: bool
) -> None:
    batch, bundle = readings(seed, 400, streams), SMOOTHED if smooth else BUNDLE
    whole = detector(bundle=bundle).process(batch, 1, 2)
    one, scores, alerts = detector(bundle=bundle), [], []
    for where in data.draw(cuts(len(batch))):
        found = one.process(part(batch, where), where.start, where.stop)
        scores.append(found.scores)
        alerts += found.alerts
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(one.snapshot()))
        one = detector(bundle=bundle)
        one.restore(state)
    assert np.concatenate(scores).tobytes() == whole.scores.tobytes()
    assert same_but_clock(alerts) == same_but_clock(list(whole.alerts))
    assert whole.alerts


def test_an_alert_names_its_stream_generation_onset_and_reasons() -> None:
    batch = readings(1, 200, 1)
    calm = Batch(batch.stream, batch.event_time, np.full((200, 1), 0.1))
    calm.values[100] = 9.0
    found = detector().process(calm, accepted_ns=5, now_ns=6).alerts
    first, last = found[0], found[-1]
    assert (first.state, first.stream, first.severity, first.onset_ns) == ("open", "s0", "critical", 100 * SECOND)
    assert first.id == alert_id("n1", "s0", "one", "d" * 64, 100 * SECOND)
    assert (first.accepted_ns, first.raised_ns, first.runbook) == (5, 6, "https://wiki.example/one")
    assert first.contributions[0].feature == "a"
    assert first.contributions[0].value == 9.0
    assert first.contributions[0].high == 3.0
    assert first.surprise > 5
    assert (last.id, last.state, last.changed_ns) == (first.id, "cleared", 105 * SECOND)


def test_readings_beyond_the_stream_limit_are_counted_and_ignored() -> None:
    limited = detector(max_streams=2)
    found = limited.process(readings(2, 400, 4), 0, 0)
    assert limited.counters["over_limit"] == 200
    assert limited.known_streams == 2
    assert np.isnan(found.scores[2::4]).all()
    assert not np.isnan(found.scores[200::4]).any()


def test_scores_that_are_not_finite_are_counted_and_never_alert() -> None:
    broken = Detector(
        BUNDLE, node="n", version="1", digest="d", streams=StreamTable(["s0"]),
        score=lambda z: np.full(len(z), np.nan, np.float32),
    )  # fmt: skip
    found = broken.process(readings(3, 100, 1), 0, 0)
    assert found.alerts == ()
    assert broken.counters["not_finite"] == broken.inferences == 70


def test_a_new_model_keeps_the_window_state_and_ends_what_is_open() -> None:
    old = detector()
    batch = readings(4, 200, 1)
    batch.values[199] = 20.0
    old.process(batch, 0, 0)
    new = Detector(BUNDLE, node="n1", version="2", digest="e" * 64, streams=old.streams, score=squares)
    assert new.adopt_features(old)
    ended = old.end_open_alerts(now_ns=9)
    assert [a.state for a in ended] == ["cleared"] * len(ended)
    assert ended
    after = new.process(Batch(np.zeros(1, np.int32), np.array([200 * SECOND]), np.zeros((1, 1))), 0, 0)
    assert np.isfinite(after.scores).all()
