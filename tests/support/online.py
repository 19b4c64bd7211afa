"""Bundles that learn on the node, as training makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from edgectl_agent.core.bundle import Bundle

from edgectl.training import recipe as recipes
from edgectl.training.online import bundle_of

RECIPE: dict[str, Any] = {
    "recipe": "one",
    "stream": "s",
    "time": {"column": "ts"},
    "channels": {"a": {"range": [-1e6, 1e6]}, "b": {}},
    "model": {"type": "online", "warm_up": 30},
    "alerts": {"budget": {"warning": "1/day", "critical": "1/30d"}, "clear_after": "30s"},
}


def recipe(folder: Path, **changes: Any) -> recipes.Recipe:
    """`RECIPE` with other values at the top."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(RECIPE | changes))
    return recipes.load(file)


def online_bundle(folder: Path, **changes: Any) -> Bundle:
    """The bundle of `recipe`."""
    return bundle_of(recipe(folder, **changes))
