"""Sources that listen: others send to the node, by HTTP or syslog."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Annotated, Literal

import msgspec

from edgectl_agent.config.mapping import Column, Fields, PositiveInt
from edgectl_agent.connection import loopback
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.units import size_bytes

Address = Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}$")]
"""``host:port``; an IPv6 address stands in brackets."""

_SD_COLUMN = re.compile(r"sd\.[^ =\]\"]+\.[^ =\]\"]+")

SYSLOG_COLUMNS = (
    "time", "received", "host", "app", "pid", "msgid", "severity", "facility", "msg", "level", "message",
)  # fmt: skip
"""Of a message; ``level`` and ``message`` as a log has them (`LOG_COLUMNS`)."""


class HttpConfig(Fields, frozen=True, kw_only=True, tag_field="type", tag="http"):
    """Take what other programs post to ``/v1/readings`` (`Config.ingest`), as JSON."""

    queue: PositiveInt = 20_000
    """Readings that may wait to be scored; beyond it a request is refused as a whole (429)."""


class SyslogConfig(Fields, frozen=True, kw_only=True, tag_field="type", tag="syslog"):
    """Take syslog messages of RFC 5424. Columns are `SYSLOG_COLUMNS` and ``sd.ID.NAME``."""

    stream: Column = "host"
    time: Column = "time"
    """Or ``received``."""
    listen: Address = "127.0.0.1:5514"
    """Off loopback only with `allow`."""
    transport: Annotated[tuple[Literal["tcp", "udp"], ...], msgspec.Meta(min_length=1)] = ("tcp", "udp")
    allow: tuple[str, ...] = ()
    """Networks whose senders are heard: ``10.2.0.0/16``."""
    connections: PositiveInt = 64
    max_message: str = "64k"
    buffer: str = "4M"
    """Memory for messages that wait to be scored."""


def check_syslog(key: str, source: SyslogConfig) -> None:
    """That messages have the columns, and who may send is said. Raises `ConfigError`."""
    if source.time not in ("time", "received"):
        raise ConfigError(f"{key}.time: expected time or received, found {source.time!r}")
    stream = [] if source.stream.startswith("=") else [source.stream]
    for column in [*stream, *source.channels.values(), *source.categories.values()]:
        if column not in SYSLOG_COLUMNS and not _SD_COLUMN.fullmatch(column):
            known = ", ".join(SYSLOG_COLUMNS)
            raise ConfigError(f"{key}: expected one of {known} or sd.ID.NAME as a column, found {column!r}")
    if size_bytes(source.max_message) > 1 << 20:
        raise ConfigError(f"{key}.max_message: expected at most 1MiB, found {source.max_message!r}")
    for i, network in enumerate(source.allow):
        try:
            ip_network(network)
        except ValueError as e:
            raise ConfigError(f"{key}.allow[{i}]: expected a network such as 10.2.0.0/16: {e}") from None
    try:
        ip_address(split_address(source.listen)[0])
    except ValueError:
        raise ConfigError(f"{key}.listen: expected an IP address and a port, found {source.listen!r}") from None
    check_listen(key, source.listen, bool(source.allow), "allow, the networks of its senders")


def split_address(listen: str) -> tuple[str, int]:
    """(host, port) of an `Address`, without brackets."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(listen: str) -> bool:
    """Whether only this machine can connect to it."""
    return loopback(split_address(listen)[0])


def check_listen(key: str, listen: str, guarded: bool, needs: str) -> None:
    """A port to listen on; off loopback only if it is `guarded` by what it `needs`: a key, and why or what that is."""
    if split_address(listen)[1] > 65535:
        raise ConfigError(f"{key}.listen: expected a port of at most 65535, found {listen!r}")
    if not guarded and not is_loopback(listen):
        raise ConfigError(f"{key}.listen: {listen} is not loopback: expected {key}.{needs}")
