"""`edgectl serve`: the receiver for nodes that nobody can reach."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.output import note, settings
from edgectl.core.errors import UsageError


def serve(
    ctx: typer.Context,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")] = (
        "127.0.0.1:8443"
    ),
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="Certificate chain (PEM; default: the fleet's own).")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its private key (PEM).")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="Plain HTTP: another server speaks TLS in front of this one.")
    ] = False,
    forks: Annotated[int, typer.Option("--forks", "-f", min=1, max=64, help="Requests at the store at a time.")] = 8,
) -> None:
    """Receive reports and alerts of nodes that pull, hand them their orders, and serve the signed repository, until
    Ctrl-C. Deploying goes on beside it: it does not hold the workspace."""
    from edgectl.hub import server
    from edgectl.hub.app import build
    from edgectl.hub.hub import Hub

    if (tls_cert is None) != (tls_key is None):
        raise UsageError("expected --tls-cert and --tls-key together")
    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    host, port = server.parse(listen)
    if tls_cert is None and not behind_proxy and server.wants_tls(fleet.receiver_url, host):
        authority = wiring.authority(workspace, fleet)
        tls_cert, tls_key = authority.serve("receiver", server.names(fleet.receiver_url, host), wiring.now())
    place = server.Listen(host=host, port=port, certificate=tls_cert, key=tls_key, behind_proxy=behind_proxy)
    server.check(place)
    with wiring.store(workspace, fleet) as store, server.bind(place) as taken:
        hub = Hub(fleet.fleet, store, workspace.resolve(fleet.repository_dir), forks)
        hub.workspace, hub.columns = workspace, wiring.columns(workspace)
        url = server.Listen(host=host, port=taken.getsockname()[1], certificate=tls_cert).url
        note(f"serving {fleet.fleet} on {url}; Ctrl-C ends it")
        server.run(build(hub), place, taken)
    note("ended")
