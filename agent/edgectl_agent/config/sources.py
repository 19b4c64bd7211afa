"""All sources, and what must hold of any: each kind's own rules are beside it."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo

from edgectl_agent.config.asked import HostMetricsConfig, OpcuaConfig, check_opcua
from edgectl_agent.config.brokers import KafkaConfig, MqttConfig, check_kafka, check_mqtt_source, wanted
from edgectl_agent.config.files import Mapping, ReplayConfig, StdinConfig, TailConfig, check_log
from edgectl_agent.config.mapping import Fields
from edgectl_agent.config.senders import HttpConfig, SyslogConfig, check_syslog
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.units import duration_ns, size_bytes

SourceConfig = (
    TailConfig
    | ReplayConfig
    | HostMetricsConfig
    | HttpConfig
    | KafkaConfig
    | MqttConfig
    | StdinConfig
    | SyslogConfig
    | OpcuaConfig
)

EXTRAS = {"kafka": "kafka", "mqtt": "mqtt", "opcua": "opcua"}
"""Source types that need an extra of this distribution, and which."""

LEAST_LETTERS = "64k"

SOURCE_QUANTITIES: dict[type, tuple[tuple[str, Callable[[str], int], str], ...]] = {
    HostMetricsConfig: (("every", duration_ns, "100ms"),),
    KafkaConfig: (("buffer", size_bytes, "2M"), ("session", duration_ns, "1s")),
    MqttConfig: (("buffer", size_bytes, "2M"), ("session", duration_ns, "1m")),
    OpcuaConfig: (("buffer", size_bytes, "64k"), ("every", duration_ns, "10ms")),
    StdinConfig: (("buffer", size_bytes, "64k"),),
    SyslogConfig: (("buffer", size_bytes, "64k"), ("max_message", size_bytes, "480")),
}
"""Of a source: key, how to read it, least allowed."""


def check_source(key: str, source: SourceConfig) -> None:
    """What the types alone cannot say."""
    if isinstance(source, ReplayConfig):
        speed = source.speed
        if speed != "max" and (isinstance(speed, str) or not 0 < speed < float("inf")):
            raise ConfigError(f"{key}.speed: expected a factor above 0 or max, found {speed!r}")
    if isinstance(source, TailConfig) and source.history and source.start == "end":
        raise ConfigError(f"{key}.history: expected only with from: start, found from: end")
    if isinstance(source, OpcuaConfig):
        check_opcua(key, source)
    if not isinstance(source, Fields):
        return
    _check_columns(key, source)
    if isinstance(source, KafkaConfig):
        check_kafka(key, source)
    if isinstance(source, MqttConfig):
        check_mqtt_source(key, source)
    if isinstance(source, SyslogConfig):
        check_syslog(key, source)
    try:
        ZoneInfo(source.zone)
    except (KeyError, ValueError, OSError):
        expected = "expected a name such as Europe/Paris"
        raise ConfigError(f"{key}.zone: {source.zone!r} is not a time zone, {expected}") from None


def _check_columns(key: str, source: Fields) -> None:
    """Each column is one thing: a time is no channel, and a JSON path does not lead through a number."""
    if source.stream == "=":
        raise ConfigError(f"{key}.stream: '=' names no stream, expected a column or =name")
    if isinstance(source, Mapping | StdinConfig):
        try:
            check_log(source)
        except ConfigError as e:
            raise ConfigError(f"{key}.{e.message}") from e
    flat = isinstance(source, Mapping | KafkaConfig | MqttConfig | StdinConfig) and source.format in ("csv", "log")
    if not source.channels and not source.categories:
        raise ConfigError(f"{key}: expected at least one of channels and categories, found none")
    _check_units(key, source)
    columns = wanted(source)
    for column in columns:
        if columns.count(column) > 1:
            raise ConfigError(f"{key}: column {column!r} is used twice")
        longer = next((c for c in columns if not flat and c.startswith(f"{column}.")), None)
        if longer:
            raise ConfigError(f"{key}: column {column!r} is also the path {longer!r}")


def _check_units(key: str, source: Fields) -> None:
    for name, said, among in (
        ("units", source.units, source.channels),
        ("unit_columns", source.unit_columns, source.units),
    ):
        for channel in said:
            if channel not in among:
                expected = ", ".join(among) or "none"
                raise ConfigError(f"{key}.{name}.{channel}: expected one of {expected}, found {channel!r}")
    if source.unit_columns and (isinstance(source, SyslogConfig) or getattr(source, "format", "") == "log"):
        raise ConfigError(f"{key}.unit_columns: expected none, log messages carry no units")
