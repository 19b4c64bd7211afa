from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from edgectl_agent.core import bundle
from edgectl_agent.core.bundle import InstantFeatures, PhaseFeatures, WindowFeatures
from edgectl_agent.core.features import feature_names

from edgectl.core.errors import ConfigError, NothingMatched
from edgectl.training import recipe as recipes
from edgectl.training.feature_entries import zone_offsets

HOUR, DAY = 3600 * 10**9, 86_400 * 10**9
GOOD = """
recipe: press
stream: machine
time: {column: ts, zone: Europe/Paris}
channels:
  vib: {unit: mm/s, range: [0, 50], column: v.rms}
  temp: {hold: 5m}
  current:
sampling: {every: 1s, gap_after: 30s}
features:
  - {of: all, window: 5m, stats: [mean, std]}
  - {of: [vib, temp], instant: [value, diff]}
  - {phase: [day, week]}
model: {type: autoencoder, seed: 7, epochs: 20}
train: {part: first 60%, exclude: incidents.csv, clip: 20}
alerts:
  budget: {warning: 1/day, critical: 1/30d}
  hold: 30s
  clear_after: 10m
  runbook: https://wiki.acme.example/press
ship: {variants: [fp32, int8], max_size: 500kB, latency_p99: 5ms}
"""


def write(folder: Path, change: dict[str, Any] | None = None) -> Path:
    """`GOOD` with the keys at dotted paths replaced; None removes a key."""
    plain = yaml.safe_load(GOOD)
    for path, value in (change or {}).items():
        here = plain
        *steps, last = path.split(".")
        for step in steps:
            here = here[int(step) if isinstance(here, list) else step]
        if value is None:
            del here[last]
        else:
            here[last] = value
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    return file


def test_a_recipe_becomes_the_values_that_training_and_bundles_use(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(GOOD, encoding="utf-8")
    r = recipes.load(tmp_path / "recipe.yaml")
    assert (r.name, r.stream_column, r.time_column, r.zone) == ("press", "machine", "ts", "Europe/Paris")
    assert r.columns == ("v.rms", "temp", "current")
    vib, temp, _ = r.features.channels
    assert (vib.low, vib.high, vib.unit, temp.hold_ns) == (0, 50, "mm/s", 300 * 10**9)
    window, instant, phase = r.features.features
    assert window == WindowFeatures(channels=("vib", "temp", "current"), window_ns=300 * 10**9, stats=("mean", "std"))
    assert instant == InstantFeatures(channels=("vib", "temp"), kinds=("value", "diff"))
    assert phase == PhaseFeatures(periods=("day", "week"))
    assert (r.features.warm_up_ns, r.features.gap_after_ns) == (300 * 10**9, 30 * 10**9)
    assert (r.estimator, r.seed, r.params) == ("autoencoder", 7, {"epochs": 20})
    assert (r.fit_share, r.clip, r.exclude) == (0.6, 20, tmp_path / "incidents.csv")
    assert (r.budget.warning_per_day, r.rule.hold_ns, r.rule.clear_after_ns) == (1, 30 * 10**9, 600 * 10**9)
    assert (r.variants, r.max_size, r.max_p99_us) == (("fp32", "int8"), 500_000, 5_000)


TRANSACTIONS = """
recipe: cards
stream: card
time: {column: ts, zone: Europe/Paris}
channels:
  amount: {range: [0, 10000]}
  fee:
categories:
  shop: {column: to.shop}
  land:
features:
  - {of: amount, tumbling: 1d, stats: [sum, count], part: [closed, running]}
  - {of: amount, decay: 30d, stats: [mean, z]}
  - {of: amount, lag: [1, 5]}
  - {timing: [since_last, rate], half_life: 1h}
  - {of: [amount, fee], seasonal: [day, week]}
  - {of: amount, window: 1h, quantiles: [0.5, 0.99]}
  - {of: fee, window: 1h, quantiles: [0.9], resolution: 0.01, error: 0.1, panes: 2}
  - {of: shop, distinct: 24h}
  - {of: land, counts: 1h, values: [FR, 12, true]}
  - {of: shop, counts: 1h}
  - {of: all, new: 30d, capacity: 50}
  - {of: shop, new: 7d, share: 10m}
model: {type: pca}
alerts: {budget: {warning: 1/day, critical: 1/30d}}
"""


def test_every_kind_of_feature_can_be_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(TRANSACTIONS, encoding="utf-8")
    r = recipes.load(file)
    assert (r.features.categories, r.category_columns) == (("shop", "land"), ("to.shop", "land"))
    tumbling, decayed, lag, timing, seasonal, quantile, wide, distinct, count, own, new, share = r.features.features
    assert tumbling == bundle.TumblingFeatures(
        channels=("amount",), window_ns=DAY, stats=("sum", "count"), parts=("closed", "running")
    )
    assert decayed == bundle.DecayedFeatures(channels=("amount",), half_life_ns=30 * DAY, stats=("mean", "z"))
    assert lag == bundle.LagFeatures(channels=("amount",), lags=(1, 5), kinds=("value", "diff"))
    assert timing == bundle.TimingFeatures(kinds=("since_last", "rate"), half_life_ns=HOUR)
    assert isinstance(seasonal, bundle.SeasonalFeatures)
    assert (seasonal.periods, seasonal.bins, seasonal.half_life_ns) == (("day", "week"), (24, 4), 14 * DAY)
    assert quantile == bundle.QuantileFeatures(
        channels=("amount",), window_ns=HOUR, quantiles=(0.5, 0.99), error=0.05, resolution=1, highest=10_000,
        signed=False,
    )  # fmt: skip
    assert isinstance(wide, bundle.QuantileFeatures)
    assert (wide.resolution, wide.highest, wide.error, wide.panes, wide.signed) == (0.01, 10_000, 0.1, 2, True)
    assert distinct == bundle.DistinctFeatures(categories=("shop",), window_ns=DAY, registers=128)
    assert count == bundle.CountFeatures(categories=("land",), window_ns=HOUR, values=("FR", "12", "true"))
    assert own == bundle.CountFeatures(categories=("shop",), window_ns=HOUR)
    assert new == bundle.NewFeatures(categories=("shop", "land"), memory_ns=30 * DAY, capacity=50)
    assert share == bundle.NewFeatures(categories=("shop",), memory_ns=7 * DAY, share_ns=600 * 10**9)
    assert r.features.warm_up_ns == r.longest_window_ns == 30 * DAY
    assert len(feature_names(r.features)) == len(set(feature_names(r.features))) == 31


def test_a_seasonal_features_day_is_that_of_its_zone(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(TRANSACTIONS, encoding="utf-8")
    (seasonal,) = (f for f in recipes.load(file).features.features if isinstance(f, bundle.SeasonalFeatures))
    since, offsets = zip(*seasonal.offsets, strict=True)
    assert set(offsets) == {HOUR, 2 * HOUR}
    assert 1_774_746_000 * 10**9 in since  # 2026-03-29T01:00:00Z, when summer time begins
    assert zone_offsets("UTC") == ()
    assert zone_offsets("Asia/Kolkata") == ((-(2**62), 19_800 * 10**9),)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"0.tumbling": "x"}, "features[0].tumbling: expected a duration such as 30s, 5m or 24h, found 'x'"),
        ({"0.stats": ["z"]}, "features[0].stats[0]: expected one of mean, std, min, max, count, sum, slope, found 'z'"),
        ({"0.part": ["open"]}, "features[0].part[0]: expected one of closed, running, found 'open'"),
        ({"1.stats": ["max"]}, "features[1].stats[0]: expected one of mean, std, count, sum, rate, residual, z, found"),
        ({"1.stats": None}, "features[1].stats: expected at least one of mean, std, count, sum, rate, residual, z"),
        ({"1.panes": 4}, "features[1].panes: expected no panes beside decay, found 4"),
        ({"1.window": "5m"}, "features[1]: expected exactly one of window, instant, phase, tumbling, decay, lag,"),
        ({"2.lag": [0]}, "features[2].lag: expected numbers of readings from 1 to 1000, found 0"),
        ({"2.kinds": ["z"]}, "features[2].kinds[0]: expected one of value, diff, found 'z'"),
        ({"3.of": "amount"}, 'features[3].of: expected no of beside timing, found "amount"'),
        ({"4.bins": 7}, "features[4].bins: expected a number of equal parts of a day, a divisor of 1440 up to 288,"),
        ({"4.zone": "Mars"}, "features[4].zone: expected a zone such as UTC or Europe/Paris, found 'Mars'"),
        ({"5.quantiles": [99]}, "features[5].quantiles: expected numbers from 0 to 1, found 99"),
        ({"5.stats": ["mean"]}, "features[5].stats: expected no stats beside quantiles, but an entry of their own"),
        ({"6.resolution": None}, "features[6].resolution: expected the smallest difference that matters, since channel "
         "'fee' has no range of two ends, found nothing"),
        ({"6.error": 0.9}, "features[6].error: expected a number from 0.005 to 0.5, found 0.9"),
        ({"7.of": "amount"}, "features[7].of: expected 'all' or categories out of shop, land, found 'amount'"),
        ({"7.error": 0.5}, "features[7].error: expected a number from 0.01625 to 0.26, found 0.5"),
        ({"8.values": ["FR", "FR"]}, "features[8].values: expected each name once, found 'FR' twice"),
        ({"10.capacity": 0}, "features[10].capacity: expected a number of values from 1 to 100000, found 0"),
        ({"10.panes": 3}, "features[10].panes: expected no panes without share, found 3"),
        ({"10.nwe": "1d"}, "features[10].nwe: unknown key, did you mean 'new'?"),
        ({"10.of": "amount"}, "features[10].of: expected 'all' or categories out of shop, land, found 'amount'"),
    ],
)  # fmt: skip
def test_a_wrong_feature_gets_one_sentence_with_the_path_of_the_key(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    plain = yaml.safe_load(TRANSACTIONS)
    for path, value in change.items():
        number, key = path.split(".")
        if value is None:
            del plain["features"][int(number)][key]
        else:
            plain["features"][int(number)][key] = value
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        recipes.load(file)
    assert caught.value.message.startswith(f"{file}: {sentence}")
    assert "\n" not in caught.value.message


def test_a_category_is_named_apart_from_channels_and_asked_for_only_where_there_are_some(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"categories\.vib: expected a name that no channel has, found the channel"):
        recipes.load(write(tmp_path, {"categories": {"vib": {}}}))
    with pytest.raises(ConfigError, match=r"features\[0\].of: expected a category, but the recipe has no categories"):
        recipes.load(write(tmp_path, {"features": [{"of": "vib", "new": "1d"}]}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"recipe": "a b"}, "recipe: expected a name of letters"),
        ({"chanels": {}}, "chanels: unknown key, did you mean 'channels'?"),
        ({"channels.vib.rage": [0, 1]}, "channels.vib.rage: unknown key, did you mean 'range'?"),
        ({"channels.vib.range": [0]}, "channels.vib.range: expected array of length 2"),
        ({"channels.vib.range": [5, 1]}, "channels.vib.range: expected [low, high] with low below high, found [5, 1]"),
        ({"channels.temp.hold": "5 parsecs"}, "channels.temp.hold: expected a duration such as 30s, 5m or 24h, found"),
        ({"channels": {}}, "channels: expected at least one channel, or a category under 'categories', found none"),
        ({"time": None}, "time: required key is missing"),
        ({"time.zone": "Mars/Olympus"}, "time.zone: expected a zone such as UTC or Europe/Paris, found 'Mars/Olympus'"),
        (
            {"features.0.stats": ["avg"]},
            "features[0].stats[0]: expected one of mean, std, min, max, count, sum, slope, found 'avg'",
        ),
        (
            {"features.0.of": "vibr"},
            "features[0].of: expected 'all' or channels out of vib, temp, current, found 'vibr'",
        ),
        ({"features.0.window": "0s"}, "features[0].window: expected a duration above zero, found '0s'"),
        ({"features.1.window": "5m"}, "features[1]: expected exactly one of window, instant, phase, tumbling,"),
        ({"features.2.phase": ["day", "day"]}, "features[2].phase: expected each name once, found 'day' twice"),
        ({"features": [{"phase": ["day"]}]}, "features: expected at least one feature of a channel or category"),
        (
            {"model.type": "magic"},
            "model.type: expected one of auto, pca, isolation-forest, autoencoder, kmeans, robust-covariance, online, "
            "found 'magic'",
        ),
        ({"model.trees": 5}, "model.trees: unknown key, expected one of type, seed, hidden"),
        ({"model.epochs": "many"}, "model.epochs: expected a whole number from 1 to 10000"),
        ({"model.seed": -1}, "model.seed: expected a whole number from 0 to 4294967295, found -1"),
        ({"train.part": "random 70%"}, "train.part: expected 'first N%' with N from 10 to 95, found random 70%"),
        ({"train.clip": 1}, "train.clip: expected a number from 3 to 1000000, found 1"),
        ({"alerts.budget.warning": "often"}, "alerts.budget.warning: expected a rate such as 1/day, 3/h or 1/30d"),
        ({"alerts.budget.critical": "2/day"}, "alerts.budget.critical: expected at most the warning budget 1/day"),
        ({"ship.variants": ["int8"]}, "ship.variants: expected fp32 among them"),
        ({"ship.variants": ["fp32", "int4"]}, "ship.variants[1]: expected one of fp16, fp32, int8, found 'int4'"),
        ({"ship.max_size": "big"}, "ship.max_size: expected a size such as 500kB, 200M or 2G, found 'big'"),
    ],
)
def test_a_wrong_recipe_gets_one_sentence_with_the_path_of_the_key(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    file = write(tmp_path, change)
    with pytest.raises(ConfigError) as caught:
        recipes.load(file)
    assert caught.value.message.startswith(f"{file}: {sentence}")
    assert "\n" not in caught.value.message


def test_a_feature_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, {"features": [{"of": "all", "instant": ["value"]}, {"of": "vib", "instant": ["value"]}]})
    with pytest.raises(ConfigError, match="features: expected each name once, found 'vib' twice"):
        recipes.load(file)


def test_what_is_not_yaml_or_not_there_is_said_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    with pytest.raises(ConfigError, match=r"recipe.yaml: no such file"):
        recipes.load(file)
    file.write_text("recipe: [", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"recipe.yaml: line 1: not valid YAML"):
        recipes.load(file)


def test_the_workspaces_recipe_hides_the_packaged_one_of_the_same_name(tmp_path: Path) -> None:
    assert recipes.find("sensor", tmp_path).path.parent.parent == recipes.packaged()
    (tmp_path / "sensor").mkdir()
    write(tmp_path / "sensor", {"recipe": "sensor"})
    assert recipes.find("sensor", tmp_path).path.parent.parent == tmp_path
    assert recipes.find(str(tmp_path / "sensor"), None).name == "sensor"
    assert recipes.find(str(tmp_path / "sensor" / "recipe.yaml"), None).name == "sensor"


def test_an_unknown_recipe_lists_the_closest_names(tmp_path: Path) -> None:
    with pytest.raises(NothingMatched) as caught:
        recipes.find("snsor", tmp_path)
    assert str(caught.value).startswith("unknown recipe 'snsor' → did you mean 'sensor'")


def test_every_packaged_recipe_is_sound_and_has_a_card() -> None:
    found = recipes.available(None)
    assert {"plant", "sensor", "host", "server"} <= set(found)
    for name, file in found.items():
        assert recipes.load(file).name == name
        card = (file.parent / "README.md").read_text(encoding="utf-8")
        assert card.startswith(f"# {name}\n")
        assert len(card) < 4000
