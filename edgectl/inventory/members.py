"""Reads the other files that fleet.yaml takes nodes from: Ansible inventories and tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgectl.core.errors import ConfigError
from edgectl.inventory.types import NodeEntry


class Files:
    """Files below `folder`, as `edgectl.inventory.layers.Members`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, entry: NodeEntry) -> Iterable[tuple[NodeEntry, str]]:
        raise ConfigError(f"{entry.origin}: cannot be read yet")
