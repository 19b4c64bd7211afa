"""The application that the verbs of `edgectl nodes` register with, and what they share."""

from __future__ import annotations

from typing import Annotated

import typer

from edgectl.cli.completing import among

app = typer.Typer(add_completion=False, no_args_is_help=True)


Site = Annotated[str, typer.Option(help="A site of fleet.yaml.", autocompletion=among("sites"))]
Profile = Annotated[
    list[str] | None,
    typer.Option(help="A profile of fleet.yaml; repeatable.", autocompletion=among("profiles")),
]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="NAME", help="Names of nodes.", autocompletion=among("names"))
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The node's name.", autocompletion=among("names"))]
