"""`edgectl alerts`: what the fleet has noticed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.output import (
    Column,
    Format,
    FormatOption,
    aligned,
    emit,
    emit_one,
    note,
    printable,
    settings,
)
from edgectl.core.errors import ConfigError, NothingMatched, UsageError
from edgectl.core.names import unknown
from edgectl.workspace import operator

if TYPE_CHECKING:
    from edgectl.core.records import AlertRecord
    from edgectl.inventory.types import Inventory
    from edgectl.store.store import Store

app = typer.Typer(add_completion=False, no_args_is_help=True)

_CALIBRATED = 9.0
"""Beyond one reading in 10^9 no calibration says anything."""

NodeOption = Annotated[str, typer.Option(help="Only those of this node.")]
SeverityOption = Annotated[str, typer.Option(help="warning or critical.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Cleared ones too.")] = False,
    node: NodeOption = "",
    severity: SeverityOption = "",
    since: Annotated[str, typer.Option(help="Only with their onset in the last 24h, 30m …")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    output: FormatOption = Format.TABLE,
) -> None:
    """Open alerts, newest first."""
    from edgectl_agent.core.units import duration_ns

    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    if severity not in ("", "warning", "critical"):
        raise UsageError(f"--severity: expected warning or critical, found {severity!r}")
    since_ns = time.time_ns() - duration_ns(since) if since else 0
    with wiring.store(workspace, fleet) as store:
        state = "" if everything else "open"
        _known(node, fleet, store)
        found = store.alerts.find(node=node, state=state, severity=severity, since_ns=since_ns, limit=limit)
    _emit(found, output, "no alerts" if everything else "no open alerts; --all shows cleared ones")


@app.command()
def show(
    ctx: typer.Context,
    alert: Annotated[str, typer.Argument(metavar="ALERT", help="Its id, or a beginning of it.")],
    output: FormatOption = Format.TABLE,
) -> None:
    """One alert: what was strange, and what to do."""
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    with wiring.store(workspace, fleet) as store:
        record = store.alerts.get(alert)
    emit_one(record, output, lambda wide: render(record), name=lambda r: r.alert.id)


@app.command()
def tail(
    ctx: typer.Context,
    node: NodeOption = "",
    severity: SeverityOption = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Begin with the last so many.")] = 10,
    output: FormatOption = Format.TABLE,
) -> None:
    """Alerts as the collector stores them, until Ctrl-C."""
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    with wiring.store(workspace, fleet) as store:
        _known(node, fleet, store)
        shown: dict[str, tuple[str, str]] = {}
        first = list(reversed(store.alerts.find(node=node, severity=severity, limit=lines))) if lines else []
        since_ns = time.time_ns()
        try:
            while True:
                for record in first:
                    version = (record.alert.state, record.alert.severity)
                    if shown.get(record.alert.id) != version:
                        shown[record.alert.id] = version
                        _line(record, output)
                time.sleep(0.5)
                first = list(reversed(store.alerts.find(node=node, severity=severity, stored_since_ns=since_ns)))
        except KeyboardInterrupt:
            return


@app.command(short_help="Record that you have seen alerts.")
def ack(
    ctx: typer.Context,
    alerts: Annotated[
        list[str] | None, typer.Argument(metavar="ALERT", help="Their ids, or beginnings of them.")
    ] = None,
    all_of: Annotated[str, typer.Option("--all-of", help="All open alerts of this node.")] = "",
) -> None:
    """Record that you have seen alerts; the first to do so stays on record."""
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    if bool(alerts) == bool(all_of):
        raise UsageError("expected ids of alerts, or --all-of NODE")
    with wiring.store(workspace, fleet) as store:
        if all_of:
            ids = [record.alert.id for record in store.alerts.find(node=fleet.node(all_of).name, state="open")]
            if not ids:
                raise NothingMatched(f"{all_of} has no open alerts")
        else:
            ids = [store.alerts.get(name).alert.id for name in alerts or ()]
        now_ns = time.time_ns()
        done = store.alerts.acknowledge(ids, operator(), now_ns)
        store.rollouts.log(operator(), "alerts ack", " ".join(ids[:20]), now_ns)
    before = f", {len(ids) - done} were already" if done < len(ids) else ""
    note(f"acknowledged {done}{before}")


@app.command(short_help="Precision and recall against labelled faults.")
def score(
    ctx: typer.Context,
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="CSV: start,end,stream,kind.")],
    recipe: Annotated[str, typer.Option(help="Only alerts of this recipe.")] = "",
    node: NodeOption = "",
    slack: Annotated[str, typer.Option(help="How long after its end a fault may still be noticed.")] = "10m",
    output: FormatOption = Format.TABLE,
) -> None:
    """Compare the stored alerts with labelled faults: precision, recall, false alerts per stream-day."""
    from edgectl_agent.core.units import duration_ns

    from edgectl.core.evaluation import judge_labels
    from edgectl.measuring.scoring import Scored, render
    from edgectl.periods import read_periods

    workspace = settings(ctx).workspace
    fleet, periods, slack_ns = wiring.inventory(workspace), read_periods(labels), duration_ns(slack)
    with wiring.store(workspace, fleet) as store:
        _known(node, fleet, store)
        stored = [record.alert for record in store.alerts.find(node=node)]
    recipes = {*(alert.recipe for alert in stored), *(name for one in fleet.nodes for name in one.models)}
    if recipe and recipe not in recipes:
        raise unknown("recipe", recipe, sorted(recipes))
    found = [alert for alert in stored if recipe in ("", alert.recipe)]
    outcome = judge_labels(periods, [(alert.stream, alert.onset_ns) for alert in found], slack_ns)
    if not outcome.stream_days:
        raise ConfigError(f"{labels}: expected rows of kind watched, which say when each stream was, found none")
    emit_one(Scored.of(outcome, slack_ns), output, lambda _: render(outcome, slack_ns), name=lambda _: recipe)


def _known(node: str, fleet: Inventory, store: Store) -> None:
    """Raises `NothingMatched` unless `node` is empty, in the fleet, or was there once and its alerts still are."""
    if node and not store.alerts.find(node=node, limit=1):
        fleet.node(node)


def _emit(found: Sequence[AlertRecord], output: Format, empty: str) -> None:
    from edgectl_agent.core.units import iso

    from edgectl.core.status import age

    now_s = time.time()
    columns = (
        Column("ALERT", lambda r: r.alert.id, whole=True),
        Column("SEVERITY", lambda r: r.alert.severity, style=lambda r: "red" if r.alert.severity == "critical" else ""),
        Column("STATE", lambda r: r.alert.state),
        Column("STORED", lambda r: age(now_s - r.stored_ns / 1e9), right=True),
        Column("ONSET", lambda r: iso(r.alert.onset_ns)),
        Column("NODE", lambda r: r.alert.node),
        Column("STREAM", lambda r: r.alert.stream),
        Column("MODEL", lambda r: f"{r.alert.recipe} {r.alert.version}"),
        Column("SEEN BY", "acknowledged_by"),
        Column("SCORE", lambda r: f"{r.alert.score:.3g}", wide=True, right=True),
        Column("THRESHOLD", lambda r: f"{r.alert.threshold:.3g}", wide=True, right=True),
        Column("BUNDLE", lambda r: r.alert.bundle[:12], wide=True),
    )
    emit(found, columns, output, name=lambda r: r.alert.id, empty=empty)


def _line(record: AlertRecord, output: Format) -> None:
    from edgectl_agent.core.units import iso

    from edgectl.cli.output import encode, write

    alert = record.alert
    if output in (Format.JSON, Format.JSONL):
        write(encode(record))
    elif output is Format.NAME:
        write(alert.id)
    else:
        seen = f"{alert.id}  {iso(alert.onset_ns)}  {alert.severity:<8}  {alert.state:<7}"
        write(printable(f"{seen}  {alert.node}  {alert.stream}  {alert.recipe} {alert.version}"))


def render(record: AlertRecord) -> str:
    """The alert for people."""
    from edgectl_agent.core.units import iso

    alert = record.alert
    seen = f"{record.acknowledged_by} at {iso(record.acknowledged_ns)}" if record.acknowledged_ns else "nobody yet"
    changed = "" if alert.state == "open" else f", cleared {iso(alert.changed_ns)}"
    chance = "beyond anything calibrated"
    if alert.surprise < _CALIBRATED:
        chance = f"by chance 1 in {float(f'{10**alert.surprise:.1g}'):,.0f} readings"
    rows = [
        [alert.id, f"{alert.severity}, {alert.state}"],
        ["stream", f"{alert.stream} on {alert.node}"],
        ["onset", f"{iso(alert.onset_ns)}{changed}"],
        ["model", f"{alert.recipe} {alert.version} ({alert.variant}, {alert.bundle[:12]})"],
        ["score", f"{alert.score:.4g}, threshold {alert.threshold:.4g}; {chance}"],
        ["stored", iso(record.stored_ns)],
        ["seen by", seen],
    ]
    if alert.runbook:
        rows.append(["runbook", alert.runbook])
    lines = [aligned(rows, [False, False])]
    if alert.contributions:
        why = [["WHY", "VALUE", "USUAL"]]
        why += [[c.feature, f"{c.value:.4g}", f"{c.low:.4g} … {c.high:.4g}"] for c in alert.contributions]
        lines.append(aligned(why, [False, True, False]))
    return printable("\n".join(lines), keep="\n")
