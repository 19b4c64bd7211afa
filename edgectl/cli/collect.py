"""`edgectl collect`: reports and alerts from the nodes into the store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from edgectl_agent.core.wording import counted

from edgectl.cli import rolling, wiring
from edgectl.cli.output import Column, Format, FormatOption, emit, encode, note, printable, settings, write
from edgectl.core.errors import UsageError

if TYPE_CHECKING:
    from edgectl_agent.core.messages import Alert

    from edgectl.delivery.collect import Told
    from edgectl.inventory.types import Inventory
    from edgectl.store.store import Store
    from edgectl.workspace import Workspace


def collect(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow/--once", help="Stay, and store alerts as they are raised.")] = False,
    select: rolling.SelectOption = "",
    forks: rolling.ForksOption = 16,
    given: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FILE…", help="Files of `edgectl-agent export` in place of the network."),
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="FILE", hidden=True)] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Pull reports and alerts into the store. With -o jsonl one line per alert, printed after its row is committed."""
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    if given or more:
        _merge(workspace, fleet, given or [], more or [], output)
        return
    with wiring.store(workspace, fleet) as store:
        among = {node.name for node in fleet.nodes if node.asked}
        names = rolling.choose(fleet, store, among, "no node of fleet.yaml can be asked", select=select)
        told = _printing(output, follow)
        if follow:
            _follow(workspace, fleet, store, names, told)
            return
        from edgectl.delivery.collect import collect as once

        connect = wiring.connect(workspace, fleet, store)
        done = once(names, connect=connect, store=store, forks=forks, clock_ns=time.time_ns, told=told)
        columns = (Column("NODE", "node"), Column("ALERTS", "alerts", right=True), Column("ERROR", "error"))
        if output is not Format.JSONL:
            emit(done, columns, output, name="node")
        _warn(store, names)
        if any(node.error for node in done):
            raise typer.Exit(31)


def _merge(workspace: Workspace, fleet: Inventory, given: list[Path], more: list[Path], output: Format) -> None:
    from edgectl.cli import byhand

    if not given:
        raise UsageError(f"unexpected argument {more[0]}", hint=f"edgectl collect --from {more[0]}")
    with wiring.store(workspace, fleet) as store:
        done = byhand.merge(workspace, fleet, store, [*given, *more])
    columns = (
        Column("NODE", "node"), Column("ALERTS", "alerts", right=True), Column("MADE", "made"),
        Column("NEWEST", lambda row: "yes" if row.report else "no"), Column("FILE", "file", wide=True),
    )  # fmt: skip
    emit(done, columns, output, name="node")


def _warn(store: Store, names: tuple[str, ...]) -> None:
    """Say which agents are read, but would not be commanded."""
    from edgectl import __version__
    from edgectl.core.versions import distance

    records = store.nodes.all()
    far = [
        (name, why)
        for name in names
        if (r := records.get(name)) and r.report and (why := distance(r.report.agent, __version__))
    ]
    if far:
        others = f" and {len(far) - 1} more" if len(far) > 1 else ""
        note(f"{far[0][0]}{others}: {far[0][1]}: it is read, and not commanded → edgectl audit")


def _printing(output: Format, follow: bool) -> Told:
    def line(alert: Alert, committed_ns: int) -> None:
        if output is Format.JSONL:
            shown = ("id", "node", "stream", "recipe", "state", "severity", "onset_ns", "accepted_ns")
            write(encode({name: getattr(alert, name) for name in shown} | {"committed_ns": committed_ns}))
        elif follow and output is Format.NAME:
            write(alert.id)
        elif follow:
            write(printable(f"{alert.id}  {alert.severity:<8}  {alert.state:<7}  {alert.node}  {alert.stream}"))

    return line


def _follow(workspace: Workspace, fleet: Inventory, store: Store, names: tuple[str, ...], told: Told) -> None:
    import random
    import signal
    import threading

    from edgectl.delivery.collect import Follower

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    follower = Follower(
        {name: fleet.node(name).report_every_ns / 1e9 for name in names},
        connect=wiring.connect(workspace, fleet, store),
        store=store,
        clock_ns=time.time_ns,
        monotonic_s=time.monotonic,
        rng=random.Random(),
        stop=stop,
        told=told,
        say=note,
    )
    note(f"following {counted(len(names), 'node')}; Ctrl-C ends it")
    follower.run()
