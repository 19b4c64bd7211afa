"""The ports that a node opens, as its agent.yaml has them, and whether they need a certificate. Pure.

A node that is reached by HTTP listens for operators at the port of its URL, with a certificate of the fleet's own.
Where the URL is plain HTTP, something leads to its loopback and nothing is opened. Off loopback, ingest needs a
certificate too.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from edgectl_agent.config import is_loopback, split_address

from edgectl.core.errors import ConfigError
from edgectl.inventory.types import HttpEntry, Node

PORT = 8710
"""Where an agent listens for operators unless fleet.yaml says otherwise."""
CERTIFICATE, KEY, OPERATORS = "tls/node.crt", "tls/node.key", "tls/operators-ca.crt"
"""Names of a node's files, as `edgectl.machine.layout.Layout.path` takes them."""


def base_url(node: Node) -> str:
    """The URL of a node's control API, without a slash at its end; by default at `PORT` of its host.

    Raises:
        ConfigError: ``connect.url`` is none, has a path, or is plain HTTP off loopback.
    """
    url, host = node.connect.url, node.connect.host
    if not url:
        return f"https://{f'[{host}]' if ':' in host else host}:{PORT}"
    where = f"node {node.name}: connect.url"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise ConfigError(f"{where}: {url!r} is not a URL: {e}") from e
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ConfigError(f"{where}: expected https://host:port, found {url!r}")
    if parts.scheme == "http" and not is_loopback(f"[{parts.hostname}]:{port or 80}"):
        hint = "say https, or open a tunnel and name its end on 127.0.0.1"
        raise ConfigError(f"{where}: plain http is for loopback only, found {url!r}", hint=hint)
    return url.rstrip("/")


def open_to_operators(node: Node) -> bool:
    """Whether its control API listens off loopback, with mutual TLS."""
    return node.via == "http" and base_url(node).startswith("https:")


def certified(node: Node) -> bool:
    """Whether the node needs a certificate of the fleet."""
    return open_to_operators(node) or not is_loopback(node.agent.ingest)


def names(node: Node) -> tuple[str, ...]:
    """Host names and addresses, beside its own name, that a node's certificate must be good for."""
    found = [node.connect.host]
    if open_to_operators(node):
        found.append(urlsplit(base_url(node)).hostname or "")
    if node.agent.ingest:
        found.append(split_address(node.agent.ingest)[0])
    unspecified = ("", node.name, "0.0.0.0", "::")
    return tuple(dict.fromkeys(name for name in found if name not in unspecified))


def settings(node: Node, folder: str) -> dict[str, Any]:
    """``api`` and, where a source needs it, ``ingest`` of agent.yaml; `folder` is that of agent.yaml on the node.

    Raises:
        ConfigError: as `base_url`; a local node would need a certificate.
    """
    if node.via == "local" and certified(node):
        raise ConfigError(
            f"node {node.name}: agent.ingest: a local node takes readings on loopback, found {node.agent.ingest!r}",
            hint="certificates are issued to machines that are reached by ssh or http",
        )
    pair = {"cert": f"{folder}/{CERTIFICATE}", "key": f"{folder}/{KEY}"}
    found: dict[str, Any] = {"api": {"listen": node.agent.listen}}
    if open_to_operators(node):
        url = urlsplit(base_url(node))
        every = "[::]" if ":" in (url.hostname or "") else "0.0.0.0"
        found["api"] = {"listen": f"{every}:{url.port or 443}", "tls": pair | {"client_ca": f"{folder}/{OPERATORS}"}}
    if any(isinstance(source, HttpEntry) for source in node.sources.values()):
        found["ingest"] = {"listen": node.agent.ingest}
        if not is_loopback(node.agent.ingest):
            found["ingest"]["tls"] = pair
    return found
