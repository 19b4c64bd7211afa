from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edgectl_agent.core.bundle import Estimator
from edgectl_agent.inference import Model
from sklearn.ensemble import IsolationForest

from edgectl.core.errors import ConfigError
from edgectl.training.estimators import PARAMS, fit, pick_golden_rows
from edgectl.training.export import to_onnx
from tests.training.trained import KINDS, SMALL, plant, small


def ignore(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_faults_score_higher_than_usual_rows(kind: Estimator) -> None:
    data = plant(12)
    scores = small(kind).score(data.live)
    faulty = np.zeros(len(scores), bool)
    for at in data.faults:
        faulty[at : at + 20] = True
    assert np.median(scores[faulty]) > np.quantile(scores[~faulty], 0.85)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seed_gives_equal_scores_and_another_seed_does_not(kind: Estimator) -> None:
    z = plant(12).train[:500]
    first, again, other = (fit(kind, z, seed=s, params=SMALL[kind], progress=ignore).score(z) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (kind in ("pca", "robust-covariance"))  # these draw nothing


@pytest.mark.parametrize("kind", KINDS)
def test_progress_rises_to_its_total(kind: Estimator) -> None:
    seen: list[tuple[int, int]] = []
    fit(kind, plant(12).train[:300], seed=0, params={}, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert len(seen) > 1
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_during_training_passes_through(kind: Estimator) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(kind, plant(12).train[:300], seed=0, params={}, progress=interrupt)


def test_a_forest_grown_in_steps_is_the_forest_grown_at_once() -> None:
    z = plant(12).train[:1000]
    grown = fit("isolation-forest", z, seed=5, params={"trees": 37, "samples": 64}, progress=ignore)
    whole = IsolationForest(n_estimators=37, max_samples=64, random_state=5).fit(z)
    assert len(grown.model.estimators_) == 37
    assert np.array_equal(grown.score(z), -whole.score_samples(z))


def test_a_forest_wants_no_more_samples_than_there_are_rows() -> None:
    fitted = fit("isolation-forest", plant(12).train[:40], seed=0, params={}, progress=ignore)
    assert fitted.model.max_samples_ == 40


def test_pca_keeps_the_share_of_variance_that_is_asked_for() -> None:
    z = plant(12).train
    for share in (0.5, 0.9):
        model = fit("pca", z, seed=0, params={"explained": share}, progress=ignore).model
        kept = model.explained_variance_ratio_
        assert kept.sum() >= share > kept[:-1].sum()
    assert fit("pca", z, seed=0, params={"components": 3}, progress=ignore).model.n_components_ == 3


def test_pca_always_leaves_something_outside_the_subspace() -> None:
    rank_one = np.outer(np.linspace(-1, 1, 100), np.ones(4)).astype(np.float32)
    fitted = fit("pca", rank_one, seed=0, params={"explained": 0.999}, progress=ignore)
    assert fitted.model.n_components_ == 1
    assert fitted.score(np.array([[5, -5, 5, -5]], np.float32))[0] > 1


def test_a_robust_covariance_does_not_learn_the_few_rows_that_are_strange() -> None:
    z = plant(12).train[:2000].copy()
    z[:60] = 8.0 * np.sign(z[0])
    held = plant(12).train[3000:]
    above = {}
    for trim in (0.0, 0.05):
        fitted = fit("robust-covariance", z, seed=0, params={"trim": trim}, progress=ignore)
        above[trim] = np.median(fitted.score(z[:60])) / np.median(fitted.score(held))
    assert above[0.05] > 1.5 * above[0.0]


def test_a_feature_that_never_moved_keeps_a_robust_covariance_finite() -> None:
    z = plant(12).train[:500].copy()
    z[:, 4] = 0.0
    fitted = fit("robust-covariance", z, seed=0, params={}, progress=ignore)
    moved = z[:1].copy()
    moved[0, 4] = 3.0
    assert fitted.score(moved)[0] > fitted.score(z[:1])[0]


def test_no_more_centroids_than_distinct_rows() -> None:
    z = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    fitted = fit("kmeans", z, seed=0, params={"clusters": 8}, progress=ignore)
    assert fitted.score(z).max() == pytest.approx(0, abs=1e-6)


def test_an_autoencoder_of_one_feature_trains() -> None:
    z = plant(12).train[:300, :1]
    fitted = fit("autoencoder", np.ascontiguousarray(z), seed=0, params={"epochs": 3}, progress=ignore)
    assert fitted.score(z).shape == (300,)


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("pca", {"tree": 3}, "pca has no parameter 'tree', expected one of: explained, components"),
        ("pca", {"components": 12}, "components must be below the 12 features, found 12"),
        ("pca", {"components": 2, "explained": 0.5}, "either explained or components, found both"),
        ("isolation-forest", {"trees": 0}, "trees must be a whole number from 1 to 2000, found 0"),
        ("isolation-forest", {"trees": 10.5}, "trees must be a whole number from 1 to 2000, found 10.5"),
        ("isolation-forest", {"trees": True}, "trees must be a whole number from 1 to 2000, found True"),
        ("autoencoder", {"learning_rate": float("nan")}, "learning_rate must be a number from 1e-06 to 1, found nan"),
    ],
)
def test_an_impossible_parameter_is_one_sentence(kind: Estimator, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        fit(kind, plant(12).train[:300], seed=0, params=params, progress=ignore)


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_data_is_one_sentence(kind: Estimator) -> None:
    z = plant(12).train[:100].copy()
    with pytest.raises(ConfigError, match="at least 32 rows of 1 feature, found 5 rows of 12"):
        fit(kind, z[:5], seed=0, params={}, progress=ignore)
    z[7, 3] = np.nan
    with pytest.raises(ConfigError, match="NaN or infinite"):
        fit(kind, z, seed=0, params={}, progress=ignore)


def test_pca_of_one_feature_is_refused() -> None:
    with pytest.raises(ConfigError, match="pca needs at least 2 features"):
        fit("pca", plant(12).train[:100, :1], seed=0, params={}, progress=ignore)


def test_the_defaults_lie_inside_the_documented_ranges() -> None:
    for kind in KINDS:
        fit(kind, plant(12).train[:64], seed=0, params={}, progress=ignore)
        assert all(p.low < p.high and p.meaning for p in PARAMS[kind].values())


def test_golden_rows_cover_the_range_of_scores() -> None:
    scores = np.random.default_rng(0).exponential(size=500).astype(np.float32)
    rows = pick_golden_rows(np.zeros((500, 2), np.float32), scores, rows=64)
    assert len(rows) == len(set(rows.tolist())) == 64
    assert scores[rows[0]] == scores.min()
    assert scores[rows[-1]] == scores.max()
    assert (np.diff(scores[rows]) >= 0).all()


def test_few_rows_are_all_golden() -> None:
    assert sorted(pick_golden_rows(np.zeros((5, 2), np.float32), np.array([3, 1, 2, 5, 4], np.float32))) == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_a_fault_along_what_pca_reproduces_counts_only_with_inside() -> None:
    z = plant(12).train
    direction = np.linalg.svd(z[:2000], full_matrices=False)[2][0]
    far = (12 * direction * np.sqrt(12)).astype(np.float32)[None, :]
    plain, inside = (fit("pca", z, seed=0, params={"inside": w}, progress=ignore) for w in (0.0, 1.0))
    above = [f.score(far)[0] / np.median(f.score(z)) for f in (plain, inside)]
    assert above[1] > 2 * above[0]


@pytest.mark.parametrize("kind", ["pca", "autoencoder"])
def test_the_graph_counts_the_inside_as_scikit_learn_does(kind: Estimator) -> None:
    z = plant(12).train[:500]
    fitted = fit(kind, z, seed=0, params={**SMALL[kind], "inside": 0.5}, progress=ignore)
    assert np.allclose(Model(to_onnx(fitted)).score(z), fitted.score(z), rtol=1e-4, atol=1e-5)
