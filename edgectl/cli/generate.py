"""`edgectl generate`: data with known faults, to try a recipe on before there is any of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgectl_agent.core.wording import counted

from edgectl.cli.output import note, progress

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Write data of systems that never were, with labelled faults."""


@app.command(short_help="A web service's log, a stream per host.")
def logs(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The log; it must not exist.")],
    hours: Annotated[int, typer.Option(min=1, max=24 * 60, help="How long the log is.")] = 24,
    after: Annotated[int, typer.Option(min=0, max=24 * 3660, help="Hours of the service's life before it.")] = 0,
    hosts: Annotated[int, typer.Option(min=1, max=100, help="Hosts, each a stream.")] = 3,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put faults in, and write down which and when (CSV).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another one is another service.")] = 1,
) -> None:
    """A web service's log: daily rhythm, stack traces, and with --labels faults of four kinds."""
    from edgectl.generate.writing import write_logs

    with progress(f"generate {out}", hours) as bar:
        faults, count = write_logs(
            out, labels, seed=seed, hosts=hosts, after=after, hours=hours, tick=lambda: bar.advance(1)
        )
    if labels is not None:
        note(f"{counted(faults, 'fault')} in {labels}")
    note(f"{counted(count, 'line')} in {out}")


@app.command(short_help="Card payments, a stream per card.")
def transactions(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="JSON Lines; it must not exist.")],
    days: Annotated[int, typer.Option(min=1, max=3660, help="How long the records are.")] = 60,
    after: Annotated[int, typer.Option(min=0, max=3660, help="Days of the cards' lives before them.")] = 0,
    cards: Annotated[int, typer.Option(min=10, max=100_000, help="Cards, each a stream.")] = 100,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put frauds in, and write down which and when (CSV).")
    ] = None,
    by: Annotated[str, typer.Option(metavar="card|merchant", help="Whose frauds the labels are.")] = "card",
    quiet_days: Annotated[int, typer.Option(min=0, help="Days at the beginning without frauds, to warm up.")] = 14,
    each: Annotated[int, typer.Option(min=1, max=10_000, help="Frauds of each kind.")] = 15,
    seed: Annotated[int, typer.Option(min=0, help="Another one is another bank.")] = 1,
) -> None:
    """Card payments: habits, journeys, and with --labels frauds of five kinds."""
    from edgectl.generate.writing import write_transactions

    with progress(f"generate {out}", days) as bar:
        frauds, count = write_transactions(
            out, labels, seed=seed, cards=cards, after=after, days=days, quiet_days=quiet_days, each=each, by=by,
            tick=lambda: bar.advance(1),
        )  # fmt: skip
    if labels is not None:
        note(f"{counted(frauds, 'fraud')} in {labels}")
    note(f"{counted(count, 'record')} in {out}")


@app.command(short_help="Sensors of machines in a plant, a reading a minute.")
def plant(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="JSON Lines; it must not exist.")],
    hours: Annotated[int, typer.Option(min=1, max=24 * 60, help="How long the records are.")] = 96,
    after: Annotated[int, typer.Option(min=0, max=24 * 3660, help="Hours of the plant's life before them.")] = 0,
    machines: Annotated[int, typer.Option(min=1, max=1000, help="Machines, each a stream.")] = 6,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put faults in, and write down which and when (CSV).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another one is another plant.")] = 1,
) -> None:
    """Four sensors of each machine, a reading a minute: daily rhythm, and with --labels faults of four kinds."""
    from edgectl.generate.writing import write_plant

    with progress(f"generate {out}", hours) as bar:
        faults, count = write_plant(
            out, labels, seed=seed, machines=machines, after=after, hours=hours, tick=lambda: bar.advance(1)
        )
    if labels is not None:
        note(f"{counted(faults, 'fault')} in {labels}")
    note(f"{counted(count, 'record')} in {out}")
