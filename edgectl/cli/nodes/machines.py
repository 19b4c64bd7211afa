"""The agent on machines elsewhere: bootstrap, upgrade, configure."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from edgectl.cli import rolling, wiring
from edgectl.cli.nodes import moving
from edgectl.cli.nodes.app import Names, app
from edgectl.cli.output import Format, FormatOption, YesOption, confirm, note, settings
from edgectl.core.errors import EdgeError


@app.command(short_help="Install the agent on machines; again, it completes it.")
def bootstrap(
    ctx: typer.Context,
    names: Names = None,
    select: rolling.SelectOption = "",
    everyone: moving.AllOption = False,
    dry_run: moving.DryRunOption = False,
    diff: moving.DiffOption = False,
    wheelhouse: moving.WheelhouseOption = None,
    wheel: moving.WheelOption = None,
    forks: rolling.ForksOption = 8,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Install the agent on machines: user, packages, configuration, unit. Run again, it completes what is missing."""
    from edgectl.provisioning.installing import each_node, failure

    said = settings(ctx)
    workspace = said.workspace
    fleet = wiring.inventory(workspace)
    with wiring.store(workspace, fleet) as store:
        nodes = moving.elsewhere(fleet, store, names or (), select, "bootstrap", everyone)
        heard_s = moving.reporting(store, nodes)
    question = f"Install the agent on {len(nodes)} machines?"
    if len(nodes) > 1 and not dry_run and not confirm(question, yes=yes, settings=said):
        return note("nothing was changed")
    with nullcontext() if dry_run else workspace.lock("nodes bootstrap"):
        installer = moving.installing(said, fleet, "nodes bootstrap", wheel, wheelhouse)
        found = each_node(nodes, lambda node: installer.bootstrap(node, dry_run, heard_s.get(node.name)), forks)
        moving.keep(installer.heard, workspace, fleet)
    if len(nodes) == 1 and isinstance(only := found[nodes[0].name], EdgeError):
        raise only
    rows = [failure(name, row) if isinstance(row, EdgeError) else row for name, row in found.items()]
    return moving.finish(rows, diff, output)


@app.command(short_help="Move the agent to another version, canary first.")
def upgrade(
    ctx: typer.Context,
    names: Names = None,
    select: rolling.SelectOption = "",
    everyone: moving.AllOption = False,
    to: Annotated[str, typer.Option(help="Version of the agent (default: that of this edgectl).")] = "",
    wheel: moving.WheelOption = None,
    wheelhouse: moving.WheelhouseOption = None,
    canary: moving.CanaryOption = "",
    phases: moving.PhasesOption = "",
    dry_run: moving.DryRunOption = False,
    resume: moving.ResumeOption = "",
    forks: rolling.ForksOption = 8,
    reason: rolling.ReasonOption = "",
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Move the agent itself to another version, canary first; one that does not come up reverts by itself."""
    order = moving.Order(
        kind="upgrade", said=settings(ctx), selection=select, everyone=everyone, sizes=(canary, phases), resume=resume,
        dry_run=dry_run, forks=forks, reason=reason, yes=yes, output=output,
    )  # fmt: skip
    with order.locked() as (fleet, store):
        nodes = order.whom(fleet, store, names or ())
        installer = moving.installing(order.said, fleet, "nodes upgrade", wheel, wheelhouse, to)
        parts = order.parts(nodes, installer.behind, unknown=installer.version)
        any_part = {node.name: "" for node in nodes}
        order.roll(fleet, store, parts, any_part, installer.version, installer.upgrade)


@app.command(short_help="Give nodes the agent.yaml that fleet.yaml describes.")
def configure(
    ctx: typer.Context,
    names: Names = None,
    select: rolling.SelectOption = "",
    everyone: moving.AllOption = False,
    diff: moving.DiffOption = False,
    canary: moving.CanaryOption = "",
    phases: moving.PhasesOption = "",
    dry_run: moving.DryRunOption = False,
    resume: moving.ResumeOption = "",
    forks: rolling.ForksOption = 8,
    reason: rolling.ReasonOption = "",
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Give nodes the agent.yaml that fleet.yaml describes; a node keeps its own when its agent does not take it."""
    order = moving.Order(
        kind="configure", said=settings(ctx), selection=select, everyone=everyone, sizes=(canary, phases),
        resume=resume,
        dry_run=dry_run, forks=forks, reason=reason, yes=yes, output=output,
    )  # fmt: skip
    with order.locked() as (fleet, store):
        nodes = order.whom(fleet, store, names or ())
        installer = moving.installing(order.said, fleet, "nodes configure")
        texts = order.parts(nodes, installer.differences, unknown="?")
        if diff or dry_run:
            moving.show_differences({name: text for name, text in texts.items() if text != "?"}, output)
        wanted = {node.name: installer.part(node) for node in nodes}
        parts = {name: wanted[name] for name in texts}
        order.roll(fleet, store, parts, wanted, moving.digest(parts), installer.configure)
