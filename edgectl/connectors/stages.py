"""The way to a node, stage by stage: the first that fails says where the trouble is.

``name`` → ``tcp`` (to the first machine on the way) → ``login`` (host keys and login, jump hosts included) → ``agent``
(its process) → ``answers`` → ``report``. What a way has no use for is left out; a node that nobody can reach has none.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from edgectl_agent.core.messages import Report

from edgectl.connectors import CONNECTORS, Context
from edgectl.connectors.client import NodeClient
from edgectl.connectors.interface import Connector
from edgectl.core.errors import ConfigError, EdgeError, NodeUnreachable, NodeUntrusted
from edgectl.core.why import Step, skipped
from edgectl.inventory.types import Node

Stage = tuple[str, Callable[[], str]]
"""Name, and what does it: returns what was seen. Raises `OSError` or an `EdgeError`."""

CONNECT_S = 10.0


def walk(node: Node, context: Context, heard: Callable[[Report], None]) -> tuple[Step, ...]:
    """Every stage up to the first that fails; `heard` gets the report of a node that gave one. Empty without a way."""
    make = {"local": _local, "ssh": _ssh, "http": _http}.get(str(node.via))
    if make is None:
        return ()
    connector = CONNECTORS[node.via](node, context)
    try:
        return tuple(_walked(node.name, [*make(node, context, connector), *_last(node, connector, heard)]))
    except ConfigError as e:
        return (_failed(node.name, "settings", e),)
    finally:
        connector.close()


def _walked(node: str, stages: list[Stage]) -> Iterator[Step]:
    for i, (stage, look) in enumerate(stages):
        try:
            yield Step(stage=stage, state="ok", detail=look())
        except (OSError, EdgeError) as e:
            at = "trust" if isinstance(e, NodeUntrusted) else stage
            yield _failed(node, at, e)
            yield from skipped([name for name, _ in stages[i + 1 :]], at)
            return


def _failed(node: str, stage: str, e: Exception) -> Step:
    if isinstance(e, EdgeError):
        detail = e.message.removeprefix(f"node {node}: ")  # who reads the steps knows which node
        return Step(stage=stage, state="failed", detail=detail, fix=e.hint or "", exit_code=e.exit_code)
    said = "no answer in time" if isinstance(e, TimeoutError) else getattr(e, "strerror", None) or str(e)
    return Step(stage=stage, state="failed", detail=said.lower(), exit_code=NodeUnreachable.exit_code)


def _last(node: Node, connector: Connector, heard: Callable[[Report], None]) -> list[Stage]:
    def answers() -> str:
        connector.request("GET", "/v1/live", timeout_s=CONNECT_S)
        return "the control API answers"

    def report() -> str:
        found = NodeClient(node.name, connector).status()
        heard(found)
        return f"{found.state}, agent {found.agent}"

    return [("answers", answers), ("report", report)]


def _local(node: Node, context: Context, connector: Connector) -> list[Stage]:
    del node, context, connector
    return []


def _ssh(node: Node, context: Context, connector: Connector) -> list[Stage]:
    from edgectl.connectors.ssh_host import SshHost
    from edgectl.connectors.ssh_reach import reach
    from edgectl.connectors.ssh_target import resolve
    from edgectl.machine import service
    from edgectl.machine.layout import of

    del connector
    way = reach(node, context)
    hops = resolve(node.name, node.connect, context.workspace).hops

    def login() -> str:
        with way.link():
            return f"as {' → '.join(hop.who for hop in hops)}, host keys as pinned"

    def agent() -> str:
        if service.of(SshHost(way), of(node)).running():
            return "its process is there"
        raise NodeUnreachable(f"node {node.name}: the agent does not run", hint=f"edgectl nodes start {node.name}")

    said = "connect.jump" if len(hops) > 1 else "connect.host"
    return [*_socket(hops[0].host, hops[0].port, said), ("login", login), ("agent", agent)]


def _http(node: Node, context: Context, connector: Connector) -> list[Stage]:
    from edgectl.inventory.doors import base_url

    del context, connector
    place = urlsplit(base_url(node))
    return _socket(place.hostname or "", place.port or (443 if place.scheme == "https" else 80))


def _socket(host: str, port: int, said: str = "connect.host") -> list[Stage]:
    def name() -> str:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as e:
            why = str(e.strerror or e).lower()
            raise NodeUnreachable(f"{host} cannot be resolved: {why}", hint=f"see {said} in fleet.yaml") from e
        address = str(found[0][4][0])
        return address if address == host else f"{host} is {address}"

    def tcp() -> str:
        try:
            socket.create_connection((host, port), CONNECT_S).close()
        except OSError as e:
            why = "no answer in time" if isinstance(e, TimeoutError) else str(e.strerror or e).lower()
            hint = f"see that {host} is on and in the network, and that nothing blocks port {port}"
            raise NodeUnreachable(f"{host}:{port}: {why}", hint=hint) from e
        return f"port {port} is open"

    return [("name", name), ("tcp", tcp)]
