"""Certificates for nodes whose machine is managed where it lives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.nodes.app import Name, app
from edgectl.cli.output import Format, FormatOption, emit_done, settings


@app.command(short_help="Sign a request by hand: certificate, agent.yaml, trust.")
def certify(
    ctx: typer.Context,
    name: Name,
    csr: Annotated[Path, typer.Option("--csr", help="What `edgectl-agent csr` printed on the node.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the node's files (default: ./NAME).")] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Sign a node's request: its certificate, agent.yaml and whom it trusts, to be copied there by hand."""
    from edgectl.enrolment import certifying
    from edgectl.machine.layout import of

    workspace = settings(ctx).workspace
    fleet = wiring.inventory(workspace)
    node = fleet.node(name)
    folder = out or Path(name)
    with workspace.lock(f"nodes certify {name}"):
        root = wiring.repository(workspace, fleet).root_bytes()
        made = certifying.by_hand(
            node, workspace, wiring.columns(workspace), root, wiring.authority(workspace, fleet), csr, wiring.now()
        )
        certifying.save(made, folder)
    layout = of(node)
    copies = [{"from": str(folder / file), "to": layout.path(file)} for file in made]
    text = "\n".join(f"copy {copy['from']} to {copy['to']}" for copy in copies)
    emit_done({"name": name, "copy": copies}, output, text)
