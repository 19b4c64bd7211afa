"""Replays of real recipes through the node's own engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgectl_agent.core.bundle import decode

from edgectl.core.errors import ConfigError
from edgectl.evaluation import replaying
from edgectl.evaluation.replaying import Subject, fitted, history, replayed
from edgectl.evaluation.running import Options, evaluate
from edgectl.evaluation.series import Corpus, Series
from edgectl.training.recipe import find, load
from tests.evaluation.labelled import series

SENSOR = Subject(name="sensor", recipe=find("sensor", None))
MINUTES_5 = 300 * 10**9


def wave(name: str = "one", fault: bool = True, n: int = 2400) -> Series:
    """A daily rhythm with noise; a fault of three hours near the end."""
    at = np.arange(n)
    values = 50 + 10 * np.sin(2 * np.pi * at / 288) + np.random.default_rng(len(name)).normal(0, 0.5, n)
    if fault:
        values[n - 400 : n - 364] += 60
    return series(
        values.tolist(), [(n - 400, n - 365)] if fault else [], begin=1500, name=name, every_ns=MINUTES_5
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> Subject:
    one = wave()
    return SENSOR.trained(history([one], Corpus(name="", series=())))


def test_a_fault_is_found_at_the_threshold_that_the_budget_set(trained: Subject) -> None:
    one = wave()
    found = replayed(trained, one)
    raised = [alarm.raised_ns for alarm in found.alarms]
    assert any(one.time[2000] <= at <= one.time[2035] for at in raised)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(found.score >= 1, found.raw >= found.level)
    assert np.isnan(found.score[: one.begin - 144]).all()  # nothing but what fills the windows


def test_batches_change_nothing(trained: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replayed(trained, wave())
    monkeypatch.setattr(replaying, "CHUNK", 37)
    parts = replayed(trained, wave())
    assert np.array_equal(whole.raw, parts.raw, equal_nan=True)
    assert np.array_equal(whole.level, parts.level, equal_nan=True)
    assert whole.alarms == parts.alarms


def test_later_readings_change_no_earlier_score(trained: Subject) -> None:
    whole, cut = wave(), 2100
    part = replace(whole, time=whole.time[:cut], values=whole.values[:cut])
    assert np.array_equal(replayed(trained, whole).raw[:cut], replayed(trained, part).raw, equal_nan=True)


def test_a_released_bundle_sees_the_whole_history(trained: Subject) -> None:
    found = replayed(Subject(name="released", raw=trained.raw), wave())
    assert np.isfinite(found.raw[200:]).all()


def test_another_budget_reaches_the_bundle_and_the_recipe(trained: Subject) -> None:
    assert trained.raw is not None
    assert SENSOR.per_day == pytest.approx(0.1)
    assert SENSOR.asked(5.0).per_day == 5.0
    other = Subject(name="released", raw=trained.raw).asked(0.001)
    assert other.raw is not None
    assert decode(other.raw).budget.critical_per_day == 0.001


def test_channels_are_found_by_name_and_a_missing_one_is_told() -> None:
    two = replace(series([0.0] * 3), channels=("b", "a"), values=np.arange(6.0).reshape(3, 2))
    corpus = Corpus(name="mine", series=(two,))
    assert fitted(corpus, ("a",)).series[0].values[:, 0].tolist() == [1, 3, 5]
    with pytest.raises(ConfigError, match=r"one: the channel 'c' is missing, the series has b, a"):
        fitted(corpus, ("a", "c"))


def test_an_evaluation_is_the_same_with_one_process_and_with_two(trained: Subject) -> None:
    released = Subject(name="released", raw=trained.raw)
    corpus = Corpus(name="mine", series=(wave("one"), wave("three"), wave("quiet", fault=False)))
    told: list[str] = []
    alone = evaluate(corpus, released, Options(budgets=(1.0,), by_ranges=False), told.append).result
    assert sorted(told) == ["one", "quiet", "three"]
    assert evaluate(corpus, released, Options(budgets=(1.0,), by_ranges=False, jobs=2)).result == alone
    detector, *baselines = alone.methods
    assert [row.method for row in baselines] == ["random", "always alarm", "new high/low", "mean z²", "null"]
    assert (detector.found, detector.windows) == (2, 2)
    assert detector.nab.standard is not None
    assert detector.nab.standard > 50
    assert baselines[1].false_per_stream_day.value == pytest.approx(24, abs=1.5)
    assert [(b.asked, b.streams) for b in alone.budgets] == [(1.0, 3)]
    assert any("were left out" in remark for remark in alone.remarks)


def test_a_series_with_too_little_history_misses_its_windows_and_is_told() -> None:
    short = series([1.0, 2.0] * 50, [(80, 90)], begin=10, name="short", every_ns=MINUTES_5)
    found = evaluate(Corpus(name="mine", series=(wave(), short)), SENSOR, Options(by_ranges=False)).result
    alone = evaluate(Corpus(name="mine", series=(wave(),)), SENSOR, Options(by_ranges=False)).result
    assert found.methods[0].false_per_stream_day.value == alone.methods[0].false_per_stream_day.value
    assert (found.methods[0].found, found.methods[0].windows) == (1, 2)
    assert "too little data" in found.by_series[1].refused
    assert any("1 of 2 series could not be trained on" in remark for remark in found.remarks)
    with pytest.raises(ConfigError, match="short: too little data"):
        evaluate(Corpus(name="mine", series=(short,)), SENSOR, Options())


def test_what_learns_on_the_node_sees_every_reading_from_the_first(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "recipe: any\ntime: {column: ts}\nchannels: {value: {}}\nmodel: {type: online}\n"
        "alerts: {budget: {warning: 1/10d, critical: 1/100d}}\n"
    )
    subject = Subject(name="any", recipe=load(path))
    corpus = Corpus(name="mine", series=(wave(),))
    found = evaluate(corpus, subject, Options(budgets=(1.0,), by_ranges=False))
    assert found.result.trained_on.startswith("nothing: it learns on the node")
    assert found.result.methods[0].found == 1
    assert np.isfinite(found.replays[0].raw[200:]).all()
    with pytest.raises(ConfigError, match="the int8 variant of any: it learns on the node and has no weights"):
        evaluate(corpus, replace(subject, variant="int8"), Options())
