"""`edgectl repo`: the signed repository that nodes trust."""

from __future__ import annotations

from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from edgectl_agent.core.wording import counted

from edgectl.cli import publishing, rolling, wiring
from edgectl.cli.completing import among
from edgectl.cli.output import Column, Format, FormatOption, emit, emit_one, note, settings

if TYPE_CHECKING:
    from edgectl.publishing.publish import Changes

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command(short_help="The signed roles: version, end, and whether all holds.")
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


@app.command(short_help="Sign anew what soon ends.")
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


@app.command(short_help="Write a node's slice, to be carried to it.")
def export(
    ctx: typer.Context,
    to: Annotated[
        Path, typer.Option("--to", help="A folder, such as a mounted stick; each slice is in NODE/ below it.")
    ],
    node: Annotated[list[str] | None, typer.Option(help="A node; repeatable.", autocompletion=among("names"))] = None,
    select: rolling.SelectOption = "",
    grant: Annotated[
        str, typer.Option(help="How long the slice may wait until it is taken in, as 30d (default: 7d at most).")
    ] = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """Write a node's slice of the repository, to be carried to where no network is; `edgectl-agent import` takes it."""
    from edgectl.cli import byhand
    from edgectl.core.errors import UsageError

    if not node and not select:
        raise UsageError("expected --node or --select", hint="edgectl repo export --help")
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    with workspace.lock("repo export"), wiring.store(workspace, fleet) as store:
        among = {fleet.node(name).name for name in node} if node else set(fleet.names)
        names = rolling.choose(fleet, store, among, "fleet.yaml names no node", select=select)
        done = byhand.export(workspace, fleet, store, sorted(names), to, grant)
    columns = (
        Column("NODE", "node"),
        Column("FOLDER", "folder"),
        Column("FILES", "files", right=True),
        Column("BYTES", "bytes", right=True),
        Column("TAKE IN BEFORE", "until"),
    )
    emit(done, columns, output, name="folder")


@app.command(short_help="Put the repository where a web server serves it.")
def publish(
    ctx: typer.Context,
    to: Annotated[
        str,
        typer.Argument(metavar="DIR|URL", help="A folder, or a URL that takes PUT (default: repository.publish)."),
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
    lines = [
        f"{head} · {verb} {counted(len(done.write), 'file')} ({done.bytes:,} bytes), {done.held} were there{removed}"
    ]
    if wide:
        lines += [f"  + {name}" for name in done.write] + [f"  - {name}" for name in done.delete]
    return "\n".join(lines)
