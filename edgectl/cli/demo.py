"""`edgectl demo`: the main job on this machine, from nothing to a rollback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgectl.demo.fleet import DemoFolder
    from edgectl.demo.shell import Shell

app = typer.Typer(add_completion=False, invoke_without_command=True)
FolderOption = Annotated[Path, typer.Option("--dir", help="The demo's folder.")]
_FOLDER = Path("edgectl-demo")


@app.callback()
def run(
    ctx: typer.Context,
    folder: FolderOption = _FOLDER,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the fleet running to look around.")] = False,
) -> None:
    """Run a small fleet on this machine: train, sign, deploy, detect, stop a broken model, roll back."""
    if ctx.invoked_subcommand is not None:
        return
    from edgectl.demo.story import Demo

    folder = folder.resolve()
    place, shell = _wired(folder)
    place.create()
    try:
        Demo(place, shell, shell.console).play()
    except BaseException:
        if not keep:
            place.stop(shell)
        raise
    if keep:
        shell.heading("It goes on: look around")
        shell.say(f"cd {folder}   then   edgectl status --watch · alerts tail · nodes list · audit · repo show")
        shell.say(f"edgectl demo stop --dir {folder}   ends it and deletes its folder")
    else:
        place.stop(shell)
        shell.say("the four agents are stopped; `edgectl demo --keep` leaves them running to look around")


@app.command()
def stop(folder: FolderOption = _FOLDER) -> None:
    """End a demo that was kept, and delete its folder."""
    place, shell = _wired(folder.resolve())
    place.stop(shell)


def _wired(folder: Path) -> tuple[DemoFolder, Shell]:
    from rich.console import Console

    from edgectl.demo.fleet import DemoFolder
    from edgectl.demo.shell import Shell

    return DemoFolder(folder), Shell(folder, Console())
