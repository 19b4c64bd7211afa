"""`edgectl help` and `edgectl completion`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from edgectl.cli.output import Column, Format, FormatOption, emit, write
from edgectl.core.errors import EXIT_CODES

app = typer.Typer(add_completion=False, no_args_is_help=True)


class Shell(StrEnum):
    """Shells that can complete edgectl's commands."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.callback()
def topics() -> None:
    """Explain what is the same in every command."""


@app.command("exit-codes")
def exit_codes(output: FormatOption = Format.TABLE) -> None:
    """What each exit code of edgectl means."""
    rows = [{"code": code, "meaning": meaning} for code, meaning in EXIT_CODES.items()]
    emit(rows, (Column("CODE", "code", right=True), Column("MEANING", "meaning")), output, name="code")


@app.command("fleet.yaml")
def fleet_yaml() -> None:
    """Print an example fleet.yaml with every key explained."""
    from edgectl.inventory.example import text

    write(text().rstrip("\n"))


@app.command("recipe.yaml")
def recipe_yaml() -> None:
    """Print an example recipe with every key explained."""
    from edgectl.inventory.example import RECIPE, text

    write(text(RECIPE).rstrip("\n"))


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="Your shell: bash, zsh or fish.")]) -> None:
    """Print the completion script for a shell, as in: source <(edgectl completion bash)."""
    from typer._completion_shared import get_completion_script

    write(get_completion_script(prog_name="edgectl", complete_var="_EDGECTL_COMPLETE", shell=shell.value))
