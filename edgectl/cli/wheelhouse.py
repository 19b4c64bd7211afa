"""`edgectl wheelhouse`: the agent and its dependencies as files, for nodes without a package index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli.output import Column, Format, FormatOption, emit, note, progress, settings

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command(short_help="Collect the agent's wheels for one kind of machine.")
def build(
    ctx: typer.Context,
    platform: Annotated[str, typer.Option(help="The nodes' architecture: x86_64 or aarch64.")],
    python: Annotated[str, typer.Option(help="The nodes' Python.")] = "3.11",
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Where to put it (default: .edgectl/wheelhouses/VERSION-PLATFORM-pyX).")
    ] = None,
    wheel: Annotated[Path | None, typer.Option(help="An agent's wheel (default: that of this edgectl).")] = None,
    extra: Annotated[
        list[str] | None, typer.Option(help="With what a type of source needs: kafka. Repeatable.", metavar="NAME")
    ] = None,
) -> None:
    """Download what the agent needs on nodes of another architecture; twice does nothing."""
    from edgectl.core.wheels import parse_platform, parse_python
    from edgectl.machine import packages, wheelhouse

    wanted, version = parse_platform(platform), ".".join(map(str, parse_python(python)))
    workspace = settings(ctx).workspace
    agent = wheel or packages.agent_wheel(workspace.wheels)
    folder = folder or wheelhouse.default_folder(workspace.wheelhouses, agent, wanted, version)
    with workspace.lock("wheelhouse build"), progress("Choosing wheels") as bar:
        found, new = wheelhouse.build(
            folder, agent, packages.constraints(), wanted, version, lambda name: bar.describe(f"Downloading {name}"),
            packages.parse_extras(extra or []),
        )  # fmt: skip
    made = found.manifest
    size = f"{len(made.files)} wheels, {made.bytes / 1e6:.0f} MB, for glibc {made.glibc} or newer"
    note(f"{folder}: {size}" if new else f"{folder} is complete already: {size}")


@app.command("list")
def list_(ctx: typer.Context, output: FormatOption = Format.TABLE) -> None:
    """What was built in this workspace."""
    from edgectl.machine import wheelhouse

    rows = [
        {"name": found.manifest.name, "agent": found.manifest.agent, "platform": found.manifest.platform,
         "python": found.manifest.python, "glibc": found.manifest.glibc, "wheels": len(found.manifest.files),
         "bytes": found.manifest.bytes, "damaged": wheelhouse.damaged(found), "folder": str(found.folder)}
        for found in wheelhouse.every(settings(ctx).workspace.wheelhouses)
    ]  # fmt: skip
    columns = (
        Column("AGENT", "agent"),
        Column("PLATFORM", "platform"),
        Column("PYTHON", "python"),
        Column("GLIBC", lambda row: f"≥ {row['glibc']}"),
        Column("WHEELS", "wheels", right=True),
        Column("SIZE", lambda row: f"{row['bytes'] / 1e6:,.0f} MB", right=True),
        Column("STATE", lambda row: f"{len(row['damaged'])} damaged" if row["damaged"] else "complete"),
        Column("FOLDER", "folder", wide=True),
    )
    emit(rows, columns, output, empty="no wheelhouse was built yet: edgectl wheelhouse build --platform aarch64")
