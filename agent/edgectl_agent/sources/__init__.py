"""The sources by their type's name in agent.yaml; a new one is one file, one config Struct and one entry here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgectl_agent.config import SourceConfig
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.sources.interface import Source


def _tail(config: Any, node: str, name: str) -> Source:
    from edgectl_agent.sources.tail import TailSource

    return TailSource(config)


def _replay(config: Any, node: str, name: str) -> Source:
    from edgectl_agent.sources.replay import ReplaySource

    return ReplaySource(config)


def _host_metrics(config: Any, node: str, name: str) -> Source:
    from edgectl_agent.sources.host_metrics import HostMetricsSource

    return HostMetricsSource(config, node)


def _http(config: Any, node: str, name: str) -> Source:
    from edgectl_agent.sources.http import HttpSource

    return HttpSource(config)


def _kafka(config: Any, node: str, name: str) -> Source:
    try:
        from edgectl_agent.sources.kafka import KafkaSource
    except ModuleNotFoundError as e:
        raise ConfigError(
            f"sources.{name}: type kafka needs {e.name}, which is not installed",
            hint="pip install 'edgectl-agent[kafka]'",
        ) from e
    return KafkaSource(config, f"{node}.{name}")


SOURCES: dict[str, Callable[[Any, str, str], Source]] = {
    "tail": _tail,
    "replay": _replay,
    "host-metrics": _host_metrics,
    "http": _http,
    "kafka": _kafka,
}


def build(config: SourceConfig, node: str, name: str) -> Source:
    """The source that `config` describes, not yet open; `name` is its name on this node.

    Raises `ConfigError` for a type that is not known here, or whose library is not installed.
    """
    kind = str(config.__struct_config__.tag)
    if kind not in SOURCES:
        raise ConfigError(f"source type {kind!r} is not known, expected one of {', '.join(SOURCES)}")
    return SOURCES[kind](config, node, name)
