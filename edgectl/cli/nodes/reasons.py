"""Why a node is not healthy: why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.nodes.app import Name, app
from edgectl.cli.output import Format, FormatOption, aligned, emit_one, printable, settings

if TYPE_CHECKING:
    from edgectl.core.why import Diagnosis


@app.command(short_help="Say why a node is not healthy, and what to type next.")
def why(
    ctx: typer.Context,
    name: Name,
    ask: Annotated[bool, typer.Option("--ask", help="Go the way to the node now, stage by stage.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Say why a node is not healthy and what to type next: from the store, or with --ask from the node itself.

    With --ask the exit code is that of the stage that fails: 31 unreachable, 40 untrusted, 41 expired.
    """
    from edgectl.fleet import diagnosis

    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    node = fleet.node(name)
    with wiring.store(workspace, fleet) as store:
        steps = diagnosis.ask(node, wiring.context(workspace, fleet, store), store, time.time_ns()) if ask else ()
        found = diagnosis.why(node, fleet, store, time.time_ns(), steps)
    emit_one(found, output, lambda wide: _text(found), name="next")
    raise typer.Exit(max((step.exit_code for step in steps), default=0))


def _text(found: Diagnosis) -> str:
    lines = [f"{found.node} is {found.state}"]
    if found.steps:
        lines.append(
            aligned([["", step.stage, step.state, printable(step.detail)] for step in found.steps], [False] * 4)
        )
    for i, reason in enumerate(found.reasons, start=1):
        lines.append(printable(f"{i}. {reason.text}{f' → {reason.fix}' if reason.fix else ''}"))
    if not found.reasons:
        lines.append("nothing is wrong with it that is known here")
    return "\n".join(lines)
