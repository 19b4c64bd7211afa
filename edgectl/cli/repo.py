"""`edgectl repo`: the signed repository that nodes trust."""

from __future__ import annotations

import typer

from edgectl.cli import wiring
from edgectl.cli.output import Column, Format, FormatOption, emit, note, settings

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command()
def show(ctx: typer.Context, output: FormatOption = Format.TABLE) -> None:
    """The signed roles: version, end of validity, and whether their keys are here."""
    from edgectl.trust.overview import roles

    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    rows = roles(workspace.resolve(fleet.repository_dir), wiring.keys(workspace), wiring.now())
    columns = (
        Column("ROLE", "role"),
        Column("VERSION", "version", right=True),
        Column("EXPIRES", "expires"),
        Column("LEFT", lambda row: row.left, right=True, style=lambda row: row.style),
        Column("KEY", "key"),
        Column("SIGNS", "signs", wide=True),
    )
    emit(rows, columns, output, name="role")


@app.command()
def refresh(ctx: typer.Context, passphrase_file: wiring.PassphraseOption = None) -> None:
    """Sign anew what has less than a quarter of its life left; silent when nothing has. For cron."""
    from edgectl.trust.overview import lockable, refused

    said = settings(ctx)
    workspace = said.workspace
    keys = wiring.keys(workspace)
    repository = wiring.repository(workspace, wiring.inventory(workspace), keys)
    due = repository.due(wiring.now())
    if not due:
        return
    with workspace.lock("repo refresh"):
        secret = wiring.passphrase(passphrase_file, said, any(lockable(keys, role) for role in due))
        done = repository.refresh(wiring.now(), secret)
        left = repository.due(wiring.now())
    if done:
        note(f"signed anew: {', '.join(done)}")
    if left:
        raise refused(left, repository.expiries())
