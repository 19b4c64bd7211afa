"""Nodes that join by themselves: invite them, see the invites, end one."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from edgectl_agent.core.wording import counted

from edgectl.cli import wiring
from edgectl.cli.nodes.app import Profile, app
from edgectl.cli.output import Column, Format, FormatOption, emit, emit_one, note, settings


@app.command(short_help="Print the line that makes machines behind NAT nodes.")
def invite(
    ctx: typer.Context,
    site: Annotated[str, typer.Option(help="The site of fleet.yaml that they belong to.")],
    count: Annotated[int, typer.Option(min=1, max=10000, help="How many machines may use it.")] = 1,
    valid: Annotated[str, typer.Option(metavar="DURATION", help="How long it may be used: 12h, 7d.")] = "7d",
    profile: Profile = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; repeatable.")] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Print the one line that installs the agent on machines behind NAT and makes them nodes. It is shown this once."""
    from edgectl.enrolment import inviting

    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    ends_ns = time.time_ns() + inviting.life_ns(valid)
    given = inviting.checked(fleet, workspace, wiring.columns(workspace), site, profile or [], label or [])
    with workspace.lock("nodes invite"), wiring.store(workspace, fleet) as store:
        script = inviting.script(workspace, fleet)
        token = store.invites.create(site, count, time.time_ns(), ends_ns, given)
    line = inviting.line(fleet, script, token)
    value = {"line": line, "site": site, "count": count, "expires": _day(ends_ns)}
    emit_one(value, output, lambda wide: line, name="line")
    note(f"for {counted(count, 'machine')} of {site}, within {valid}; `edgectl serve` must run")


@app.command()
def invites(
    ctx: typer.Context,
    revoke: Annotated[str, typer.Option(metavar="ID", help="End this one; nodes that joined by it stay.")] = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """List invites, or end one."""
    from edgectl.core.names import unknown

    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    with wiring.store(workspace, fleet) as store:
        known = store.invites.all()
        if revoke:
            found = [i for i in known if i.sha256.startswith(revoke)]
            if len(found) != 1:
                raise unknown("invite", revoke, [i.sha256[:8] for i in known])
            store.invites.revoke(found[0].sha256)
            note(f"invite {found[0].sha256[:8]} is ended; {counted(found[0].used, 'node')} joined by it")
            return
    now_ns = time.time_ns()
    rows = [
        {"id": i.sha256[:8], "site": i.site, "used": i.used, "count": i.count, "settings": i.settings,
         "expires": _day(i.expires_ns), "state": "expired" if i.expires_ns <= now_ns else "used up"
         if i.used >= i.count else "open"}
        for i in known
    ]  # fmt: skip
    columns = (
        Column("INVITE", "id"), Column("SITE", "site"), Column("STATE", "state"),
        Column("USED", lambda row: f"{row['used']} of {row['count']}", right=True), Column("ENDS", "expires"),
    )  # fmt: skip
    emit(rows, columns, output, name="id", empty="nobody is invited: edgectl nodes invite --site SITE")


def _day(at_ns: int) -> str:
    from edgectl_agent.core.units import iso

    return iso(at_ns)
