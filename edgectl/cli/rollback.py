"""`edgectl rollback`: nodes back to the model that they ran before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import rolling, wiring
from edgectl.cli.output import Format, FormatOption, YesOption, note, settings
from edgectl.core.errors import TrustError, UsageError
from edgectl.workspace import Workspace, operator

if TYPE_CHECKING:
    from edgectl.inventory.types import Inventory
    from edgectl.trust.repository import Repository


def rollback(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")],
    to: Annotated[str, typer.Option(help="To this version (default: what each node ran before).")] = "",
    select: rolling.SelectOption = "",
    exclude: rolling.ExcludeOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")] = False,
    forks: rolling.ForksOption = 16,
    timeout: rolling.TimeoutOption = 60.0,
    reason: rolling.ReasonOption = "",
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Tell each node to return to its previous bundle, which needs neither registry nor keys; where the keys are at
    hand, sign the assignment that says so too."""
    from contextlib import nullcontext

    from edgectl.core.names import unknown
    from edgectl.delivery import rollback as delivery
    from edgectl.delivery.deploy import begin, running
    from edgectl.delivery.survey import reports_of, survey

    if "@" in model:
        raise UsageError(f"expected the name of a model, found {model!r}", hint="name the version with --to")
    chosen = settings(ctx)
    workspace = chosen.workspace
    fleet = wiring.inventory(workspace)
    lock = nullcontext() if dry_run else workspace.lock(f"rollback {model}")
    with lock, wiring.store(workspace, fleet) as store:
        repository, who = _signer(workspace, fleet)
        tools = rolling.tools(workspace, fleet, store, repository, who, forks)
        reports = reports_of(
            survey(fleet.names, connect=tools.connect, store=None if dry_run else store, forks=forks,
                   clock_ns=time.time_ns)
        )  # fmt: skip
        able = {n.name for n in fleet.nodes if model in n.models or running(reports.get(n.name), model)}
        if not able:
            known = {name for n in fleet.nodes for name in n.models}
            raise unknown("model", model, known | {m.recipe for report in reports.values() for m in report.models})
        nodes = rolling.choose(fleet, store, able, "", select=select, exclude=exclude or ())
        plan, skipped = delivery.plan(
            model, nodes, reports, to=to, releases=repository.releases() if repository else (),
            current=repository.assignment() if repository else None, timeout_s=timeout, selection=select, reason=reason,
        )  # fmt: skip
        for left in skipped:
            note(f"left out: {left.node} {left.why}")
        if dry_run:
            rolling.show_plan(plan, output)
            return
        note(rolling.plan_text(plan))
        if not rolling.ask(plan, fleet, yes=yes, settings=chosen, verb="Roll back"):
            note("nothing was changed")
            return
        record, runner = begin(plan, who, tools)
        progress = runner.run()
        if repository is None:
            note(f"rolled back, assignment pending → edgectl rollback {model}, where the keys are")
        rolling.finish(record, progress, output)


def _signer(workspace: Workspace, fleet: Inventory) -> tuple[Repository | None, str]:
    """A rollback goes on without repository and keys."""
    try:
        return rolling.signer(workspace, fleet)
    except TrustError as e:
        note(f"without a signature: {e.message}")
        return None, operator()
