"""The actions by their type's name in agent.yaml; a new one is one file, one config Struct and one entry here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgectl_agent.actions.interface import Action
from edgectl_agent.actions.log import LogAction
from edgectl_agent.config import LogAction as LogActionConfig
from edgectl_agent.core.errors import ConfigError

ACTIONS: dict[str, Callable[[LogActionConfig, Path], Action]] = {
    "log": lambda config, folder: LogAction(Path(config.path) if config.path else folder / "actions.jsonl"),
}


def build(config: LogActionConfig, folder: Path) -> Action:
    """The action that `config` describes; `folder` is the agent's data folder. Raises `ConfigError` if unknown."""
    kind = str(config.__struct_config__.tag)
    if kind not in ACTIONS:
        raise ConfigError(f"action type {kind!r} is not known, expected one of {', '.join(ACTIONS)}")
    return ACTIONS[kind](config, folder)
