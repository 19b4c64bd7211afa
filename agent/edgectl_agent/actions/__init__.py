"""The actions by their type's name in agent.yaml; a new one is one file, one config Struct and one entry here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgectl_agent.action_config import LogAction as LogActionConfig
from edgectl_agent.action_config import names
from edgectl_agent.actions.interface import Action, Effector
from edgectl_agent.actions.log import LogAction
from edgectl_agent.actions.responder import Responder
from edgectl_agent.config import Config
from edgectl_agent.core.errors import ConfigError


def build(config: LogActionConfig, folder: Path) -> Action:
    """The action that `config` describes; `folder` is the agent's data folder."""
    return LogAction(Path(config.path) if config.path else folder / "actions.jsonl")


def _mqtt(config: Any, node: str, name: str, key: str) -> Effector:
    try:
        from edgectl_agent.actions.mqtt import MqttEffector
    except ModuleNotFoundError as e:
        if e.name is None or e.name.partition(".")[0] != "paho":
            raise
        raise ConfigError(f"{key}: type mqtt needs the extra mqtt", hint="pip install 'edgectl-agent[mqtt]'") from None
    return MqttEffector(config, node, name, key)


def _webhook(config: Any, node: str, name: str, key: str) -> Effector:
    from edgectl_agent.actions.webhook import WebhookEffector

    return WebhookEffector(config, key)


def _exec(config: Any, node: str, name: str, key: str) -> Effector:
    from edgectl_agent.actions.process import ExecEffector

    return ExecEffector(config)


def _file(config: Any, node: str, name: str, key: str) -> Effector:
    from edgectl_agent.actions.file import FileEffector

    return FileEffector(config)


EFFECTORS: dict[str, Callable[[Any, str, str, str], Effector]] = {
    "exec": _exec,
    "file": _file,
    "mqtt": _mqtt,
    "webhook": _webhook,
}


def effects(config: Config, clock: Callable[[], int]) -> tuple[Responder, ...]:
    """What of `config.actions` reaches beyond the agent; nothing is opened yet. Raises `ConfigError`."""
    found = []
    for i, (action, name) in enumerate(zip(config.actions, names(config.actions), strict=True)):
        if not isinstance(action, LogActionConfig):
            effector = EFFECTORS[str(action.__struct_config__.tag)](action, config.node, name, f"actions[{i}]")
            found.append(Responder(action, name, effector, config.folder / "actions" / f"{name}.jsonl", clock))
    return tuple(found)
