"""``edgectl train``: a recipe and a history become a release in the registry, ready to be signed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.interrupts import interrupts
from edgectl.cli.output import Format, FormatOption, emit_one, note, progress, settings

if TYPE_CHECKING:
    from edgectl.training.online import Made
    from edgectl.training.pipeline import Trained
    from edgectl.training.recipe import Recipe


def train(
    ctx: typer.Context,
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name (in models/ or packaged), or its path.")
    ],
    more: Annotated[list[str] | None, typer.Argument(metavar="FILE", help="Further data files.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help="CSV, Parquet or JSON Lines, or prom+http://HOST?query=…; several are one history."
        ),
    ] = None,
    version: Annotated[str | None, typer.Option(help="Version of the release (default: the next minor).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Instead of the recipe's.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the scores, as .svg or .png.")] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Choose estimator, features and smoothing by synthetic faults; show how.")
    ] = False,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV with start,end,stream of anomalies, to choose by.")
    ] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Put readings into order of time.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Train a recipe on data and put the bundles into the registry."""
    with interrupts() as check:
        from edgectl.core.errors import UsageError
        from edgectl.registry.interface import checked_version
        from edgectl.training.draft import draft, page
        from edgectl.training.plot import check_path, draw
        from edgectl.training.recipe import find

        workspace = settings(ctx).workspace
        files = [*(data or ()), *(more or ())]
        found_recipe = find(recipe, workspace.models)
        if not files and (found_recipe.estimator != "online" or auto or plot is not None):
            raise UsageError("no data given", hint=f"edgectl train {recipe} --data FILE")
        if plot is not None:
            check_path(plot)
        if version is not None:
            checked_version(version)
        if labels is not None and not (auto or found_recipe.auto):
            raise UsageError("--labels are to choose by", hint="add --auto, or see edgectl evaluate --labels")
        found_recipe = replace(found_recipe, auto=True) if auto else found_recipe
        trained = _run(found_recipe, files, sort, seed, check, labels)
        if plot is not None:
            draw(trained, plot)
        release = draft(trained, wiring.now())
        registry = wiring.registry(workspace)
        with workspace.lock("train"):
            check()
            before = {e.release.version for e in registry.entries(release.recipe)}
            entry = registry.add(release, version)
    name, added = entry.release.recipe, entry.release.version not in before
    found = {"recipe": name, "version": entry.release.version, "added": added, "location": entry.location,
             "release": entry.release, "report": trained.report}  # fmt: skip
    emit_one(found, output, lambda _: page(trained).rstrip(), name=lambda _: name)
    if added:
        note(f"added {name} {entry.release.version} in {entry.location} ({', '.join(release.files)})")
        note(f"next:  edgectl models sign {name}")
    else:
        said = "equal data, recipe and seed give equal bundles; nothing was added"
        note(f"already there as {name} {entry.release.version}: {said}")


def _run(
    recipe: Recipe, files: list[str], sort: bool, seed: int | None, check: Callable[[], None], labels: Path | None
) -> Trained | Made:
    """Read and train, with a bar on the terminal that names each stage."""
    import time

    from edgectl.periods import read_periods
    from edgectl.training import online
    from edgectl.training.pipeline import train as run
    from edgectl.training.prometheus import fetch, is_url, parse
    from edgectl.training.tables import read

    if not files:
        return online.make(recipe, seed=seed)
    with progress(f"read {len(files)} file{'' if len(files) == 1 else 's'}", 100) as bar:
        fetched = [fetch(parse(url, time.time_ns()), recipe) for url in files if is_url(url)]
        table = read([Path(file) for file in files if not is_url(file)], recipe, sort, fetched)
        stage, shown = "", 0.0

        def tell(name: str, done: int, total: int) -> None:
            nonlocal stage, shown
            check()
            if name != stage:
                bar.describe(name)
                bar.advance(-shown)
                stage, shown = name, 0.0
            percent = 100 * done / max(total, 1)
            bar.advance(percent - shown)
            shown = percent

        names = tuple(map(str, files))
        if recipe.estimator == "online" and not recipe.auto:
            return online.make(recipe, table, seed=seed, files=names, progress=tell)
        known = read_periods(labels, "--labels") if labels else ()
        return run(recipe, table, seed=seed, files=names, labels=known, progress=tell)
