"""What the shell offers while a command is typed; it must never fail at the prompt."""

from __future__ import annotations

from collections.abc import Callable

import typer

from edgectl.cli import wiring
from edgectl.cli.output import settings
from edgectl.core.errors import EdgeError


def among(attribute: str) -> Callable[[typer.Context, str], list[str]]:
    """Names of fleet.yaml: ``names``, ``sites`` or ``profiles``."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            known: tuple[str, ...] = getattr(wiring.inventory(settings(ctx).workspace), attribute)
        except EdgeError:
            return []
        return [name for name in known if name.startswith(incomplete)]

    return complete


def kinds(incomplete: str) -> list[str]:
    """How a ``--source`` may go on behind its name."""
    from edgectl.inventory.shorthand import SOURCES

    name, equals, begun = incomplete.partition("=")
    return [f"{name}={kind}" for kind in SOURCES if kind.startswith(begun)] if name and equals else []
