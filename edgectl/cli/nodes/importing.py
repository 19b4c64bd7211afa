"""Nodes from elsewhere: import an Ansible inventory or a table into fleet.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgectl_agent.core.wording import counted

from edgectl.cli import wiring
from edgectl.cli.nodes.app import Profile, Site, app
from edgectl.cli.output import Column, Format, FormatOption, emit, note, settings
from edgectl.core.errors import UsageError
from edgectl.workspace import Workspace


@app.command("import", short_help="Bring an Ansible inventory or a table into fleet.yaml.")
def import_(
    ctx: typer.Context,
    ansible: Annotated[Path | None, typer.Option(help="An Ansible inventory, INI or YAML.")] = None,
    csv: Annotated[Path | None, typer.Option(help="A table: a line per node, the first one names the columns.")] = None,
    enrolled: Annotated[bool, typer.Option("--enrolled", help="The nodes that joined by an invite.")] = False,
    limit: Annotated[str, typer.Option(help="Only this group of the Ansible inventory.")] = "",
    site: Site = "",
    site_from: Annotated[str, typer.Option(help="Ansible variable that holds a host's site.")] = "",
    profile: Profile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Write nodes of an Ansible inventory or a table into fleet.yaml; again, it brings changes only."""
    from edgectl.fleet import importing
    from edgectl.inventory.importing import counted

    if site and site_from:
        raise UsageError("expected --site or --site-from, found both")
    workspace = settings(ctx).workspace
    if enrolled:
        return _enrolled(workspace, dry_run, output)
    found, remarks = importing.found(ansible, csv, limit, site_from)
    with workspace.lock("nodes import"):
        changes = importing.decide(found, workspace, site, profile or [], machines=ansible is not None)
        shown = [change for change in changes if output is not Format.TABLE or change.state != "unchanged"]
        emit(shown, (Column("NODE", "name"), Column("CHANGE", "state"), Column("DETAIL", "detail")), output)
        written = not dry_run and importing.write(changes, workspace)
    for remark in remarks:
        note(remark)
    return note(f"{counted(changes)}; " + ("fleet.yaml has them" if written else "fleet.yaml is as it was"))


def _enrolled(workspace: Workspace, dry_run: bool, output: Format) -> None:
    from edgectl.enrolment.enrolling import unnamed
    from edgectl.inventory import editing

    fleet = wiring.inventory(workspace)
    with workspace.lock("nodes import"), wiring.store(workspace, fleet) as store:
        text = workspace.fleet_file.read_text(encoding="utf-8")
        found = unnamed(text, workspace.root, store.enrolments.all())
        for enrolment in found:
            text = editing.add(text, enrolment.entry, workspace.root)
        if found and not dry_run:
            editing.save(workspace.fleet_file, text)
    emit(found, (Column("NODE", "node"), Column("SITE", "site")), output, name="node")
    joined = f"{counted(len(found), 'node')} that joined by an invite"
    note(f"would add {joined} to fleet.yaml" if dry_run else f"added {joined} to fleet.yaml")
