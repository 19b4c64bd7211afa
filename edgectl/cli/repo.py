"""`edgectl repo`: the signed repository that nodes trust."""

from __future__ import annotations

from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import publishing, wiring
from edgectl.cli.output import Column, Format, FormatOption, emit, emit_one, note, settings

if TYPE_CHECKING:
    from edgectl.publishing.publish import Changes

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
    fleet = wiring.inventory(workspace)
    repository = wiring.repository(workspace, fleet, keys)
    due = repository.due(wiring.now())
    if not due:
        return
    with workspace.lock("repo refresh"):
        secret = wiring.passphrase(passphrase_file, said, any(lockable(keys, role) for role in due))
        done = repository.refresh(wiring.now(), secret)
        left = repository.due(wiring.now())
        if done:
            publishing.after_signing(workspace, fleet)(fleet.names)
    if done:
        note(f"signed anew: {', '.join(done)}")
    if left:
        raise refused(left, repository.expiries())


@app.command()
def publish(
    ctx: typer.Context,
    to: Annotated[
        str,
        typer.Argument(metavar="[DIR|URL]", help="A folder, or a URL that takes PUT (default: repository.publish)."),
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the URL's token or password (default: {publishing.TOKEN}).")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove what neither these nor the previous metadata need.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read back everything, not only what was written.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Put the signed repository where a web server serves it; clients see the old state or the new one."""
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    lock = nullcontext() if dry_run else workspace.lock("repo publish")
    with lock, closing(publishing.open_place(workspace, fleet, to, token_file)) as place:
        done = publishing.publish(workspace, fleet, place, prune=prune, verify=verify, dry_run=dry_run)
    emit_one(done, output, lambda wide: _published(done, wide, dry_run), name=lambda c: "\n".join(c.write))


def _published(done: Changes, wide: bool, dry_run: bool) -> str:
    verb = "would write" if dry_run else "wrote"
    removed = f", {'would remove' if dry_run else 'removed'} {len(done.delete)}" if done.delete else ""
    head = f"{done.where}: version {done.before or 'none'} → {done.version}"
    if not done.write and not done.delete:
        head, removed = f"{done.where}: version {done.version} is there already", ""
    lines = [f"{head} · {verb} {len(done.write)} files ({done.bytes:,} bytes), {done.held} were there{removed}"]
    if wide:
        lines += [f"  + {name}" for name in done.write] + [f"  - {name}" for name in done.delete]
    return "\n".join(lines)
