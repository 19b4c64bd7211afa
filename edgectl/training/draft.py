"""A training run → what the registry keeps of it: bundles, report and picture."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

import msgspec

from edgectl.registry.interface import Draft
from edgectl.training.pipeline import Trained
from edgectl.training.plot import draw
from edgectl.training.report import render


def draft(trained: Trained, now: datetime) -> Draft:
    """A release without a version; `now` is its date of birth."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "scores.svg"
        draw(trained, picture)
        svg = picture.read_bytes()
    return Draft(
        recipe=trained.recipe.name,
        bundles={b.variant: b.raw for b in trained.built},
        p99_us={b.variant: b.p99_us for b in trained.built},
        created=now.isoformat(timespec="seconds"),
        report=msgspec.json.encode(trained.report),
        files={"report.txt": render(trained.report).encode(), "scores.svg": svg},
    )
