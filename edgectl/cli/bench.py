"""``edgectl bench``: what this machine can do with a trained model."""

from __future__ import annotations

from typing import Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.interrupts import interrupts
from edgectl.cli.output import Format, FormatOption, emit_one, progress, settings


def bench(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A trained model; the newest by default.")],
    variant: Annotated[str | None, typer.Option(help="fp32, fp16 or int8 (default: the release's first).")] = None,
    streams: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many streams send.")] = 1000,
    seconds: Annotated[float, typer.Option("--for", min=0, max=3600, help="Seconds to measure for.")] = 5.0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Measure this machine with a model: readings per second, a lone reading's time, share of the limit."""
    with interrupts() as check:
        from edgectl.core.releases import parse_model
        from edgectl.measuring.bench import measure, render
        from edgectl.registry.interface import bundle_of

        name, version = parse_model(model)
        registry = wiring.registry(settings(ctx).workspace)
        raw = bundle_of(registry, registry.entry(name, version or None), variant)
        with progress(f"bench {model}", 100) as bar:
            shown = 0.0

            def tick(share: float) -> None:
                nonlocal shown
                check()
                bar.advance(100 * share - shown)
                shown = 100 * share

            speed = measure(raw, streams, seconds, tick)
    emit_one(speed, output, lambda _: render(speed), name="recipe")
