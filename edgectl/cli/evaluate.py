"""``edgectl evaluate``: how good a recipe or a trained model is on labelled or unlabelled history."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import scores, wiring
from edgectl.cli.interrupts import interrupts
from edgectl.cli.output import Format, FormatOption, note, progress, settings

if TYPE_CHECKING:
    from edgectl.evaluation.replaying import Subject
    from edgectl.evaluation.running import Evaluated, Options
    from edgectl.evaluation.series import Corpus


class Half(StrEnum):
    """Of NAB's files."""

    A = "A"
    B = "B"
    ALL = "all"


class Model(StrEnum):
    """Variants of a recipe's model."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def evaluate(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A recipe, NAME@VERSION of the registry, or a .bundle.")
    ],
    data: Annotated[list[Path], typer.Argument(metavar="DATA", help="NAB's or SMD's folder, or data files.")],
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="CSV with stream,start,end of anomalies.")] = None,
    label_column: Annotated[str, typer.Option(help="A column of the data, above 0 where it is anomalous.")] = "",
    history: Annotated[
        float, typer.Option(min=0, max=95, help="First percent of own data: trained on, not scored.")
    ] = 15,
    train: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="That part in files of its own.")] = None,
    half: Annotated[Half, typer.Option(help="Of NAB: choose on A, report on B.")] = Half.ALL,
    only: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Series by name; repeatable.")] = None,
    budget: Annotated[str, typer.Option(help="Also ask for these false alerts per stream and day: 0.1,1,5.")] = "",
    variant: Annotated[Model, typer.Option(help="Of the recipe's models.")] = Model.FP32,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page with every series.")] = None,
    ranges: Annotated[bool, typer.Option("--ranges/--no-ranges", help="VUS-PR and the like: most of the time.")] = True,
    jobs: Annotated[int | None, typer.Option(min=1, max=256, help="Processes (default: one a core).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Of all that is random.")] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Put readings into order of time.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Replay history through the node's own detector: false alerts, recall, delay, beside methods that know nothing."""
    with interrupts() as check:
        from edgectl.core.errors import UsageError
        from edgectl.evaluation.corpora.opening import Choice, read
        from edgectl.evaluation.pages import write
        from edgectl.evaluation.running import Options
        from edgectl.evaluation.subjects import recipe_of

        if html is not None and html.is_dir():
            raise UsageError(f"--html: expected a file, found the folder {html}")
        options = Options(budgets=_budgets(budget), seed=seed or 0, jobs=jobs or _cores(), by_ranges=ranges)
        subject = wiring.subject(settings(ctx), model, variant.value, seed)
        choice = Choice(
            half=half.value, only=tuple(only or ()), share=history / 100, train=tuple(train or ()), labels=labels,
            label_column=label_column, sort=sort,
        )  # fmt: skip
        models = wiring.models(settings(ctx))
        own = data[0].is_file() and data[0].suffix != ".npz"  # whose columns a recipe names
        corpus = read(data, recipe_of(subject, models) if own else None, choice)
        found = _run(corpus, subject, options, check)
        if html is not None:
            write(found, html)
    scores.show(found.result, output)
    if html is not None:
        note(f"every series: {html}")


def _run(corpus: Corpus, subject: Subject, options: Options, check: Callable[[], None]) -> Evaluated:
    from edgectl.evaluation.running import evaluate as run

    with progress(f"evaluate on {corpus.name}", len(corpus.series)) as bar:

        def tick(name: str) -> None:
            check()
            bar.describe(name)
            bar.advance()

        return run(corpus, subject, options, tick)


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _budgets(text: str) -> tuple[float, ...]:
    from edgectl.core.errors import UsageError

    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (0.0,)
    if not all(0 < one <= 1000 for one in found):
        raise UsageError(f"--budget: expected false alerts per stream and day such as 0.1,1,5, found {text!r}")
    return found
