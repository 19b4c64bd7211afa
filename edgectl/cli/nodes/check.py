"""Whether machines can run the agent, before anything is installed: check."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.completing import among
from edgectl.cli.nodes.app import app
from edgectl.cli.output import Column, Format, FormatOption, emit, note, progress, settings
from edgectl.core.errors import UsageError

_STYLE = {"ok": "green", "warn": "yellow", "refuse": "red", "unreachable": "red"}


@app.command(short_help="Look whether machines can run the agent; writes nothing.")
def check(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Nodes (default: all).", autocompletion=among("names"))
    ] = None,
    select: Annotated[str, typer.Option(help="Which: site=lyon,tier=far-edge,!line=press,name=~gw-.*")] = "",
    everyone: Annotated[bool, typer.Option("--all", help="All nodes, as without a name.")] = False,
    forks: Annotated[int, typer.Option(min=1, help="Machines at a time.")] = 16,
    output: FormatOption = Format.TABLE,
) -> None:
    """Look whether machines can run the agent; nothing is written there."""
    from edgectl.core.selector import select as selected
    from edgectl.delivery.parallel import each
    from edgectl.machine import packages, wheelhouse
    from edgectl.provisioning import checking

    if everyone and (names or select):
        raise UsageError("--all means every node: expected no names and no --select beside it")
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    nodes = {name: fleet.node(name) for name in names or fleet.names}
    remote = {name: node for name, node in nodes.items() if node.via != "local" and not node.by_hand}
    if len(remote) < len(nodes):
        note(f"not checked: {len(nodes) - len(remote)} that are processes here, or that nobody logs in to")
    meant = selected({name: node.fields for name, node in remote.items()}, select) if remote else ()
    made = tuple(found.manifest for found in wheelhouse.every(workspace.wheelhouses))
    ort = checking.pinned(packages.constraints(), "onnxruntime")
    with progress("Checking machines", len(meant)) as bar:
        found = each(
            meant,
            lambda name: checking.machine(nodes[name], lambda node: wiring.machine(workspace, fleet, node), made, ort),
            forks=forks,
            stop=threading.Event(),
            done=lambda name, result: bar.advance(),
        )
    results = [found[name] for name in meant]
    if output in (Format.TABLE, Format.WIDE):
        few = len(results) < 4  # of many only what needs somebody
        rows = [{"node": r.name, "check": c} for r in results for c in r.checks if few or c.verdict != "ok"]
        emit(rows, _COLUMNS, output, empty=f"all {len(results)} machines can run the agent" if results else "")
    else:
        emit(results, (), output)
    raise typer.Exit(max((r.exit_code for r in results), default=0))  # 40 before 31 before 30


_COLUMNS = (
    Column("NODE", "node"),
    Column("CHECK", lambda row: row["check"].name),
    Column("VERDICT", lambda row: row["check"].verdict, style=lambda row: _STYLE[row["check"].verdict]),
    Column("FOUND", lambda row: row["check"].found),
    Column("EXPECTED", lambda row: row["check"].expected, wide=True),
    Column("FIX", lambda row: row["check"].fix),
)
