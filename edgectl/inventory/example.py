"""The fully commented files that edgectl carries: fleet.yaml and a recipe."""

from __future__ import annotations

from pathlib import Path

from edgectl.core.errors import ConfigError

FLEET, RECIPE = "fleet.yaml.example", "recipe.yaml.example"


def text(name: str = FLEET) -> str:
    """The text of one: package data when installed, else in the clone. Raises `ConfigError` if it is in neither."""
    package = Path(__file__).parents[1]
    for folder in (package / "_models", package.parent, package.parent / "models"):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    raise ConfigError(f"this installation lacks {name}", hint="install edgectl again")
