"""The guide to features says what holds: its example loads, its names and its table of state are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from edgectl_agent.core.bundle import FeatureSpec
from edgectl_agent.core.features import FeatureBuilder, feature_names

from edgectl.inventory import example
from edgectl.training.feature_entries import FORMS
from edgectl.training.recipe import Recipe, load
from edgectl.training.recipe_file import AlertsEntry, ChannelEntry, FeatureEntry, RecipeFile, ShipEntry

GUIDE = (Path(__file__).parents[2] / "docs/guides/features.md").read_text(encoding="utf-8")
COSTS = re.findall(r"^\| `(\{.+\})` \| (\d+) \|$", GUIDE, re.MULTILINE)
REST = {
    "recipe": "r",
    "time": {"column": "ts"},
    "model": {"type": "pca"},
    "alerts": {"budget": {"warning": "1/day", "critical": "1/30d"}},
}


def recipe(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(REST | yaml.safe_load(text)), encoding="utf-8")
    return load(path)


def test_the_example_is_a_recipe(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    names = feature_names(recipe(tmp_path, example).features)
    assert {"amount.sum.1d", "amount.z.half30d", "land.new.30d", "shop.distinct.1d", "rate.half1h"} <= set(names)


def test_the_commented_recipe_loads_and_has_every_key(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(example.text(example.RECIPE), encoding="utf-8")
    assert len(feature_names(load(path).features)) == 45
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    commented = {key for key in ("join", "log") if f"\n# {key}: " in path.read_text(encoding="utf-8")}
    assert {*plain, *commented} == set(RecipeFile.__struct_fields__)
    assert {key for entry in plain["features"] for key in entry} == set(FeatureEntry.__struct_fields__)
    assert set(plain["channels"]["amount"]) == set(ChannelEntry.__struct_fields__)
    assert {*plain["alerts"], *plain["ship"]} == {*AlertsEntry.__struct_fields__, *ShipEntry.__struct_fields__}


def test_every_kind_of_feature_is_in_the_guide() -> None:
    assert {form for form in FORMS if f"| `{form}: " in GUIDE} == set(FORMS)


@pytest.mark.parametrize(("entry", "size"), COSTS)
def test_state_costs_what_the_guide_says(tmp_path: Path, entry: str, size: str) -> None:
    parts = "channels: {temp: {range: [0, 100]}}\ncategories: {shop: , note: {mine: true}}\n"
    full = recipe(tmp_path, f"{parts}features: [{{of: temp, instant: [value]}}, {entry}]").features
    alone = FeatureSpec(channels=full.channels, features=full.features[:1], warm_up_ns=0)
    codes = 4 * len(full.categories)  # of the reading before, to know a duplicate
    assert FeatureBuilder(full).bytes_per_stream - FeatureBuilder(alone).bytes_per_stream - codes == int(size)


def test_the_guide_has_the_cost_of_every_kind_that_keeps_state() -> None:
    assert {form for form in FORMS for entry, _ in COSTS if form in yaml.safe_load(entry)} == set(FORMS) - {
        "instant",
        "phase",
    }
