"""What sources and actions have in common in agent.yaml to reach a server."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

import msgspec


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Immutable; refuses what it does not know."""


class ClientTls(Strict, frozen=True, kw_only=True):
    """How a server is trusted, and how this node proves itself; PEM files."""

    ca_file: str = ""
    """Default: the system's authorities."""
    cert: str = ""
    key: str = ""


def parts(url: str, *schemes: str) -> SplitResult | None:
    """A URL in parts; None if it has none of the schemes, no host, or a port that is none."""
    try:
        found = urlsplit(url)
        return found if found.scheme in schemes and found.hostname and found.port != 0 else None
    except ValueError:
        return None


def loopback(host: str) -> bool:
    """Whether `host` is this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
