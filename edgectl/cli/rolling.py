"""What `deploy` and `rollback` have in common: whom they mean, what they work with, what they print."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from edgectl_agent.core.wording import counted

from edgectl.cli import publishing, wiring
from edgectl.cli.output import Column, Format, Settings, aligned, confirm, emit_one, note
from edgectl.core.errors import NothingMatched, TrustError
from edgectl.workspace import Workspace, operator

if TYPE_CHECKING:
    from edgectl.core.records import RolloutRecord
    from edgectl.core.rollout import Entry, Plan, Progress
    from edgectl.delivery.runner import Tools
    from edgectl.inventory.types import Inventory
    from edgectl.store.store import Store
    from edgectl.trust.repository import Repository

SelectOption = Annotated[
    str, typer.Option("--select", "-l", help="site=lyon,profile=pi,!line=press,name=~gw-.*,finding=config-drift")
]
LimitOption = Annotated[str, typer.Option(help="At most so many of them: 7 or 20%.")]
ExcludeOption = Annotated[list[str] | None, typer.Option(help="Leave out this node or glob; repeatable.")]
ForksOption = Annotated[int, typer.Option("--forks", "-f", min=1, max=200, help="Nodes at a time.")]
TimeoutOption = Annotated[float, typer.Option(min=1, help="Seconds from the order until a node must have proven it.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for the journal.")]

ASK_ABOVE = 0.1
"""Share of the fleet above which a person is asked."""


def choose(
    fleet: Inventory,
    store: Store,
    candidates: Collection[str],
    none: str,
    *,
    select: str,
    limit: str = "",
    exclude: Sequence[str] = (),
    seed: str = "",
) -> tuple[str, ...]:
    """Names of the `candidates` that the options mean. Raises `NothingMatched` (`none` if there are no candidates)."""
    from edgectl.core import selector
    from edgectl.core.phases import ordered
    from edgectl.fleet.overview import selectable

    if not candidates:
        raise NothingMatched(none, hint="edgectl nodes list -o wide")
    fields = selectable(fleet, store.nodes.all(), store.findings.standing(), time.time_ns())
    meant = {name: fields[name] for name in fields if name in candidates}
    return selector.select(meant, select, exclude=exclude, limit=limit, order=ordered(meant, seed))


def signer(workspace: Workspace, fleet: Inventory) -> tuple[Repository, str]:
    """The repository and the operator's half of an epoch. Raises `TrustError` without repository or key."""
    keys = wiring.keys(workspace)
    key = keys.signer("rollout").public_key.keyid
    repository = wiring.repository(workspace, fleet, keys)
    if not repository.exists():
        raise TrustError(f"there is no repository in {workspace.resolve(fleet.repository_dir)}", hint="edgectl init")
    return repository, f"{operator()}:{key[:8]}"


def tools(
    workspace: Workspace, fleet: Inventory, store: Store, repository: Repository | None, who: str, forks: int
) -> Tools:
    """What a rollout works with, as this command line wants it."""
    from edgectl.core.allowing import allowances
    from edgectl.delivery.runner import Tools

    return Tools(
        allow=allowances({node.name: node.allow for node in fleet.nodes}),
        store=store,
        repository=repository,
        connect=wiring.connect(workspace, fleet, store),
        fleet=fleet.fleet,
        operator=who,
        clock_ns=time.time_ns,
        monotonic_s=time.monotonic,
        forks=forks,
        watch=_tell,
        patience_s=lambda name: fleet.node(name).patience_s,
        waiting=_waiting,
        signed=publishing.after_signing(workspace, fleet),
    )


def ask(plan: Plan, fleet: Inventory, *, yes: bool, settings: Settings, verb: str) -> bool:
    """Whether to go on with a plan that touches more than a tenth of the fleet."""
    count = len(plan.nodes)
    if count <= ASK_ABOVE * len(fleet.nodes):
        return True
    question = f"{verb} {plan.recipe} {plan.version} on {count} of {counted(len(fleet.nodes), 'node')}?"
    return confirm(question, yes=yes, settings=settings)


def show_plan(plan: Plan, how: Format) -> None:
    """The plan as data on stdout."""
    emit_one(plan, how, lambda wide: plan_text(plan, wide), name=lambda p: "\n".join(p.nodes))


def plan_text(plan: Plan, wide: bool = False) -> str:
    """The plan for people: one line per phase, with the first nodes of each."""
    from edgectl.core.evidence import placement

    former = sorted({place.version for place in plan.former})
    variants = sorted({place.variant for place in plan.targets})
    head = f"{plan.recipe}  {' / '.join(former) or 'nothing'} → {plan.version} ({', '.join(variants)})"
    if not plan.signed:
        head = f"{plan.recipe} → {plan.version}"
    halt = f"on halt: {plan.on_halt} · " if plan.kind != "rollback" else ""
    lines = [head, f"{halt}timeout {plan.timeout_s:g} s per node"]
    total, done = len(plan.nodes), 0
    rows = [["PHASE", "NODES", "TOTAL", "WHO"]]
    for i, phase in enumerate(plan.phases, start=1):
        done += len(phase.nodes)
        shown = phase.nodes if wide else phase.nodes[:5]
        more = f" and {len(phase.nodes) - len(shown)} more" if len(phase.nodes) > len(shown) else ""
        who = ", ".join(f"{n} ({p.version})" if (p := placement(plan.former, n)) and wide else n for n in shown)
        kind = f"{i} canary" if phase.canary else str(i)
        rows.append([kind, str(len(phase.nodes)), f"{done / total:.0%}", who + more])
    return "\n".join([*lines, aligned(rows, [False, True, True, False])])


def finish(record: RolloutRecord, progress: Progress, how: Format) -> None:
    """Print what became of the rollout and end with its exit code."""
    from edgectl.core.rollout import exit_code

    code = exit_code(progress)
    nodes = [
        {"node": name, "state": node.state, "detail": node.detail, "stuck": node.stuck}
        for name, node in progress.nodes.items()
    ]
    value: dict[str, Any] = {
        "name": record.name, "kind": record.kind, "recipe": record.recipe, "version": record.plan.version,
        "state": progress.state, "exit_code": code, "reason": progress.reason, "nodes": nodes,
    }  # fmt: skip
    emit_one(value, how, lambda wide: _outcome(record, progress, wide))
    if progress.state in ("paused", "incomplete", "stuck"):
        note(f"to go on: {record.resume}")
    raise typer.Exit(code)


def _outcome(record: RolloutRecord, progress: Progress, wide: bool) -> str:
    plan = record.plan
    good = progress.count("confirmed")
    words = {"halted": "halted, everything reverted", "stuck": "halted, not everything reverted",
             "paused": "inconclusive, paused", "incomplete": "ended, not on every node"}  # fmt: skip
    head = f"{record.name} {plan.recipe} {plan.version}: {words.get(progress.state, progress.state)}"
    lines = [f"{head} · {good} of {counted(len(progress.nodes), 'node')} confirmed"]
    if progress.reason and progress.state != "done":
        lines.append(f"  {progress.reason}")
    shown = [(n, p) for n, p in progress.nodes.items() if wide or p.state not in ("confirmed", "pending")]
    rows = [["NODE", "STATE", "DETAIL"], *([n, _word(p.state, p.stuck), p.detail] for n, p in shown[:20])]
    if shown:
        lines.append(aligned(rows, [False, False, False]))
    if len(shown) > 20:
        lines.append(f"and {len(shown) - 20} more: -o json has all")
    return "\n".join(lines)


def _word(state: str, stuck: bool) -> str:
    return f"{state}, not reverted" if stuck else state


_SAID = {
    "start": "begun", "pass": "phase passed", "pause": "inconclusive", "halt": "HALTED", "finish": "finished",
    "fall-short": "ended", "resume": "resumed", "assigned": "assignment signed", "confirm": "confirmed",
    "refuse": "FAILED", "fall-silent": "SILENT", "lose": "unreachable", "revert": "reverted", "stick": "NOT REVERTED",
}  # fmt: skip


def _tell(entry: Entry, progress: Progress) -> None:
    said = _SAID.get(entry.event)
    if said is None:
        return
    what = f"epoch {entry.epoch}" if entry.event == "assigned" else entry.detail
    count = f"{progress.count('confirmed')}/{len(progress.nodes)}"
    note(f"{count:>7}  {entry.node or '·'}  {said}{f': {what}' if what else ''}")


def _waiting(count: int, longest_s: float) -> None:
    from edgectl.core.status import age

    who = f"{count} nodes report" if count > 1 else "a node reports"
    note(f"{who} without being asked, within {age(longest_s)}; Ctrl-C leaves the rollout, and it can be resumed")


def node_columns() -> Iterable[Column]:
    """Columns of nodes that a command left out."""
    return (Column("NODE", "node"), Column("WHY", "why"))
