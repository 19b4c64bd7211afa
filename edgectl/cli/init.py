"""`edgectl init`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.output import note, settings
from edgectl.workspace import find

NEXT = """\
keep a copy of {keys}: without these keys the fleet cannot be updated
next, to watch this machine:
  edgectl nodes add here --via local --source host=host-metrics:1s --model host=host
  edgectl-agent record --every 1s --count 600 --out host.jsonl
  edgectl train host --data host.jsonl
  edgectl models sign host
  edgectl deploy host
  edgectl collect --follow"""


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
    note(NEXT.format(keys=workspace.keys))
