"""A training run → what the registry keeps of it: bundles, report and picture."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

import msgspec

from edgectl.registry.interface import Draft
from edgectl.training import online
from edgectl.training.pipeline import Trained
from edgectl.training.plot import draw
from edgectl.training.report import render


def draft(trained: Trained | online.Made, now: datetime) -> Draft:
    """A release without a version; `now` is its date of birth."""
    files = {"report.txt": page(trained).encode()}
    if trained.held is not None:
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "scores.svg"
            draw(trained, picture)
            files["scores.svg"] = picture.read_bytes()
    return Draft(
        recipe=trained.recipe.name,
        bundles={b.variant: b.raw for b in trained.built},
        p99_us={b.variant: b.p99_us for b in trained.built},
        created=now.isoformat(timespec="seconds"),
        report=msgspec.json.encode(trained.report),
        files=files,
    )


def page(trained: Trained | online.Made) -> str:
    """The report for people."""
    return online.render(trained.report) if isinstance(trained, online.Made) else render(trained.report)
