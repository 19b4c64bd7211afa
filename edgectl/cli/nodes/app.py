"""The application that the verbs of `edgectl nodes` register with, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.output import settings
from edgectl.core.errors import EdgeError

app = typer.Typer(add_completion=False, no_args_is_help=True)


def _among(attribute: str) -> Callable[[typer.Context, str], list[str]]:
    """Names of fleet.yaml for the shell; it must never fail at the prompt."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            known: tuple[str, ...] = getattr(wiring.inventory(settings(ctx).workspace), attribute)
        except EdgeError:
            return []
        return [name for name in known if name.startswith(incomplete)]

    return complete


Site = Annotated[str, typer.Option(help="A site of fleet.yaml.", autocompletion=_among("sites"))]
Profile = Annotated[
    list[str] | None,
    typer.Option(help="A profile of fleet.yaml; repeatable.", autocompletion=_among("profiles")),
]
Name = Annotated[str, typer.Argument(help="The node's name.", autocompletion=_among("names"))]
