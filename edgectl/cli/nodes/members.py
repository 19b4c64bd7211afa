"""Who is in the fleet: add, list, show, start, stop, restart, remove."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.completing import kinds
from edgectl.cli.nodes import moving
from edgectl.cli.nodes.app import Name, Profile, Site, app
from edgectl.cli.output import (
    Column,
    Format,
    FormatOption,
    Settings,
    YesOption,
    aligned,
    confirm,
    emit,
    emit_done,
    emit_one,
    note,
    settings,
    write,
)
from edgectl.cli.rolling import SelectOption

if TYPE_CHECKING:
    from edgectl.inventory.types import Node


@app.command(short_help="Add a node to fleet.yaml; start it if it is here.")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name: letters, digits, '.', '_' and '-'.")],
    via: Annotated[
        str, typer.Option(help="How it is reached: local (a process on this machine), ssh, usb (by hand).")
    ] = "local",
    host: Annotated[str, typer.Option(help="Its address (default: its name).")] = "",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Of its SSH server.")] = None,
    user: Annotated[str, typer.Option(help="Who logs in.")] = "",
    jump: Annotated[str, typer.Option(help="Jump hosts, [user@]host[:port],… (ssh's ProxyJump).")] = "",
    key: Annotated[str, typer.Option(help="SSH private key file (default: ssh-agent and ~/.ssh/config).")] = "",
    tier: Annotated[str, typer.Option(help="far-edge, near-edge or regional (default: fleet.yaml's).")] = "",
    site: Site = "",
    profile: Profile = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; repeatable.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=tail:PATH, replay:PATH@SPEED, mqtt://BROKER/TOPIC, kafka://BROKER/TOPIC, http, syslog:udp:PORT, "
            "opc.tcp://SERVER#STREAM.CHANNEL=NODE or host-metrics:EVERY; repeatable.",
            autocompletion=kinds,
        ),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="RECIPE=SOURCE[,SOURCE…]; repeatable.")] = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Do not start its agent.")] = False,
) -> None:
    """Add a node to fleet.yaml; one on this machine gets its files and is started."""
    from edgectl.fleet import membership
    from edgectl.inventory import shorthand
    from edgectl.inventory.types import HERE

    workspace = settings(ctx).workspace
    connect = {"via": via, "host": host, "port": port, "user": user, "jump": jump, "key": key}
    parts = {
        "site": site,
        "profiles": profile,
        "tier": tier,
        "connect": {name: value for name, value in connect.items() if value},
        "labels": shorthand.labels(label or ()),
        "sources": shorthand.sources(source or ()),
        "models": shorthand.models(model or ()),
    }
    entry = {"name": name} | {key: value for key, value in parts.items() if value}
    with workspace.lock(f"nodes add {name}"):
        fleet = wiring.inventory(workspace)
        root = wiring.repository(workspace, fleet).root_bytes()
        reach = wiring.connecting(workspace, fleet)
        node = membership.add(entry, workspace, wiring.columns(workspace), root, reach)
        starts = node.via in HERE and not no_start
        if starts:
            reach(node).start()
    note(f"{name} is in the fleet{' and runs' if starts else ''}")
    if node.via == "ssh":
        note(f"next: edgectl nodes pin {name}, then edgectl nodes bootstrap {name}")


@app.command("list")
def list_(
    ctx: typer.Context,
    select: SelectOption = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """Nodes with their state from the last report."""
    from edgectl.fleet.overview import nodes

    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    with wiring.store(workspace, fleet) as store:
        rows = nodes(fleet, store.nodes.all(), select, wiring.now(), store.findings.standing())
    columns = (
        Column("NAME", "name"),
        Column("SITE", "site"),
        Column("TIER", "tier"),
        Column("VIA", "via"),
        Column("STATE", "state", style=lambda row: row.style),
        Column("MODELS", lambda row: ", ".join(f"{m} {v}".strip() for m, v in row.models.items())),
        Column("AGE", lambda row: row.age, right=True),
        Column("LABELS", lambda row: ",".join(f"{k}={v}" for k, v in row.labels.items()), wide=True),
        Column("DETAIL", "detail", wide=True),
    )
    emit(rows, columns, output, empty="the fleet has no node yet: edgectl nodes add NAME --via local")


@app.command()
def show(ctx: typer.Context, name: Name, output: FormatOption = Format.TABLE) -> None:
    """Every setting of a node, and where it was said."""
    from edgectl.fleet.overview import node_settings

    workspace = settings(ctx).workspace
    node = wiring.inventory(workspace).node(name)
    rows = node_settings(node)
    lines = [("SETTING", "VALUE", "FROM"), *((row.setting, row.value, row.origin) for row in rows)]
    emit_one({"name": node.name, "settings": rows}, output, lambda wide: aligned(lines, [False] * 3))


@app.command(short_help="Start a node's agent.")
def start(ctx: typer.Context, name: Name, output: FormatOption = Format.TABLE) -> None:
    """Start a node's agent; one on this machine gets its files first."""
    _tell_running(name, _started(settings(ctx), name, "start", stop=False), output)


@app.command()
def stop(ctx: typer.Context, name: Name, output: FormatOption = Format.TABLE) -> None:
    """End a node's agent; what it has stored stays."""
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    node = fleet.node(name)
    with workspace.lock(f"nodes stop {name}"):
        wiring.connector(workspace, fleet, node).stop()
    emit_done({"name": name, "state": "stopped"}, output, f"{name} is stopped")


@app.command(short_help="End a node's agent and start it.")
def restart(ctx: typer.Context, name: Name, output: FormatOption = Format.TABLE) -> None:
    """End a node's agent and start it; one on this machine gets its files in between."""
    _tell_running(name, _started(settings(ctx), name, "restart", stop=True), output)


@app.command(short_help="Take a node off its machine and out of fleet.yaml.")
def remove(
    ctx: typer.Context,
    name: Name,
    keep_data: Annotated[bool, typer.Option("--keep-data", help="Keep alerts that were not collected.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Leave its machine as it is, and forget the node.")] = False,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Stop a node, delete all of the agent on its machine and take it out of fleet.yaml.

    Of a node that pulls, it prints the line that deletes the agent: its owner runs it there.
    """
    from edgectl.enrolment import inviting
    from edgectl.fleet import membership

    said = settings(ctx)
    workspace = said.workspace
    fleet = wiring.inventory(workspace)
    node = fleet.node(name)
    forget = forget or (node.via == "pull" and not node.connect.user)  # it is managed where it lives
    lost = "" if keep_data else ", with alerts that were not collected"
    what = "from fleet.yaml, and leave its machine as it is" if forget else f"and its files{lost}"
    if not confirm(f"Remove node {name} {what}?", yes=yes, settings=said):
        return note("nothing was removed")
    with workspace.lock(f"nodes remove {name}"):
        line = inviting.removal_line(workspace, fleet, node)
        uninstall = None if forget else lambda: moving.uninstall(said, fleet, node, keep_data)
        membership.remove(node, workspace, uninstall)
        with wiring.store(workspace, fleet) as store:
            store.nodes.forget(name)
            if store.enrolments.forget(name):
                store.credentials.revoke(name, time.time_ns())
    line += " --keep-data" if line and keep_data else ""
    text = f"{name} is removed{'; what it has where it lives stays there' if forget else ''}"
    if line:
        text = f"{name} is removed; this line, run on its machine, deletes the agent (add --folder if it has one)"
    if line and output in (Format.TABLE, Format.WIDE):
        write(line)
    return emit_done({"name": name, "state": "removed", "line": line}, output, text)


def _tell_running(name: str, more: str, output: Format) -> None:
    value = {"name": name, "state": "running", "detail": more.removeprefix("; ")}
    emit_done(value, output, f"{name} runs{more}")


def _started(said: Settings, name: str, verb: str, stop: bool) -> str:
    """See that a node's agent runs; returns what else there is to say. Only a node on this machine gets its files:
    elsewhere a new agent.yaml comes with `nodes configure`, which puts the old one back if the agent does not take it.
    """
    from edgectl.fleet import membership
    from edgectl.inventory.agent_config import sha256
    from edgectl.inventory.types import HERE

    workspace = said.workspace
    fleet = wiring.inventory(workspace)
    node: Node = fleet.node(name)
    here = node.via in HERE
    with workspace.lock(f"nodes {verb} {name}"):
        root = wiring.repository(workspace, fleet).root_bytes()
        files = membership.files(node, workspace, wiring.columns(workspace), root)
        changed = membership.run(wiring.connector(workspace, fleet, node), files if here else {}, restart=stop)
    if changed:
        return f"; its new settings hold after edgectl nodes restart {name}"
    if here or wiring.connect(workspace, fleet)(name).status().config_sha256 in (
        "",
        sha256(files["agent.yaml"].decode()),
    ):
        return ""
    return f"; its agent.yaml is not the one that fleet.yaml makes → edgectl nodes configure {name} --diff"
