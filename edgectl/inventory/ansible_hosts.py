"""An Ansible host as an entry of fleet.yaml: how it is reached, its groups and its site. Pure.

What edgectl has no use for is left out; what it needs and cannot read is refused with the name of host and variable.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from edgectl.core.errors import ConfigError
from edgectl.inventory.ansible import Host, Sealed

_CONNECT = {  # the last name that a host has wins, as in Ansible
    "host": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "key": ("ansible_private_key_file", "ansible_ssh_private_key_file"),
}
_ARGUMENTS = ("ansible_ssh_common_args", "ansible_ssh_extra_args")
_BY_SSH = ("ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh", "ansible.netcommon.libssh")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def entry(host: Host, site_from: str = "") -> dict[str, Any]:
    """The entry of `host`; `site_from` names the variable that holds its site.

    Raises:
        ConfigError: it is not reached by SSH, a value is vaulted, templated or of a wrong type, a proxy command that is
            no jump host, no such variable.
    """
    way = _text(host, "ansible_connection") or "ssh"
    if way not in _BY_SSH:
        raise ConfigError(f"host {host.name!r}: ansible_connection is {way!r}, expected ssh", hint=_leave_out(host))
    connect: dict[str, Any] = {}
    for key, names in _CONNECT.items():
        for name in names:
            value = _text(host, name)
            if value:
                connect[key] = _number(host, name, value) if key == "port" else value
    for name in _ARGUMENTS:
        for jump in _jumps(host, name):
            connect["jump"] = jump
    groups = [group for group in host.groups if _GROUP.fullmatch(group)]
    found: dict[str, Any] = {"name": host.name}
    if site_from:
        found["site"] = _text(host, site_from)
        if not found["site"]:
            raise ConfigError(
                f"host {host.name!r}: it has no variable {site_from!r} for its site", hint=_leave_out(host)
            )
    return found | ({"groups": groups} if groups else {}) | ({"connect": connect} if connect else {})


def _text(host: Host, name: str) -> str:
    value = host.variables.get(name)
    if isinstance(value, Sealed):
        raise ConfigError(
            f"host {host.name!r}: {name} is {value.how}, which only Ansible can read",
            hint=f"write its value there, or {_leave_out(host)}",
        )
    if value is None or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ConfigError(f"host {host.name!r}: {name}: expected text, found {type(value).__name__}")
    return str(value)


def _number(host: Host, name: str, text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ConfigError(f"host {host.name!r}: {name}: expected a port from 1 to 65535, found {text!r}")
    return int(text)


def _leave_out(host: Host) -> str:
    return f"leave the host out with exclude: [{host.name}]"


def _jumps(host: Host, name: str) -> Iterator[str]:
    """Jump hosts that SSH arguments name; other arguments say nothing about the way to the host."""
    try:
        words = shlex.split(_text(host, name))
    except ValueError as e:
        raise ConfigError(f"host {host.name!r}: {name}: {str(e).lower()}") from e
    options = iter(words)
    for word in options:
        if word.startswith("-J"):
            yield word[2:] or next(options, "")
        elif word.startswith("-o"):
            key, value = _option(word[2:] or next(options, ""))
            if key == "proxyjump" and value.lower() != "none":
                yield value
            elif key == "proxycommand" and value.lower() != "none":
                yield _through(host, name, value)


def _option(text: str) -> tuple[str, str]:
    key, _, value = re.sub(r"^\s*(\w+)\s*[=\s]\s*", r"\1=", text).partition("=")
    return key.lower(), value.strip().strip("\"'")


def _through(host: Host, name: str, command: str) -> str:
    """``ssh -W %h:%p -q user@bastion -p 2222`` → ``user@bastion:2222``."""
    words = shlex.split(command)
    target, flags = "", {}
    rest = iter(words[1:])
    for word in rest:
        if word[:2] in ("-W", "-p", "-l", "-o", "-i", "-F"):
            flags[word[:2]] = word[2:] or next(rest, "")
        elif not word.startswith("-") and not target:
            target = word
    tunnel = flags.get("-W", "").strip("[]") in ("%h:%p", "%h]:%p")
    if not words or PurePosixPath(words[0]).name != "ssh" or not tunnel or not target:
        raise ConfigError(
            f"host {host.name!r}: {name}: the ProxyCommand {command!r} is no jump host",
            hint="write -o ProxyJump=user@bastion",
        )
    user = f"{flags['-l']}@" if "-l" in flags and "@" not in target else ""
    return f"{user}{target}" + (f":{flags['-p']}" if "-p" in flags else "")
