"""Appends a line per alert to a file for programs beside the agent."""

from __future__ import annotations

from pathlib import Path

from edgectl_agent.action_config import FileAction
from edgectl_agent.actions.exactfile import open_exact
from edgectl_agent.actions.interface import EffectFailed, Effector
from edgectl_agent.core.template import Payload, Values
from edgectl_agent.linefile import Lines


class FileEffector(Effector):
    """See the module."""

    def __init__(self, config: FileAction) -> None:
        self._payload, self._lines = Payload.parse(config.payload), Lines(Path(config.path), opening=open_exact)

    def describe(self, values: Values) -> str:
        return f"append to {self._lines.path}: {self._line(values).decode().strip()}"

    def run(self, values: Values, key: str, allowed: frozenset[str]) -> None:
        try:
            self._lines.append(self._line(values))
        except OSError as e:
            raise EffectFailed(f"{self._lines.path} cannot be written: {e.strerror or e}") from e

    def _line(self, values: Values) -> bytes:
        return b" ".join(self._payload.render(values).splitlines()) + b"\n"
