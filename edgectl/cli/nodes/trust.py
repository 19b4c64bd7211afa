"""Whom to trust: pin."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.nodes.app import Name, app
from edgectl.cli.output import (
    Column,
    Format,
    FormatOption,
    Settings,
    YesOption,
    confirm,
    emit,
    interactive,
    note,
    settings,
)
from edgectl.core.errors import NodeUntrusted, UsageError

if TYPE_CHECKING:
    from edgectl.enrolment.pinning import HostKey


@app.command(short_help="Pin the SSH host keys of a node and its jump hosts.")
def pin(
    ctx: typer.Context,
    name: Name,
    fingerprint: Annotated[
        list[str] | None,
        typer.Option(help="SHA256:… that the key must have; repeatable, where jump hosts are pinned too."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Pin a key that has changed, too.")] = False,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Pin the SSH host key of a node, and those of its jump hosts, in the workspace's known_hosts."""
    from edgectl.enrolment import pinning

    said = settings(ctx)
    workspace = said.workspace
    node = wiring.inventory(workspace).node(name)
    if node.via == "local":
        raise UsageError(f"{name} is a process on this machine and has no host key")
    with workspace.lock(f"nodes pin {name}"):
        reach = wiring.ssh_reach(workspace, wiring.inventory(workspace), node)
        found = pinning.pin(reach, _decision(name, fingerprint or [], yes, said), replace)
    columns = (
        Column("HOST", "host"),
        Column("KEY", "kind"),
        Column("FINGERPRINT", "fingerprint"),
        Column("STATE", "state"),
    )
    emit(found, columns, output, name="fingerprint", empty="nothing was pinned")


def _decision(name: str, expected: list[str], yes: bool, said: Settings) -> Callable[[HostKey], bool]:
    def decide(key: HostKey) -> bool:
        shown = f"{key.host} shows {key.kind} {key.fingerprint}"
        if expected:
            if key.fingerprint not in expected:
                raise NodeUntrusted(
                    f"node {name}: {shown}, expected {' or '.join(expected)}; nothing was pinned",
                    hint="compare it on the machine's console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
                )
            return True
        if not yes and not interactive(said):
            raise UsageError(
                f"node {name}: {shown}, and nobody is here to compare it",
                hint=f"edgectl nodes pin {name} --fingerprint {key.fingerprint}, or --yes",
            )
        note(f"{shown}{f'; pinned so far: {key.was}' if key.was else ''}")
        return confirm(f"Is this the key of {key.host}?", yes=yes, settings=said)

    return decide
