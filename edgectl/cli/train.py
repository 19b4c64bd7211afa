"""``edgectl train``: a recipe and a history become a release in the registry, ready to be signed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.output import Format, FormatOption, emit_one, note, progress, settings

if TYPE_CHECKING:
    from edgectl.registry.interface import Draft
    from edgectl.training.pipeline import Trained
    from edgectl.training.recipe import Recipe


def train(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe's name (in models/ or packaged), or its path.")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Further data files.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="CSV, Parquet or JSON Lines; several are one history.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Version of the release (default: the next minor).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Instead of the recipe's.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the scores, as .svg or .png.")] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Put readings into order of time.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Train a recipe on data and put the bundles into the registry."""
    from edgectl.core.errors import UsageError
    from edgectl.training.plot import check_path, draw
    from edgectl.training.recipe import find
    from edgectl.training.report import render

    workspace = settings(ctx).workspace
    files = [*(data or ()), *(more or ())]
    if not files:
        raise UsageError("no data given", hint=f"edgectl train {recipe} --data FILE")
    if plot is not None:
        check_path(plot)
    chosen = find(recipe, workspace.models)
    trained = _run(chosen, files, sort, seed)
    if plot is not None:
        draw(trained, plot)
    registry = wiring.registry(workspace)
    release = draft(trained)
    with workspace.lock("train"):
        before = {e.release.version for e in registry.entries(release.recipe)}
        entry = registry.add(release, version)
    added = entry.release.version not in before
    name = f"{entry.release.recipe} {entry.release.version}"
    found = {"recipe": entry.release.recipe, "version": entry.release.version, "added": added,
             "location": entry.location, "release": entry.release, "report": trained.report}  # fmt: skip
    emit_one(found, output, lambda wide: render(trained.report), name=lambda _: entry.release.recipe)
    if not added:
        note(f"already there as {name}: equal data, recipe and seed give equal bundles; nothing was added")
        return
    note(
        f"added {name} in {entry.location} (report.txt, scores.svg)\nnext:  edgectl models sign {entry.release.recipe}"
    )


def draft(trained: Trained) -> Draft:
    """What the registry keeps of a training run."""
    import tempfile
    from datetime import UTC, datetime

    import msgspec

    from edgectl.registry.interface import Draft
    from edgectl.training.plot import draw
    from edgectl.training.report import render

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "scores.svg"
        draw(trained, picture)
        svg = picture.read_bytes()
    return Draft(
        recipe=trained.recipe.name,
        bundles={b.variant: b.raw for b in trained.built},
        p99_us={b.variant: b.p99_us for b in trained.built},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        report=msgspec.json.encode(trained.report),
        files={"report.txt": render(trained.report).encode(), "scores.svg": svg},
    )


def _run(recipe: Recipe, files: list[Path], sort: bool, seed: int | None) -> Trained:
    """Read and train, with a bar on the terminal that names each stage."""
    from edgectl.training.pipeline import train as run
    from edgectl.training.tables import read

    with progress(f"read {len(files)} file{'' if len(files) == 1 else 's'}", 100) as bar:
        table = read(files, recipe, sort)
        stage, shown = "", 0.0

        def tell(name: str, done: int, total: int) -> None:
            nonlocal stage, shown
            if name != stage:
                bar.describe(name)
                bar.advance(-shown)
                stage, shown = name, 0.0
            percent = 100 * done / max(total, 1)
            bar.advance(percent - shown)
            shown = percent

        return run(recipe, table, seed=seed, files=tuple(map(str, files)), progress=tell)
