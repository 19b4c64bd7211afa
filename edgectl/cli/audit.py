"""`edgectl audit`: desired against actual, for cron: silent and 0 when they agree, 10 with what to type when not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import facts, rolling, wiring
from edgectl.cli.output import Column, Format, FormatOption, emit, printable, settings, write

if TYPE_CHECKING:
    from edgectl.core.audit import Group
    from edgectl.inventory.types import Inventory
    from edgectl.store.findings import Changes
    from edgectl.store.store import Store
    from edgectl.workspace import Workspace


def audit(
    ctx: typer.Context,
    since_last: Annotated[
        bool, typer.Option("--since-last", help="Print only what is new or resolved since the last time.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Judge by the store; ask no node.")] = False,
    forks: rolling.ForksOption = 16,
    output: FormatOption = Format.TABLE,
) -> None:
    """Compare what is signed with what runs. Exit code 0: they agree, nothing is printed; 10: findings; 75 or 3: the
    audit itself could not run; 50: somebody else is at work."""
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    with workspace.lock("audit"), wiring.store(workspace, fleet) as store:
        if not offline:
            _ask(workspace, fleet, store, forks)
        changes = judge(workspace, fleet, store, time.time_ns(), tell=since_last)
    shown = changes.new if since_last else changes.standing
    resolved = changes.resolved if since_last else ()
    if output in (Format.JSON, Format.JSONL) and (shown or resolved):
        rows = [{"state": "open", **_plain(f)} for f in shown] + [{"state": "resolved", **_plain(f)} for f in resolved]
        emit(rows, (), output)
    elif output is Format.NAME:
        for key in dict.fromkeys(f.kind for f in shown):
            write(key)
    else:
        _print(changes, since_last, output)
    if changes.standing:
        raise typer.Exit(10)


def judge(workspace: Workspace, fleet: Inventory, store: Store, now_ns: int, *, tell: bool) -> Changes:
    """All findings at `now_ns`, remembered in the store."""
    from edgectl.core.audit import audit as rules

    return store.findings.replace(rules(facts.complete(workspace, fleet, store, now_ns)), now_ns, tell=tell)


def _ask(workspace: Workspace, fleet: Inventory, store: Store, forks: int) -> None:
    from edgectl.delivery.collect import collect

    connect = wiring.connect(workspace, fleet, store)
    asked = [node.name for node in fleet.nodes if node.asked]
    collect(asked, connect=connect, store=store, forks=forks, clock_ns=time.time_ns)


def _print(changes: Changes, since_last: bool, output: Format) -> None:
    from collections import Counter

    from edgectl.core.audit import group
    from edgectl.core.status import age

    now_s = time.time()
    columns = (
        Column("FINDING", "kind"),
        Column("NODES", lambda g: len(g.nodes) or "-", right=True),
        Column("SINCE", lambda g: age(now_s - g.since_ns / 1e9), right=True),
        Column("DETAIL → FIX", _said),
        Column("WHO", lambda g: ", ".join(g.nodes), wide=True),
    )
    emit(group(changes.new if since_last else changes.standing), columns, output)
    if since_last and changes.resolved:
        counts = Counter(f.kind for f in changes.resolved)
        write("resolved: " + ", ".join(f"{kind} ({count})" for kind, count in counts.items()))


def _said(line: Group) -> str:
    who = "" if not line.nodes else ", ".join(line.nodes[:3]) + (" …" if len(line.nodes) > 3 else "") + ": "
    return printable(f"{who}{line.detail}{f' → {line.fix}' if line.fix else ''}")


def _plain(finding: object) -> dict[str, object]:
    import msgspec

    plain: dict[str, object] = msgspec.to_builtins(finding)
    return plain
