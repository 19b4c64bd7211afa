"""Builds the agent's wheel into edgectl's own, so that an installed `edgectl` can install agents without a clone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.wheel import WheelBuilder


class AgentWheel(BuildHookInterface[Any]):
    """Adds `edgectl/_wheels/edgectl_agent-*.whl` and the tested versions to a standard (not editable) wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before the wheel is written."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        builder = WheelBuilder(str(Path(self.root) / "agent"))
        for wheel in builder.build(directory=self._folder.name, versions=["standard"]):
            build_data["force_include"][wheel] = f"edgectl/_wheels/{Path(wheel).name}"
        build_data["force_include"][str(Path(self.root) / "constraints.txt")] = "edgectl/_wheels/constraints.txt"
