"""What nodes' actions may do: allow."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import msgspec
import typer

from edgectl.cli import rolling, wiring
from edgectl.cli.nodes.app import app
from edgectl.cli.output import Column, Format, FormatOption, YesOption, confirm, emit, note, settings


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One node that other actions are allowed from now on."""

    node: str
    rules: int
    state: str
    detail: str = ""


COLUMNS = (
    Column("NODE", "node"),
    Column("RULES", "rules", right=True),
    Column("STATE", "state"),
    Column("DETAIL", "detail"),
)


@app.command()
def allow(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which nodes would get other rules.")] = False,
    forks: rolling.ForksOption = 8,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Sign what actions may do (allow:), and tell the nodes.

    A deploy signs it too.
    """
    from edgectl.delivery.allowing import behind, bring, changed, nothing, sign

    chosen = settings(ctx)
    workspace = chosen.workspace
    fleet = wiring.inventory(workspace)
    rules = {node.name: len(node.allow) for node in fleet.nodes}
    lock = nullcontext() if dry_run else workspace.lock("nodes allow")
    with lock, wiring.store(workspace, fleet) as store:
        repository, who = rolling.signer(workspace, fleet)
        tools = rolling.tools(workspace, fleet, store, repository, who, forks)
        others = changed(rules, tools)
        if others and not dry_run:
            if not confirm(f"Sign other rules for {len(others)} nodes?", yes=yes, settings=chosen):
                return note("nothing was changed")
            sign(tools, wiring.now())
        names = behind(rules, others, tools)
        told = {n: ("would change" if n in others else "would be told", "") for n in names}
        told = told if dry_run else bring(names, tools)
        rows = [Row(node=n, rules=rules[n], state=state, detail=detail) for n, (state, detail) in told.items()]
        emit(rows, COLUMNS, output, name="node", empty=nothing(rules, tools))
    if any(row.state == "failed" for row in rows):
        raise typer.Exit(30)
    return None
