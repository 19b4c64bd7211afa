"""`edgectl status`: the fleet on one screen, from the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from edgectl_agent.core.wording import counted

from edgectl.cli import facts, wiring
from edgectl.cli.output import Format, FormatOption, aligned, emit_one, printable, settings
from edgectl.core.errors import UsageError

if TYPE_CHECKING:
    from edgectl.core.status import FleetStatus, ModelLine, RolloutLine
    from edgectl.inventory.types import Inventory
    from edgectl.store.store import Store


def status(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew every two seconds.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """The fleet at a glance, and what needs you. It reads the store (`edgectl collect` fills it) and says how old that
    is. -o name prints the nodes that are not healthy."""
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    if watch and output not in (Format.TABLE, Format.WIDE, Format.JSONL):
        raise UsageError("--watch goes with -o table, wide or jsonl")
    with wiring.store(workspace, fleet) as store:
        while True:
            value = gather(fleet, store, time.time_ns())
            if watch and output is not Format.JSONL:
                typer.echo("\x1b[H\x1b[2J" if _terminal() else "", nl=False)
            emit_one(value, output, lambda wide, v=value: render(v, fleet.time_zone, wide), name=_unwell)  # type: ignore[misc]
            if not watch:
                return
            try:
                time.sleep(2)
            except KeyboardInterrupt:
                return


def gather(fleet: Inventory, store: Store, now_ns: int) -> FleetStatus:
    """The screen's values at `now_ns`."""
    from edgectl.core.audit import audit
    from edgectl.core.status import day_ago, summarise

    known = facts.stored(fleet, store, now_ns)
    newest = store.rollouts.all(limit=1)
    desired = known.assignment.models if known.assignment else {}
    return summarise(
        fleet.fleet,
        known.expected,
        known.nodes,
        open_alerts=store.alerts.find(state="open"),
        last_24h=store.alerts.count(day_ago(now_ns)),
        rollout=(newest[0], store.rollouts.progress(newest[0])) if newest else None,
        findings=audit(known),
        assigned={recipe: frozenset(n for p in places for n in p.nodes) for recipe, places in desired.items()},
        now_ns=now_ns,
    )


def render(value: FleetStatus, zone: str, wide: bool = False) -> str:
    """The screen."""
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from edgectl.core.status import age

    at = datetime.fromtimestamp(value.at_ns / 1e9, ZoneInfo(zone)).strftime("%d %b %H:%M %Z")
    fresh = "no report yet"
    if value.newest_report_s is not None:
        fresh = f"newest report {age(value.newest_report_s)}"
        if value.oldest_report_s is not None:
            fresh += f", oldest expected {age(value.oldest_report_s)}"
    lines = [f"{value.fleet} · {counted(len(value.nodes), 'node')} · {at} · {fresh}"]
    rows = [["NODES", " · ".join(f"{n:,} {word}" for word, n in value.conditions.items()) or "none"]]
    rows.append(["ALERTS", _alerts(value)])
    rows += [["MODELS" if i == 0 else "", _model(line)] for i, line in enumerate(value.models)]
    if value.rollout is not None:
        rows.append(["ROLLOUT", _rollout(value.rollout)])
    lines.append(aligned(rows, [False, False]))
    if value.needs:
        lines.append("NEEDS YOU")
        now_s = value.at_ns / 1e9
        for n in value.needs:
            lines += [f"  {n.text} ({age(now_s - n.since_ns / 1e9)})", f"    {n.command}"]
    if wide:
        lines.append(_nodes(value))
    return printable("\n".join(lines), keep="\n")


def _alerts(value: FleetStatus) -> str:
    counts = value.alerts
    of_open = [f"{counts.critical} critical"] if counts.critical else []
    of_open += [f"{counts.acknowledged} acknowledged"] if counts.acknowledged else []
    more = f" ({', '.join(of_open)})" if of_open else ""
    return f"24 h: {counts.last_24h:,} · open {counts.open:,}{more}"


def _model(line: ModelLine) -> str:
    parts = [f"{version} on {count:,}" for version, count in line.versions.items()]
    parts += [f"unknown on {line.unknown:,}"] if line.unknown else []
    latency = f"   p99 {line.p99_us / 1000:.1f} ms a batch" if line.p99_us else ""
    return f"{line.recipe}  {' · '.join(parts)}{latency}"


def _rollout(line: RolloutLine) -> str:
    former = f"{', '.join(line.former)} → " if line.former else ""
    phase = f" · phase {line.phase}/{line.phases}" if line.state in ("running", "paused") else ""
    others = "".join(f", {count} {state}" for state, count in line.counts.items() if state != "confirmed")
    counts = f"{line.counts.get('confirmed', 0)}/{line.nodes} confirmed{others}"
    kind = "" if line.kind == "deploy" else f"{line.kind} "
    return f"{line.name} {kind}{line.recipe} {former}{line.version} · {line.state}{phase} · {counts}"


def _nodes(value: FleetStatus) -> str:
    from edgectl.core.status import age

    rows = [["NODE", "SITE", "TIER", "STATE", "AGE", "MODELS", "OPEN", "DETAIL"]]
    for n in value.nodes:
        models = ", ".join(f"{recipe} {version}" for recipe, version in n.models.items())
        old = "" if n.age_s is None else age(n.age_s)
        rows.append([n.name, n.site, n.tier, n.condition, old, models, str(n.open_alerts), n.detail])
    return aligned(rows, [False] * 4 + [True, False, True, False])


def _unwell(value: FleetStatus) -> str:
    return "\n".join(n.name for n in value.nodes if n.condition != "healthy")


def _terminal() -> bool:
    import sys

    return sys.stdout.isatty()
