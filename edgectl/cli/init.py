"""`edgectl init`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.output import note, settings
from edgectl.workspace import find


def init(
    ctx: typer.Context,
    fleet: Annotated[str, typer.Option(help="Name of the fleet (default: the folder's).")] = "",
    passphrase_file: wiring.PassphraseOption = None,
) -> None:
    """Make a workspace here: fleet.yaml, signing keys, signed repository, state store.

    Run again, it completes what is missing and changes nothing else.
    """
    from edgectl.initialise import initialise

    said = settings(ctx)
    workspace = find(said.folder)
    with workspace.lock("init"):
        made = initialise(workspace, fleet, lambda: wiring.new_passphrase(passphrase_file, said), wiring.now())
    if not made:
        note(f"{workspace.root} is complete: nothing was changed")
        return
    note("\n".join(f"made {what}" for what in made))
    note(
        "next:  edgectl nodes add here --via local --source host=host-metrics:1s --model host=host\n"
        "       edgectl train host --data FILE,  edgectl models sign host,  edgectl deploy host\n"
        f"keep a copy of {workspace.keys}: without these keys the fleet cannot be updated"
    )
