"""Where an SSH connection goes and who it says it is: fleet.yaml's `connect` over what ``~/.ssh/config`` says.

``EDGECTL_SSH_CONFIG`` names another file in its place. Jump hosts are looked up there too, as `ssh -J` does.
"""

from __future__ import annotations

import dataclasses
import getpass
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgectl.connectors.known_hosts import Entry, address, parse
from edgectl.core.errors import ConfigError
from edgectl.inventory.types import Connect, SecretRef
from edgectl.workspace import Workspace

ENVIRONMENT = "EDGECTL_SSH_CONFIG"
CONNECT_S = 10.0
"""For a connection to one machine, where ``ConnectTimeout`` says nothing else."""
ALIVE_S, ALIVE_COUNT = 10.0, 3
"""How often a quiet connection is tried, and how many tries without an answer mean that it is gone, where
``ServerAliveInterval`` and ``ServerAliveCountMax`` say nothing else."""
MOST_JUMPS = 8
DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>[^@\s]+)@)?(?P<host>\[[^\]]+\]|[^:\[\]@\s/]+)(?::(?P<port>\d{1,5}))?/?")


Pins = Sequence[Sequence[Entry]]
"""What each ``known_hosts`` file pins, the file that decides first."""


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One machine on the way, the node itself included."""

    host: str
    port: int
    user: str
    names: tuple[str, ...]
    """What it is called in ``known_hosts``, the name that wins first."""
    keys: tuple[Path, ...] = ()
    """Private keys that are offered before the agent's others."""
    only: bool = False
    """Offer no other key."""
    agent: bool = True
    known_hosts: tuple[Path, ...] = ()
    """Files with pinned keys; the first that knows the machine decides."""
    timeout_s: float = CONNECT_S
    alive_s: float = ALIVE_S
    """How often a quiet connection is tried."""
    gone_s: float = ALIVE_S * ALIVE_COUNT
    """A machine that acknowledges nothing for so long is gone."""

    @property
    def place(self) -> str:
        """``host:port``, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def who(self) -> str:
        return f"{self.user}@{self.place}"

    def pins(self) -> Pins:
        """The entries of its ``known_hosts`` files, read now; a file that is not there pins nobody."""
        return [parse(_text(path), str(path)) for path in self.known_hosts]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The way to one machine. Equal ways share a connection."""

    hops: tuple[Hop, ...]
    """Jump hosts in order, then the machine itself."""
    passphrase: SecretRef | None = None
    """Of the private keys that need one."""

    @property
    def last(self) -> Hop:
        return self.hops[-1]

    @property
    def before(self) -> Target | None:
        """The way to the last jump host."""
        return self.upto(len(self.hops) - 1) if len(self.hops) > 1 else None

    def upto(self, number: int) -> Target:
        """The way to the machine of that number, counted from 1."""
        return Target(hops=self.hops[:number], passphrase=self.passphrase)


def resolve(name: str, connect: Connect, workspace: Workspace, config: Path | None = None) -> Target:
    """The way to node `name`.

    Raises:
        ConfigError: ``~/.ssh/config`` makes no sense, or jump hosts lead in a circle.
    """
    found = _Config(config or Path(os.environ.get(ENVIRONMENT) or "~/.ssh/config").expanduser())
    key = workspace.resolve(connect.key) if connect.key else None
    maker = _Hops(found, workspace.root / "known_hosts", key)
    last = maker.hop(connect.host, connect.user, connect.port, own_key=True)
    jump = connect.jump or found.lookup(connect.host).get("proxyjump", "")
    before = maker.jumps(jump)
    if before:  # private addresses repeat from site to site; the node's name does not
        last = dataclasses.replace(last, names=(name.lower(), *last.names))
    return Target(hops=(*before, last), passphrase=connect.key_passphrase)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class _Hops:
    def __init__(self, config: _Config, known_hosts: Path, key: Path | None) -> None:
        self._config, self._known_hosts, self._key = config, known_hosts, key

    def hop(self, host: str, user: str = "", port: int = 0, own_key: bool = False) -> Hop:
        said = self._config.lookup(host)
        address_, port = str(said.get("hostname", host)), port or int(said.get("port", 22))
        keys = [Path(path).expanduser() for path in said.get("identityfile", ())]
        if self._key is not None:
            keys = [self._key] if own_key else [*keys, self._key]
        # never off: a connection cut without a word would be waited for until TCP gives up, a quarter of an hour later
        alive_s = self._number(said, "ServerAliveInterval") or ALIVE_S
        user_files = str(said.get("userknownhostsfile", "~/.ssh/known_hosts")).split()
        return Hop(
            host=address_,
            port=port,
            user=user or str(said.get("user", "")) or getpass.getuser(),
            names=(str(said["hostkeyalias"]).lower(),) if "hostkeyalias" in said else (address(address_, port),),
            keys=tuple(keys),
            only=bool(self._key and own_key) or said.get("identitiesonly", "no") == "yes",
            agent=said.get("identityagent", "") != "none",
            known_hosts=(self._known_hosts, *(Path(file).expanduser() for file in user_files)),
            timeout_s=self._number(said, "ConnectTimeout") or CONNECT_S,
            alive_s=alive_s,
            gone_s=alive_s * (self._number(said, "ServerAliveCountMax") or ALIVE_COUNT),
        )

    def _number(self, said: Mapping[str, Any], key: str) -> float:
        """0 where it says nothing, or ``none``."""
        value = str(said.get(key.lower(), "none"))
        if value == "none":
            return 0.0
        if not value.isdecimal():
            raise ConfigError(f"{self._config} cannot be used: {key}: expected a number, found {value!r}")
        return float(value)

    def jumps(self, jump: str) -> tuple[Hop, ...]:
        """The chain of ``a,b,c``; the first may have a jump host of its own in ``~/.ssh/config``."""
        chain: list[Hop] = []
        while jump and jump.lower() != "none":
            parts = [_jump(part) for part in jump.split(",")]
            chain[:0] = [self.hop(*part) for part in parts]
            if len(chain) > MOST_JUMPS:
                raise ConfigError(f"jump host {parts[0][0]}: the chain of jump hosts has more than {MOST_JUMPS}")
            jump = str(self._config.lookup(parts[0][0]).get("proxyjump", ""))
        return tuple(chain)


def _jump(text: str) -> tuple[str, str, int]:
    matched = _JUMP.fullmatch(text.strip())
    if matched is None or int(matched["port"] or 22) > 65535:
        raise ConfigError(f"jump host {text.strip()!r}: expected [user@]host[:port]")
    return matched["host"].strip("[]"), matched["user"] or "", int(matched["port"] or 0)


class _Config:
    """``~/.ssh/config``; an absent file says nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parsed: Any = None

    def __str__(self) -> str:
        return str(self._path)

    def lookup(self, host: str) -> Mapping[str, Any]:
        from paramiko import SSHConfig, SSHException

        try:
            if self._parsed is None:
                self._parsed = SSHConfig.from_text("\n".join(_lines(self._path, 0)))
            said: Mapping[str, Any] = self._parsed.lookup(host)
        except (SSHException, ValueError, ImportError) as e:
            raise ConfigError(f"{self._path} cannot be used: {e}") from e
        return said


def _lines(path: Path, depth: int) -> Iterator[str]:
    """The file's lines with ``Include`` carried out, which paramiko does not do."""
    if not path.is_file():
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}") from e
    for line in text.splitlines():
        matched = re.fullmatch(r"\s*include(?:\s+|\s*=\s*)(.+?)\s*", line, re.IGNORECASE)
        if matched is None or depth >= MOST_JUMPS:
            yield line
            continue
        for pattern in matched[1].split():
            for found in sorted(glob.glob(str(path.parent / Path(pattern.strip('"')).expanduser()))):
                yield from _lines(Path(found), depth + 1)
