"""Reads fleet.yaml. Each error is one sentence with the file and the path of the key."""

from __future__ import annotations

from pathlib import Path

from edgectl_agent import yamlfile

from edgectl.core.errors import ConfigError
from edgectl.inventory.layers import settle
from edgectl.inventory.types import FleetFile, Inventory


def parse(text: str, name: str = "fleet.yaml") -> Inventory:
    """The fleet that `text` describes; `name` is the file as messages should call it.

    Raises:
        ConfigError: not YAML, an unknown, missing or doubled key, a wrong type, a value that makes no sense.
    """
    return _settled(yamlfile.parse(text, FleetFile, name), name)


def load(path: Path) -> Inventory:
    """Read `path`. Raises `ConfigError` as `parse` does, and for a missing or unreadable file."""
    return _settled(yamlfile.load(path, FleetFile), path.name)


def _settled(file: FleetFile, name: str) -> Inventory:
    try:
        return settle(file)
    except ConfigError as e:
        raise ConfigError(f"{name}: {e.message}", hint=e.hint) from e
