"""The fully commented fleet.yaml that edgectl carries."""

from __future__ import annotations

from pathlib import Path

from edgectl.core.errors import ConfigError

NAME = "fleet.yaml.example"


def text() -> str:
    """Its text: package data when installed, beside the package in a clone. Raises `ConfigError` if it is neither."""
    package = Path(__file__).parents[1]
    for folder in (package / "_models", package.parent):
        if (folder / NAME).is_file():
            return (folder / NAME).read_text(encoding="utf-8")
    raise ConfigError(f"this installation lacks {NAME}", hint="install edgectl again")
