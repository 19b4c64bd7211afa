"""A recipe and a history small enough to train within seconds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

START_S = 1_700_000_000

RECIPE = """\
recipe: press
stream: machine
time: {column: ts, zone: UTC}
channels:
  value: {}
features:
  - {of: all, instant: [value]}
  - {of: all, window: 5m, stats: [mean]}
model: {type: pca}
alerts: {budget: {warning: 1/day, critical: 1/30d}}
ship: {variants: [fp32]}
"""


def write_recipe(workspace: Path, text: str = RECIPE) -> Path:
    """Put a recipe called press into the workspace."""
    path = workspace / "models" / "press" / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def usual(count: int = 600, seed: int = 1) -> list[str]:
    """Values as a file has them: noise."""
    return [f"{value:.4f}" for value in np.random.default_rng(seed).normal(size=count)]


def write_history(path: Path, values: Iterable[str] | None = None, head: str = "ts,machine,value") -> Path:
    """A CSV file with one reading per minute."""
    rows = [f"{START_S + 60 * i},m1,{value}" for i, value in enumerate(usual() if values is None else values)]
    path.write_text("\n".join([head, *rows]) + "\n")
    return path
