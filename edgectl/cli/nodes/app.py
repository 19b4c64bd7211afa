"""The application that the verbs of `edgectl nodes` register with, and what they share."""

from __future__ import annotations

from typing import Annotated

import typer

from edgectl.cli import wiring
from edgectl.cli.output import settings
from edgectl.core.errors import EdgeError

app = typer.Typer(add_completion=False, no_args_is_help=True)


def _complete(ctx: typer.Context, incomplete: str) -> list[str]:
    """Node names for the shell; it must never fail at the prompt."""
    try:
        return [name for name in wiring.inventory(settings(ctx).workspace).names if name.startswith(incomplete)]
    except EdgeError:
        return []


Name = Annotated[str, typer.Argument(help="The node's name.", autocompletion=_complete)]
