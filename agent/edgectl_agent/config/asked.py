"""Sources that ask machines: this one, and servers of OPC UA."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from edgectl_agent.config.mapping import Column, DeadLetter
from edgectl_agent.connection import Strict, parts
from edgectl_agent.core.errors import ConfigError

_NODE_ID = re.compile(r"(?:ns=\d{1,5};)?(?:i=\d{1,10}|s=.+|g=[0-9A-Fa-f-]{36}|b=[A-Za-z0-9+/=]+)")

HOST_CHANNELS = ("cpu", "memory", "disk_read", "disk_write", "net_rx", "net_tx", "load1")
"""What host-metrics measures: percent, percent, bytes/s (four times), and the run queue over one minute."""


class HostMetricsConfig(Strict, frozen=True, kw_only=True, tag_field="type", tag="host-metrics"):
    """This machine's own CPU, memory, disk, network and load."""

    every: str = "10s"
    stream: str = ""
    """Defaults to the node's name."""
    dead_letter: DeadLetter = DeadLetter(limit="0")


class OpcuaConfig(Strict, frozen=True, kw_only=True, tag_field="type", tag="opcua"):
    """Subscribe to nodes of an OPC UA server."""

    url: str
    """``opc.tcp://HOST[:4840][/PATH]``"""
    streams: Annotated[
        dict[Annotated[str, msgspec.Meta(min_length=1, max_length=200)], dict[str, Column]], msgspec.Meta(min_length=1)
    ]
    """Stream → channel → node id, as OPC UA writes it: ``ns=2;s=Press3.Vib``, ``i=2258``."""
    every: str = "1s"
    """How often the server shall look at the nodes and report."""
    queue: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    """Values of a node that the server shall keep between two reports."""
    live: bool = True
    """Source times are the present: a reading from the future is refused. ``false`` for simulated time."""
    buffer: str = "4M"
    """Memory for readings that wait to be scored."""
    dead_letter: DeadLetter = DeadLetter()

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(channel for nodes in self.streams.values() for channel in nodes))


def check_opcua(key: str, source: OpcuaConfig) -> None:
    """That the server can be asked, and each node is one channel. Raises `ConfigError`."""
    found = parts(source.url, "opc.tcp")
    if found is None:
        raise ConfigError(f"{key}.url: expected a URL such as opc.tcp://plc-3.acme.example:4840, found {source.url!r}")
    if found.username or found.password:
        raise ConfigError(f"{key}.url: expected no user or password in it: this source connects anonymously")
    seen: dict[str, str] = {}
    for stream, nodes in source.streams.items():
        if not nodes:
            raise ConfigError(f"{key}.streams.{stream}: expected at least one channel with its node id, found none")
        for channel, node in nodes.items():
            where = f"{key}.streams.{stream}.{channel}"
            if not _NODE_ID.fullmatch(node):
                raise ConfigError(f"{where}: expected a node id such as ns=2;s=Press3.Vib or i=2258, found {node!r}")
            if node in seen:
                raise ConfigError(f"{where}: node {node!r} is {seen[node]} already")
            seen[node] = f"streams.{stream}.{channel}"
