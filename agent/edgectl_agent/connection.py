"""What sources and actions have in common in agent.yaml to reach a server."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

import msgspec

from edgectl_agent.core.errors import ConfigError


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


def host_and_port(url: str) -> tuple[str, int]:
    """Of an MQTT URL that was checked."""
    found = urlsplit(url)
    return found.hostname or "", found.port or (8883 if found.scheme == "mqtts" else 1883)


def check_mqtt(key: str, url: str, user: str, password_file: str, tls: ClientTls) -> None:
    """How this node proves itself to the MQTT broker of a URL that was checked: a password comes with a name, and no
    other machine hears it. Raises `ConfigError`, which begins with the key."""
    secure = urlsplit(url).scheme == "mqtts"
    if bool(user) < bool(password_file):
        raise ConfigError(f"{key}.password_file: expected user as well")
    if password_file and not secure and not loopback(host_and_port(url)[0]):
        raise ConfigError(f"{key}.url: expected mqtts (mqtt on loopback only), found {url!r}: it takes a password")
    if not secure and tls != ClientTls():
        raise ConfigError(f"{key}.tls: expected a url with mqtts, found {url!r}")


def check_pair(key: str, tls: ClientTls) -> None:
    """A certificate comes with its key. Raises `ConfigError`, which begins with the key."""
    if bool(tls.cert) != bool(tls.key):
        raise ConfigError(f"{key}.tls: expected cert and key together, or neither")


def loopback(host: str) -> bool:
    """Whether `host` is this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
