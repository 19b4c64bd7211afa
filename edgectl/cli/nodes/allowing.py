"""What nodes' actions may do: allow."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from edgectl_agent.core.wording import counted

from edgectl.cli import rolling, wiring
from edgectl.cli.nodes.app import app
from edgectl.cli.output import Column, Format, FormatOption, YesOption, confirm, emit, note, settings

if TYPE_CHECKING:
    from edgectl_agent.core.messages import Report

    from edgectl.inventory.types import Inventory
    from edgectl.store.store import Store
    from edgectl.trust.repository import Repository


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
    from edgectl.core.allowing import allowances, differing, with_allowances
    from edgectl.delivery.allowing import bring
    from edgectl.delivery.survey import check_pending

    chosen = settings(ctx)
    workspace = chosen.workspace
    fleet = wiring.inventory(workspace)
    lock = nullcontext() if dry_run else workspace.lock("nodes allow")
    with lock, wiring.store(workspace, fleet) as store:
        repository, who = rolling.signer(workspace, fleet)
        current = repository.assignment()
        wanted = allowances({node.name: node.allow for node in fleet.nodes})
        changed = differing(current, wanted, fleet.names)
        rules = {name: len(fleet.node(name).allow) for name in fleet.names}
        if dry_run:
            names = _behind(fleet, store, repository, changed)
            rows = [
                Row(node=n, rules=rules[n], state="would change" if n in changed else "would be told") for n in names
            ]
            return emit(rows, COLUMNS, output, name="node", empty=_nothing(fleet, store))
        if changed:
            if not confirm(f"Sign other rules for {counted(len(changed), 'node')}?", yes=yes, settings=chosen):
                return note("nothing was changed")
            assignment = with_allowances(current, wanted, fleet.fleet, who)
            if current is not None and assignment.epoch != current.epoch:
                check_pending(store.nodes.all(), current)
            repository.assign(assignment, wiring.now(), repository.versions().timestamp)
            digest = repository.versions().assignment_sha256
            store.rollouts.signed(assignment, digest, None, "nodes allow", time.time_ns())
        names = _behind(fleet, store, repository, changed)
        told = bring(names, rolling.tools(workspace, fleet, store, repository, who, forks))
        rows = [Row(node=n, rules=rules[n], state=state, detail=detail) for n, (state, detail) in told.items()]
        emit(rows, COLUMNS, output, name="node", empty=_nothing(fleet, store))
        if any(row.state == "failed" for row in rows):
            raise typer.Exit(30)
    return None


def _behind(fleet: Inventory, store: Store, repository: Repository, changed: tuple[str, ...]) -> tuple[str, ...]:
    """Nodes to tell: those whose rules changed, those that hold an older assignment, and those that say that an action
    is refused to them."""
    from edgectl.core.allowing import refused, untold

    ruled, reports = _ruled(fleet), _reports(store)
    older = untold(reports, ruled, repository.versions().assignment_sha256)
    return tuple(name for name in fleet.names if name in older.union(changed, refused(reports) & ruled))


def _nothing(fleet: Inventory, store: Store) -> str:
    from edgectl.core.allowing import nothing_to_do, refused

    return nothing_to_do((refused(_reports(store)) - _ruled(fleet)) & set(fleet.names))


def _ruled(fleet: Inventory) -> set[str]:
    return {node.name for node in fleet.nodes if node.allow}


def _reports(store: Store) -> dict[str, Report]:
    return {name: record.report for name, record in store.nodes.all().items() if record.report}
