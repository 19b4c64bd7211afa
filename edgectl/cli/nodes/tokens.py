"""The tokens with which nodes that pull report to the receiver."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.nodes.app import Name, app
from edgectl.cli.output import Format, FormatOption, emit_one, note, settings
from edgectl.core.errors import ConfigError, UsageError


@app.command(short_help="Print a token with which a node reports, or end tokens.")
def token(
    ctx: typer.Context,
    name: Name,
    valid: Annotated[str, typer.Option(metavar="DURATION", help="How long: 365d (default: for ever).")] = "",
    revoke: Annotated[bool, typer.Option("--revoke", help="Make none; end those that the node has.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="End those that the node has.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Print a new token with which a node reports; it goes into the node's uplink.token. It is shown this once."""
    from edgectl_agent.core.units import duration_ns, iso

    if revoke and (valid or replace):
        raise UsageError("--revoke makes no token: expected it alone")
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    node, now_ns = fleet.node(name), time.time_ns()
    try:
        ends_ns = now_ns + duration_ns(valid) if valid else 0
    except ConfigError as e:
        raise UsageError(f"--valid: {e.message}") from e
    if not node.reports_itself:
        raise UsageError(f"node {name} is asked via {node.via}: it needs no token")
    with wiring.store(workspace, fleet) as store:
        ended = store.credentials.revoke(name, now_ns) if revoke or replace else 0
        made = "" if revoke else store.credentials.issue(name, now_ns, ends_ns)
    value = {"name": name, "token": made, "expires": iso(ends_ns) if ends_ns else "", "ended": ended}
    if made or output not in (Format.TABLE, Format.WIDE):
        emit_one(value, output, lambda wide: made, name="token")
    if revoke or ended:
        note(f"{ended} tokens of {name} ended" if ended != 1 else f"1 token of {name} ended")
