"""The tokens with which nodes that pull report to the receiver."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.nodes.app import Name, app
from edgectl.cli.output import note, settings, write
from edgectl.core.errors import ConfigError, UsageError


@app.command()
def token(
    ctx: typer.Context,
    name: Name,
    valid: Annotated[str, typer.Option(metavar="DURATION", help="How long: 365d (default: for ever).")] = "",
    revoke: Annotated[bool, typer.Option("--revoke", help="Make none; end those that the node has.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="End those that the node has.")] = False,
) -> None:
    """Print a new token with which a node reports; it goes into the node's uplink.token. It is shown this once."""
    from edgectl_agent.core.units import duration_ns

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
        if not revoke:
            write(store.credentials.issue(name, now_ns, ends_ns))
    if revoke or ended:
        note(f"{ended} tokens of {name} ended" if ended != 1 else f"1 token of {name} ended")
