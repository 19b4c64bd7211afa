"""`edgectl deploy`: a signed model onto the fleet, canary first."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from edgectl_agent.core.wording import counted

from edgectl.cli import rolling, wiring
from edgectl.cli.output import Format, FormatOption, Settings, YesOption, note, settings
from edgectl.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from edgectl_agent.core.messages import Report

    from edgectl.core.rollout import Plan
    from edgectl.delivery.deploy import Request
    from edgectl.inventory.types import Inventory
    from edgectl.store.store import Store
    from edgectl.trust.repository import Repository


def deploy(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]", help="A model; the newest signed version by default.")
    ] = "",
    canary: Annotated[str, typer.Option(help="First so many nodes (2) or percent (20%), then the rest.")] = "",
    phases: Annotated[str, typer.Option(help="Cumulative sizes, as 1,5%,25%,100% (default: 1,100%).")] = "",
    select: rolling.SelectOption = "",
    limit: rolling.LimitOption = "",
    exclude: rolling.ExcludeOption = None,
    variant: Annotated[str, typer.Option(help="fp32, fp16 or int8, if the release ships it (default: fp32).")] = "",
    skip_unfit: Annotated[
        bool, typer.Option("--skip-unfit", help="Leave out nodes that lack a channel or have another unit.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")] = False,
    resume: Annotated[str, typer.Option(help="Go on with a rollout (r-3) that was interrupted or fell short.")] = "",
    forks: rolling.ForksOption = 8,
    timeout: rolling.TimeoutOption = 60.0,
    reason: rolling.ReasonOption = "",
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Roll a signed model out. Without a canary's proof that it runs the new bundle, nobody else gets it."""
    from edgectl.core.phases import specification
    from edgectl.core.releases import parse_model
    from edgectl.delivery.deploy import Request, begin
    from edgectl.delivery.deploy import resume as pick_up

    chosen = settings(ctx)
    if bool(model) == bool(resume):
        raise UsageError("expected a MODEL, or --resume with the name of a rollout", hint="edgectl deploy --help")
    workspace = chosen.workspace
    fleet = wiring.inventory(workspace)
    lock = nullcontext() if dry_run else workspace.lock(f"deploy {model or resume}")
    with lock, wiring.store(workspace, fleet) as store:
        repository, who = rolling.signer(workspace, fleet)
        repository.check_lasting(wiring.now())
        tools = rolling.tools(workspace, fleet, store, repository, who, forks)
        if resume:
            record, runner = pick_up(resume, tools)
            rolling.finish(record, runner.resume(), output)
        recipe, version = parse_model(model)
        request = Request(
            recipe=recipe, version=version, variant=variant, phases=specification(canary, phases),
            timeout_s=timeout, selection=select, reason=reason,
        )  # fmt: skip
        plan = _plan(
            request, chosen, fleet, store, repository, (select, limit, exclude or ()), forks, dry_run, skip_unfit
        )
        if isinstance(plan, str):
            record, runner = pick_up(plan, tools)
            return rolling.finish(record, runner.resume(), output)
        if plan is None:
            return None
        if dry_run:
            return rolling.show_plan(plan, output)
        note(rolling.plan_text(plan))
        if rolling.ask(plan, fleet, yes=yes, settings=chosen, verb="Deploy"):
            record, runner = begin(plan, who, tools)
            rolling.finish(record, runner.run(), output)
        return note("nothing was changed")


def _plan(
    request: Request,
    chosen: Settings,
    fleet: Inventory,
    store: Store,
    repository: Repository,
    whom: tuple[str, str, list[str] | tuple[()]],
    forks: int,
    dry_run: bool,
    skip_unfit: bool,
) -> Plan | str | None:
    """The plan; if there is nothing to do, which is said on stderr, the rollout that only lacks its end, or None."""
    import time

    from edgectl.delivery import deploy as delivery
    from edgectl.delivery.survey import check_epochs, check_pending, reports_of, survey

    workspace = chosen.workspace
    registered = wiring.registry(workspace)
    trained = {name: [e.release.version for e in registered.entries(name)] for name in registered.recipes()}
    release = delivery.resolve(request.recipe, request.version, repository.releases(), trained)
    select, limit, exclude = whom
    able = {node.name for node in fleet.nodes if request.recipe in node.models}
    none = f"no node of fleet.yaml has {request.recipe} under its models"
    seed = f"{release.recipe}@{release.version}"
    nodes = rolling.choose(fleet, store, able, none, select=select, limit=limit, exclude=exclude, seed=seed)
    connect = wiring.connect(workspace, fleet, store)
    keep = None if dry_run else store
    reports = reports_of(survey(nodes, connect=connect, store=keep, forks=forks, clock_ns=time.time_ns))
    current = repository.assignment()
    check_epochs(reports, current)
    check_pending(store.nodes.all(), current)
    by_hand = {node.name for node in fleet.nodes if node.via == "usb"}

    def planned(nodes: Collection[str]) -> Plan | None:
        return delivery.plan(
            request, release, tuple(nodes), reports, repository=repository, store=store, by_hand=by_hand
        )

    plan = planned(nodes)
    if plan is not None and (left := _fit(plan, reports, fleet, repository, skip_unfit)) != plan.nodes:
        nodes = tuple(name for name in nodes if name in left or name not in plan.nodes)
        plan = planned(nodes)
    if plan is None:
        ref = delivery.choose(release, request.variant)
        open_ = "" if dry_run else delivery.unproven(
            "deploy", release.recipe, dict.fromkeys(nodes, ""), store, release.version, ref.sha256
        )  # fmt: skip
        more = f"; {open_} ends with their proof" if open_ else ""
        where = f"{'all ' if len(nodes) > 1 else ''}{counted(len(nodes), 'node')}"
        note(f"nothing to do: {release.recipe} {release.version} runs on {where}{more}")
        return open_ or None
    if len(plan.nodes) < len(nodes):
        chosen.detail(f"{len(nodes) - len(plan.nodes)} of {len(nodes)} nodes run it already")
    return plan


def _fit(
    plan: Plan, reports: Mapping[str, Report], fleet: Inventory, repository: Repository, skip: bool
) -> tuple[str, ...]:
    """The plan's nodes that bring what the release needs; the others are named on stderr.

    Raises `ConfigError` if there are others and they are not to be left out, or none is left.
    """
    from edgectl_agent.core.bundle import decode

    from edgectl.core.errors import ConfigError
    from edgectl.core.fitness import Needs, unfit, unheard

    needs = Needs.of(decode(repository.bundle(plan.targets[0].sha256)).features)
    found = unfit(plan.nodes, plan.recipe, needs, reports)
    for one in found[:20]:
        verb = "restart" if fleet.node(one.node).via == "local" else "configure"
        how = f"edgectl nodes {verb} {one.node}" if one.lacks else "convert it there, or correct `units` of its source"
        note(f"{one.node}: {one.why} → {how}")
    if len(found) > 20:
        note(f"and {len(found) - 20} more")
    out = {one.node for one in found}
    left = tuple(name for name in plan.nodes if name not in out)
    if found and (not skip or not left):
        raise ConfigError(
            f"{len(found)} of {len(plan.nodes)} nodes do not bring what {plan.recipe} {plan.version} needs; nothing was"
            " changed",
            hint="mend them" + (", or leave them out with --skip-unfit" if left else ""),
            reason="unfit",
        )
    for one in unheard(left, plan.recipe, needs, reports)[:20]:
        note(f"{one.node}: {one.why} → look whether its column has that name, if it should have come")
    return left
