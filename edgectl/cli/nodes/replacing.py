"""New hardware under an old name: replace."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.nodes.app import Name, app
from edgectl.cli.output import Format, FormatOption, YesOption, confirm, emit_one, note, settings
from edgectl.workspace import operator


@app.command(short_help="Give the name of dead hardware to a new machine.")
def replace(
    ctx: typer.Context,
    name: Name,
    host: Annotated[str, typer.Option(help="Where the new machine is, if not where the old one was.")] = "",
    keep_host_key: Annotated[
        bool, typer.Option("--keep-host-key", help="The new machine shows the old one's SSH host key.")
    ] = False,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Give dead hardware's name to a new machine: history and labels stay, the old machine is not accepted again."""
    from edgectl.fleet import replacing

    said = settings(ctx)
    workspace = said.workspace
    fleet = wiring.inventory(workspace)
    node = fleet.node(name)
    question = f"Give the name {name} to a new machine? The old one will not be accepted again."
    if not confirm(question, yes=yes, settings=said):
        return note("nothing was changed")
    with workspace.lock(f"nodes replace {name}"), wiring.store(workspace, fleet) as store:
        done = replacing.replace(node, workspace, store, operator(), time.time_ns(), host=host, keep_key=keep_host_key)
    keys = "".join(f"\nhost key {key} is revoked" for key in done.revoked_keys)
    emit_one(done, output, lambda wide: "\n".join(done.next))
    return note(f"{name} at {done.host} waits for its new machine{keys}")
