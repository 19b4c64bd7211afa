"""Ways to reach a node: one file each, and this table. `edgectl.inventory.types.Via` names the same keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgectl.connectors.interface import Connector
from edgectl.connectors.local import LocalConnector

CONNECTORS: dict[str, Callable[[str, Path], Connector]] = {"local": LocalConnector}
"""``connect.via`` → connector of (node's name, its folder in the workspace)."""
