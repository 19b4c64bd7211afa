"""Training chooses among fixed candidates by synthetic faults, or by labels where there are some, and says how."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgectl_agent.core.bundle import decode

from edgectl.core.errors import ConfigError
from edgectl.core.evaluation import Period
from edgectl.training import auto, faults
from edgectl.training.auto import CANDIDATES, choose
from edgectl.training.pipeline import train
from edgectl.training.recipe import Recipe, load
from edgectl.training.report import render
from edgectl.training.tables import Table
from tests.training.test_pipeline import history, recipe
from tests.training.test_recipe import write

FEW = (CANDIDATES[0], CANDIDATES[1], CANDIDATES[5])


def plan(folder: Path) -> Recipe:
    features = [{"of": "all", "instant": ["value"]}]
    return recipe(folder, model={"type": "auto", "seed": 7}, features=features, warm_up="0s")


def quiet(stage: str, done: int, total: int) -> None:
    pass


def test_at_least_eight_candidates_differ_in_estimator_features_and_smoothing() -> None:
    assert len(set(CANDIDATES)) == len({c.name for c in CANDIDATES}) >= 8
    assert len({c.estimator for c in CANDIDATES}) == 5
    assert {c.lasting for c in CANDIDATES} == {c.changes for c in CANDIDATES} == {True, False}


def test_what_is_chosen_is_trained_and_the_report_ranks_every_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "CANDIDATES", FEW)
    found = train(plan(tmp_path), history())
    ranking = found.report.ranking
    assert sorted(c.name for c in ranking) == sorted(c.name for c in FEW)
    assert set(ranking[0].by_kind) == set(faults.ALL)
    best = max(c.figure for c in ranking if c.figure is not None)
    assert ranking[0].figure is not None
    assert ranking[0].figure >= 0.9 * best
    chosen = next(c for c in FEW if c.name == ranking[0].name)
    bundle = decode(found.built[0].raw)
    assert bundle.estimator == chosen.estimator
    assert bool(bundle.smoothing) == chosen.lasting == bool(bundle.tail.peaks)
    page = render(found.report)
    assert all(c.name in page for c in FEW)
    assert "SURGE" in page


def test_equal_data_and_seed_choose_equally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "CANDIDATES", FEW[:2])
    first, again = (choose(plan(tmp_path), history(), 7, (), quiet) for _ in range(2))
    assert first == again


def test_labels_take_the_place_of_synthetic_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "CANDIDATES", FEW[:2])
    table = history()
    labels = []
    for begin in (4400, 4800, 5200):
        table.values[begin : begin + 40] *= 3
        labels.append(Period(int(table.event_time[begin]), int(table.event_time[begin + 39])))
    _, ranking = choose(plan(tmp_path), table, 7, tuple(labels), quiet)
    assert all(set(c.by_kind) == {"labelled"} for c in ranking)
    assert ranking[0].figure is not None
    assert ranking[0].figure > 0.3
    _, ranking = choose(plan(tmp_path), table, 7, tuple(labels[:2]), quiet)
    assert "spike" in ranking[0].by_kind  # two are too few


def test_a_candidate_that_cannot_be_fitted_is_named_and_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "CANDIDATES", (CANDIDATES[5], CANDIDATES[0]))
    table = history()
    one = Table(table.streams, table.stream, table.event_time, np.ascontiguousarray(table.values[:, :1]))
    name = plan(tmp_path).features.channels[0].name
    single = load(write(tmp_path, {
        "recipe": "one", "channels": {name: {}}, "sampling": {}, "features": [{"of": name, "instant": ["value"]}],
        "model": {"type": "auto"}, "train": {}, "alerts.hold": "0s", "ship": {"variants": ["fp32"]}, "warm_up": "0s",
    }))  # fmt: skip
    chosen, ranking = choose(single, one, 7, (), quiet)
    assert chosen.estimator == "kmeans"
    assert ranking[-1].figure is None
    assert "at least 2 features" in ranking[-1].why


def test_too_little_to_rank_by_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to rank candidates by"):
        choose(plan(tmp_path), history(20), 7, (), quiet)


@pytest.mark.parametrize("kind", ["rhythm", "correlation", "surge"])
def test_faults_of_the_further_kinds_change_their_readings_alone(tmp_path: Path, kind: faults.Kind) -> None:
    table = history()
    planned = faults.plan(table, 4000, 0, 7, (kind,))
    faulty = faults.inject(table, planned, plan(tmp_path).features.channels)
    inside = np.zeros(len(table), bool)
    inside[[row for fault in planned for row in fault.rows]] = True
    changed = (faulty.values != table.values).any(axis=1)
    assert planned
    assert changed[inside].mean() > 0.9
    assert not changed[~inside].any()
