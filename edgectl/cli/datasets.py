"""`edgectl datasets`: public labelled corpora to evaluate on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgectl_agent.core.wording import counted

from edgectl.cli.output import Column, Format, FormatOption, emit, emit_done, note, progress

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def datasets() -> None:
    """List and fetch public labelled corpora."""


@app.command("list")
def list_(output: FormatOption = Format.TABLE) -> None:
    """Which corpora there are, and where they come from."""
    from edgectl.evaluation.datasets.catalogue import datasets as known

    rows = [
        {"name": one.name, "files": len(one.files), "licence": one.licence, "title": one.title, "url": one.url}
        for one in known()
    ]
    columns = (
        Column("NAME", "name"),
        Column("FILES", "files", right=True),
        Column("LICENCE", "licence"),
        Column("WHAT", "title"),
        Column("FROM", "url", wide=True),
    )
    emit(rows, columns, output)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `edgectl datasets list` has it.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder for the files.")],
    mirror: Annotated[str, typer.Option("--from", metavar="URL", help="A mirror of its files.")] = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """Fetch a corpus and check every file. The same command again goes on where it stopped."""
    from edgectl.evaluation.datasets.catalogue import named
    from edgectl.evaluation.datasets.fetching import fetch as run

    dataset = named(name)
    with progress(f"fetch {name}", len(dataset.files)) as bar:

        def tick(path: str) -> None:
            bar.describe(path)
            bar.advance()

        found = run(dataset, to, mirror, tick)
    value = {"name": name, "folder": str(to), "files": found.files, "new": found.new, "bytes": found.bytes}
    fresh = f"{found.new} new" if found.new else "all there already"
    emit_done(value, output, f"{counted(found.files, 'file')} of {name} in {to}, each as it must be ({fresh})")
    note(f"next:  edgectl evaluate RECIPE {to}")
