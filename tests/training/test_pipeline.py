from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from edgectl_agent.core.batch import StreamTable
from edgectl_agent.core.bundle import decode, digest
from edgectl_agent.core.detector import Detector
from edgectl_agent.core.features import FeatureBuilder
from edgectl_agent.core.units import iso
from edgectl_agent.inference import Model, golden_error

from edgectl.core.errors import ConfigError
from edgectl.generate import plant
from edgectl.training.features_of import fit_scaler
from edgectl.training.pipeline import MIN_FIT, MIN_HELD, Trained, train
from edgectl.training.plot import draw
from edgectl.training.recipe import Recipe, find, load
from edgectl.training.report import Report, render
from edgectl.training.tables import Table
from tests.training.test_recipe import write as write_recipe

CHECKOUT = Path(__file__).parents[2]
MACHINES = ("press-1", "press-2")
START_NS = 1_790_000_000 * 10**9


@cache
def _healthy(count: int, seed: int) -> Table:
    values = np.stack([plant.readings(seed, m, 0, count, START_NS) for m in MACHINES], axis=1)
    time = np.repeat(START_NS + np.arange(count, dtype=np.int64) * plant.STEP_NS, len(MACHINES))
    stream = np.tile(np.arange(len(MACHINES), dtype=np.int32), count)
    return Table(MACHINES, stream, time, values.reshape(-1, len(plant.CHANNELS)))


def history(count: int = 3000, seed: int = 7) -> Table:
    """A healthy plant, one reading per machine and minute; the values may be changed."""
    made = _healthy(count, seed)
    return replace(made, values=made.values.copy())


def recipe(folder: Path, **change: object) -> Recipe:
    plain: dict[str, object] = {
        "recipe": "plant",
        "channels": {name: {} for name in plant.CHANNELS},
        "sampling": {},
        "features": [{"of": "all", "instant": ["value"]}, {"of": "all", "window": "10m", "stats": ["mean", "std"]}],
        "model": {"type": "pca", "seed": 7, "explained": 0.99, "inside": 1.0},
        "train": {},
        "alerts.hold": "0s",
        "alerts.clear_after": "5m",
        "ship": {"variants": ["fp32", "int8"]},
    }
    return load(write_recipe(folder, {**plain, **change}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(recipe(tmp_path_factory.mktemp("recipe")), history())


def test_the_bundle_runs_as_it_is_on_a_node(trained: Trained) -> None:
    built = trained.built[0]
    assert built.variant == "fp32"
    assert digest(built.raw) == built.sha256
    bundle = decode(built.raw)
    model = Model(bundle.model)
    assert golden_error(model, bundle.golden, len(bundle.feature_names)) <= 1
    assert bundle.golden.rows == 64
    detector = Detector(bundle, node="n", version="1", digest="d", streams=StreamTable(MACHINES), score=model.score)
    faulty = history()
    faulty.values[5000] += (5, 0, 0, 0)
    found = detector.process(faulty.batch(), 0, 0)
    onset = int(faulty.event_time[5000])
    assert (MACHINES[faulty.stream[5000]], onset) in {(a.stream, a.onset_ns) for a in found.alerts}


def test_training_and_node_build_the_same_features(trained: Trained) -> None:
    bundle = decode(trained.built[0].raw)
    table = trained.table
    whole = FeatureBuilder(bundle.features).push(table.batch()).x
    live = FeatureBuilder(bundle.features)
    parts = [live.push(table.batch(slice(i, i + 37))).x for i in range(0, len(table), 37)]
    assert np.array_equal(whole, np.concatenate(parts), equal_nan=True)


def test_a_small_model_ships_alone_and_the_report_says_why(trained: Trained) -> None:
    fp32, int8 = trained.report.variants
    assert (fp32.kept, int8.kept) == (True, False)
    assert "too little is saved" in int8.why
    assert [b.variant for b in trained.built] == ["fp32"]


def test_a_forest_says_why_it_has_no_int8(tmp_path: Path) -> None:
    forest = recipe(tmp_path, model={"type": "isolation-forest", "trees": 20, "samples": 64})
    int8 = train(forest, history(600)).report.variants[1]
    assert not int8.kept
    assert int8.why.startswith("trees compare and add")


def test_the_report_counts_every_reading_once(trained: Trained) -> None:
    r = trained.report
    assert r.split.fit + r.split.held + r.split.excluded + sum(r.split.not_scored.values()) == r.data.readings == 6000
    assert (r.data.streams, r.data.interval_ns) == (2, plant.STEP_NS)
    assert r.scores.median < r.scores.p99 < r.scores.warning < r.scores.critical


def test_held_out_alerts_stay_near_the_budget_and_large_faults_are_found(trained: Trained) -> None:
    r = trained.report
    assert r.alerts.budget_per_day == 1
    assert r.alerts.per_day <= 4
    found = {f.kind: f.found / f.injected for f in r.faults}
    assert found["spike"] > 0.7
    assert found["level"] > 0.7


def test_the_page_shows_every_number_that_an_operator_decides_by(trained: Trained) -> None:
    page = render(trained.report)
    for word in (
        "6,000 readings of 2 streams",
        "FEATURES",
        "THRESHOLD",
        "false alerts",
        "spike",
        "VARIANT",
        "too little",
    ):
        assert word in page
    assert max(map(len, page.splitlines())) <= 160
    assert msgspec.json.decode(msgspec.json.encode(trained.report), type=Report) == trained.report


TRAIN = """
import sys
from pathlib import Path
from edgectl.training.pipeline import train
from tests.training.test_pipeline import MODELS, history, recipe
for model in MODELS:
    done = train(recipe(Path(sys.argv[1]), model=model, ship={}), history(600))
    print(*(v.sha256 for v in done.report.variants if v.sha256))
"""
MODELS: tuple[dict[str, object], ...] = (
    {"type": "pca", "inside": 0.5},
    {"type": "autoencoder", "seed": 3, "epochs": 3},
    {"type": "isolation-forest", "seed": 3, "trees": 10},
)


def test_the_same_data_recipe_and_seed_give_the_same_digests_in_two_processes(tmp_path: Path) -> None:
    running = []
    for hash_seed in ("1", "2"):
        (folder := tmp_path / hash_seed).mkdir()
        env = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'agent'}"}
        command = [sys.executable, "-c", TRAIN, str(folder)]
        running.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    first, second = (process.communicate(timeout=300)[0] for process in running)
    assert [len(line.split()) for line in first.splitlines()] == [3, 3, 1]
    assert first == second


def test_another_seed_gives_another_model_and_the_same_picture_comes_twice(trained: Trained, tmp_path: Path) -> None:
    small = recipe(tmp_path, model={"type": "isolation-forest", "trees": 10})
    assert train(small, history(600), seed=1).built[0].sha256 != train(small, history(600), seed=2).built[0].sha256
    for name in ("a.svg", "b.svg", "a.png"):
        draw(trained, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert b"critical alert" in (tmp_path / "a.svg").read_bytes()


def test_an_interruption_passes_through_at_every_stage(tmp_path: Path) -> None:
    stages: set[str] = set()

    def watch(stage: str, done: int, total: int) -> None:
        stages.add(stage)
        assert 0 <= done <= total

    small = recipe(tmp_path, model={"type": "pca"})
    train(small, history(600), progress=watch)
    assert {"features", "fit", "replay held-out", "replay fp32"} <= stages
    for stage in stages:

        def interrupt(name: str, done: int, total: int, at: str = stage) -> None:
            if name == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(small, history(600), progress=interrupt)


def test_too_little_data_says_how_much_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(recipe(tmp_path), history(80))
    assert "too little data for recipe plant: with windows of 10m it needs about 167 readings per stream" in str(
        caught.value
    )
    assert "found 80 over 79m" in str(caught.value)
    assert f"of {MIN_FIT} readings to fit" in str(caught.value)
    assert f"of {MIN_HELD} to hold out" in str(caught.value)
    train(recipe(tmp_path), history(170))


def test_readings_that_all_lack_a_channel_are_said_to(tmp_path: Path) -> None:
    table = history(400)
    table.values[:, 2] = np.nan
    table.values[0, 2] = 1
    with pytest.raises(ConfigError, match="799 of 800 readings lack a required channel or have it out of range"):
        train(recipe(tmp_path), table)


def test_no_variant_within_the_limits_is_an_error_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no variant of plant is within the recipe's limits \(fp32: .* is more than"):
        train(recipe(tmp_path, ship={"max_size": "500"}), history(400))


def test_known_incidents_are_neither_learned_nor_counted(tmp_path: Path) -> None:
    table = history(2000)
    bad = slice(3000, 3400)
    table.values[bad, 1] += 30
    first, last = (iso(int(table.event_time[i])) for i in (3000, 3399))
    (tmp_path / "incidents.csv").write_text(f"start,end\n{first},{last}\n")
    plain = train(recipe(tmp_path), table)
    told = train(recipe(tmp_path, train={"exclude": "incidents.csv"}), table)
    assert told.report.split.excluded == 400
    assert told.report.scores.warning < plain.report.scores.warning
    assert not [e for e in told.held.episodes if table.event_time[3000] <= e.onset_ns <= table.event_time[3399]]


def test_readings_farther_apart_than_a_gap_are_refused_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"readings come every 1m, farther apart than the recipe's sampling.gap_after 30s"
    ):
        train(recipe(tmp_path, sampling={"gap_after": "30s"}), history(400))


def test_data_at_another_pace_than_the_recipes_is_remarked(tmp_path: Path) -> None:
    said = train(recipe(tmp_path, sampling={"every": "1s"}), history(400)).report.remarks
    assert any("a reading every 1m, the recipe says 1s" in remark for remark in said)


def test_the_scaler_survives_constant_resting_and_missing_features() -> None:
    random = np.random.default_rng(0)
    resting = np.where(random.random(1000) < 0.05, random.normal(size=1000), 0.0)
    columns = [np.full(1000, 5.0), np.zeros(1000), resting, np.full(1000, np.nan), random.normal(3, 2, 1000)]
    x = np.stack(columns, axis=1)
    scaler = fit_scaler(x, clip=20)
    assert scaler.clip == 20
    assert scaler.center == pytest.approx((5, 0, 0, 0, 3), abs=0.4)
    assert scaler.scale[:2] == (0.5, 1.0)
    assert scaler.scale[2] == pytest.approx(0.5 * resting.std())
    assert scaler.scale[4] == pytest.approx(2, rel=0.1)


def test_the_wide_packaged_recipe_keeps_int8() -> None:
    """Many metrics that follow a few hidden causes, as on a server."""
    server = find("server", None)
    random = np.random.default_rng(1)
    n, width = 3000, len(server.columns)
    causes = np.cumsum(random.normal(size=(n, 4)), axis=0) / 30
    values = causes @ random.normal(size=(4, width)) + 0.3 * random.normal(size=(n, width))
    time = START_NS + np.arange(n, dtype=np.int64) * 60 * 10**9
    done = train(server, Table(("s",), np.zeros(n, np.int32), time, values))
    sizes = {v.variant: v for v in done.report.variants}
    assert sizes["fp32"].model_bytes > 100_000
    assert sizes["int8"].kept, sizes["int8"].why
    assert sizes["int8"].model_bytes < 0.4 * sizes["fp32"].model_bytes
