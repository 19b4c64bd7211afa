"""The sources by their type's name in agent.yaml; a new one is one file, one config Struct and one entry here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    with _library(name, "kafka", "confluent_kafka"):
        from edgectl_agent.sources.kafka import KafkaSource
    return KafkaSource(config, f"{node}.{name}")


def _mqtt(config: Any, node: str, name: str) -> Source:
    with _library(name, "mqtt", "paho"):
        from edgectl_agent.sources.mqtt import MqttSource
    return MqttSource(config, node, name)


def _stdin(config: Any, node: str, name: str) -> Source:
    from edgectl_agent.sources.stdin import StdinSource

    return StdinSource(config)


def _syslog(config: Any, node: str, name: str) -> Source:
    from edgectl_agent.sources.syslog import SyslogSource

    return SyslogSource(config)


def _opcua(config: Any, node: str, name: str) -> Source:
    with _library(name, "opcua", "asyncua"):
        from edgectl_agent.sources.opcua import OpcuaSource
    return OpcuaSource(config, f"{node}.{name}")


@contextmanager
def _library(name: str, extra: str, module: str) -> Iterator[None]:
    """Around the import of a source that needs an optional library. Raises `ConfigError` where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] != module:
            raise
        raise ConfigError(
            f"sources.{name}: type {extra} needs {module}, which is not installed",
            hint=f"pip install 'edgectl-agent[{extra}]'",
        ) from e


SOURCES: dict[str, Callable[[Any, str, str], Source]] = {
    "tail": _tail,
    "replay": _replay,
    "host-metrics": _host_metrics,
    "http": _http,
    "kafka": _kafka,
    "mqtt": _mqtt,
    "opcua": _opcua,
    "stdin": _stdin,
    "syslog": _syslog,
}


def build(config: SourceConfig, node: str, name: str) -> Source:
    """The source that `config` describes, not yet open; `name` is its name on this node.

    Raises `ConfigError` for a type that is not known here, or whose library is not installed.
    """
    kind = str(config.__struct_config__.tag)
    if kind not in SOURCES:
        raise ConfigError(f"source type {kind!r} is not known, expected one of {', '.join(SOURCES)}")
    return SOURCES[kind](config, node, name)
