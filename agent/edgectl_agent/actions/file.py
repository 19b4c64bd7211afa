"""Appends a line per alert to a file for programs beside the agent."""

from __future__ import annotations

from pathlib import Path

from edgectl_agent.action_config import FileAction
from edgectl_agent.actions.exactfile import open_exact
from edgectl_agent.actions.interface import EffectFailed, Effector
from edgectl_agent.core.template import Payload, Values
from edgectl_agent.linefile import Lines

_CONTROL = bytes(0x20 if c < 0x20 or c == 0x7F else c for c in range(256))
"""A terminal that shows the file must not be steered by what a stream is called."""


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
        line = b" ".join(self._payload.render(values).splitlines())
        return line.translate(_CONTROL) + b"\n"
