"""`edgectl store`: the care of the fleet's state: copies, migrations, retention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.output import (
    Format,
    FormatOption,
    YesOption,
    aligned,
    confirm,
    emit_one,
    note,
    progress,
    settings,
)

if TYPE_CHECKING:
    from edgectl.inventory.types import Inventory
    from edgectl.store.archive import Manifest
    from edgectl.store.backup import Restored
    from edgectl.store.engine import Database
    from edgectl.store.overview import Migration, Overview
    from edgectl.store.prune import Pruned
    from edgectl.workspace import Workspace

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command(short_help="What the store, or a backup, holds.")
def show(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A backup; it is read to its end and checked.")
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """What the store holds: schema, size, rows; or what a backup holds."""
    from edgectl.store import archive, overview

    if file is not None:
        found = archive.check(file)
        emit_one(found, output, lambda wide: _manifest_text(found), name="file")
        return
    workspace = settings(ctx).workspace
    with _connected(workspace, wiring.inventory(workspace)) as database:
        seen = overview.show(database)
    emit_one(seen, output, lambda wide: _overview_text(seen), name="store")


@app.command(short_help="Copy the store into a file, as of one moment.")
def backup(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where it goes; in a folder it gets a name of fleet and time.")
    ],
    output: FormatOption = Format.TABLE,
) -> None:
    """Copy the store into a file, as of one moment; others may go on writing."""
    from edgectl.store import overview
    from edgectl.store.backup import backup as make

    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    now_ns = _now_ns()
    path = file / overview.name(fleet.fleet, now_ns) if file.is_dir() else file
    with _connected(workspace, fleet) as database, _ticking("backing up") as tick:
        made = make(database, path, fleet.fleet, now_ns, tick)
    emit_one(made, output, lambda wide: _manifest_text(made), name="file")


@app.command(short_help="Fill the store from a backup, whole or not at all.")
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup of this fleet.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a store that is not empty; it is backed up.")] = False,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Fill the store from a backup; killed at any moment, the old or the new content is there."""
    from edgectl.store import overview
    from edgectl.store.backup import restore as put_back

    said = settings(ctx)
    workspace = said.workspace
    fleet = wiring.inventory(workspace)
    if force and not confirm(f"replace what the store holds by {file}?", yes=yes, settings=said):
        raise typer.Exit(2)
    with workspace.lock("store restore"):
        now_ns, database = _now_ns(), wiring.database(workspace, fleet)
        aside = workspace.private / "backups" / overview.name(fleet.fleet, now_ns, "before-restore")
        epoch = _signed_epoch(workspace, fleet)
        database.open(alone=True, migrate=True)
        try:
            with _ticking("restoring") as tick:
                done = put_back(database, file, fleet.fleet, aside, now_ns, force=force, signed_epoch=epoch, tick=tick)
        finally:
            database.close()
    emit_one(done, output, lambda wide: _restored_text(done, epoch), name=lambda d: d.backup.file)


@app.command()
def migrate(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which steps there are.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Bring the store to this edgectl's schema, after a backup. A file also migrates when it is used."""
    from edgectl.store import overview

    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    with _connected(workspace, fleet, alone=not dry_run) as database, _ticking("backing up") as tick:
        done = overview.migrate(
            database, workspace.private / "backups", fleet.fleet, _now_ns(), dry_run=dry_run, tick=tick
        )
    emit_one(done, output, lambda wide: _migration_text(done, dry_run), name="store")


@app.command()
def prune(
    ctx: typer.Context,
    older_than: Annotated[
        str, typer.Option(help="One age for everything, such as 90d; default: `retention` in fleet.yaml.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would go.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Delete what is past its retention. What is open, unacknowledged or in force always stays. For cron."""
    from edgectl.store.prune import prune as delete

    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    keep = fleet.retention.older_than(_age_ns(older_than)) if older_than else fleet.retention
    database = wiring.database(workspace, fleet)
    database.open()
    try:
        with _ticking("pruning") as tick:
            done = delete(database, keep, _now_ns(), dry_run=dry_run, tick=tick)
    finally:
        database.close()
    emit_one(done, output, lambda wide: _pruned_text(done, dry_run, database.kind), name=lambda d: "\n".join(d.rows))
    if done.note:
        note(done.note)


# ── what they have in common ────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _connected(workspace: Workspace, fleet: Inventory, alone: bool = False) -> Iterator[Database]:
    """The store as it is: looking at an older one, or copying it, does not migrate it."""
    database = wiring.database(workspace, fleet)
    database.connect(alone=alone)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _ticking(title: str) -> Iterator[Callable[[int, int], None]]:
    with progress(title, total=1.0) as bar:
        shown = 0.0

        def tick(done: int, total: int) -> None:
            nonlocal shown
            share = done / total if total else 1.0
            if share - shown >= 0.01 or done == total:
                bar.advance(share - shown)
                shown = share

        yield tick


def _now_ns() -> int:
    import time

    return time.time_ns()


def _age_ns(text: str) -> int:
    from edgectl_agent.core.units import duration_ns

    from edgectl.core.errors import ConfigError, UsageError

    try:
        return duration_ns(text)
    except ConfigError as e:
        raise UsageError(f"--older-than: {e.message}") from e


def _signed_epoch(workspace: Workspace, fleet: Inventory) -> int:
    """Newest epoch of the signed repository; 0 where it is not at hand or cannot be believed."""
    from edgectl.core.errors import TrustError

    repository = wiring.repository(workspace, fleet)
    try:
        current = repository.assignment() if repository.exists() else None
    except TrustError:
        return 0
    return current.epoch.number if current else 0


# ── for people ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _rows(rows: dict[str, int], *, all_: bool = True) -> str:
    shown = [[name, f"{count:,}"] for name, count in rows.items() if count or all_]
    return aligned([["TABLE", "ROWS"], *shown], [False, True])


def _when(ns: int) -> str:
    from edgectl_agent.core.units import iso

    return iso(ns) if ns else "never"


def _overview_text(seen: Overview) -> str:
    wanted = "" if seen.schema == seen.needs_schema else f", this edgectl needs {seen.needs_schema}: store migrate"
    head = f"{seen.store} · {seen.kind} · schema {seen.schema}{wanted} · {_size(seen.bytes)}"
    times = f"newest report {_when(seen.newest_report_ns)} · oldest alert stored {_when(seen.oldest_alert_ns)}"
    return "\n".join([head, times, _rows(seen.rows)])


def _manifest_text(made: Manifest) -> str:
    head = f"{made.file} · {made.fleet} · schema {made.schema} · of {_when(made.made_ns)} · {_size(made.bytes)}"
    return "\n".join([head, _rows(made.rows)])


def _migration_text(done: Migration, dry_run: bool) -> str:
    if not done.steps:
        return f"{done.store} has schema {done.found} already"
    verb = "would be migrated" if dry_run else "was migrated"
    lines = [f"{done.store} {verb} from schema {done.found} to {done.wanted}", *(f"  {step}" for step in done.steps)]
    return "\n".join([*lines, *([f"as it was: {done.backup}"] if done.backup else [])])


def _pruned_text(done: Pruned, dry_run: bool, kind: str) -> str:
    total = sum(done.rows.values())
    if not total:
        return "nothing is past its retention"
    head = f"{total:,} rows {'would go' if dry_run else 'deleted'}"
    if dry_run:
        return "\n".join([head, _rows(done.rows, all_=False)])
    given = f"{_size(done.bytes_before)} → {_size(done.bytes_after)}"
    later = " (PostgreSQL uses the room of deleted rows again)" if kind == "postgresql" else ""
    return "\n".join([f"{head} · {given}{later}", _rows(done.rows, all_=False)])


def _restored_text(done: Restored, epoch: int) -> str:
    made = _when(done.backup.made_ns)
    lines = [f"restored the store as of {made}: {sum(done.backup.rows.values()):,} rows from {done.backup.file}"]
    lines += [f"  migrated {step}" for step in done.migrated]
    if done.aside:
        lines.append(f"what it held before: {done.aside}")
    if epoch > done.epoch:
        lines.append(
            f"the repository is at epoch {epoch}, the backup ends at {done.epoch}: later rollouts are not in it"
        )
    if done.superseded:
        lines.append(f"open in the backup, ended as superseded: {', '.join(done.superseded)}")
    if done.open_rollouts:
        lines.append(f"open: {', '.join(done.open_rollouts)} (edgectl audit says how to go on)")
    if done.dropped_orders:
        lines.append(f"{done.dropped_orders} orders that waited for nodes are dropped: give them again if still meant")
    if done.tokens:
        lines.append(f"{done.tokens} tokens and invites are as they were then: revoke again what was revoked since")
    lines += [
        "alerts that nodes released after the backup was made are only in the store of that time",
        "now run: edgectl collect   (what nodes still hold comes again and merges by its id)",
        "         edgectl audit     (desired against actual: what happened since)",
    ]
    return "\n".join(lines)
