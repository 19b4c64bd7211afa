"""The private keys that an operator can show to a machine: from files, and from the ssh-agent."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgectl.connectors.ssh_target import DEFAULT_KEYS, Hop

Passphrase = Callable[[], str | None]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One key, and how it is called in messages."""

    label: str
    key: Any
    """paramiko's `PKey`."""


class Unusable(Exception):
    """A key file that cannot be offered; the message says why."""


@contextmanager
def offers(hop: Hop, passphrase: Passphrase) -> Iterator[Iterator[Offer | Unusable]]:
    """What to offer to `hop`, the likeliest first; the ssh-agent is asked for as long as the block runs."""
    import paramiko

    with closing(paramiko.Agent()) as agent:
        yield _each(hop, list(agent.get_keys()) if hop.agent else [], passphrase)


def _each(hop: Hop, held: list[Any], passphrase: Passphrase) -> Iterator[Offer | Unusable]:
    named = {path: public for path in hop.keys if (public := _public(path)) is not None}
    mine = [key for key in held if key.asbytes() in named.values()]
    yield from map(_from_agent, mine)  # the agent's copy needs no passphrase
    left = [path for path in hop.keys if named.get(path) not in [key.asbytes() for key in mine]]
    yield from _files(left, passphrase, missing_ok=not hop.only)
    if not hop.only:
        yield from map(_from_agent, (key for key in held if key not in mine))
    if not hop.keys:
        yield from _files([Path("~/.ssh", name).expanduser() for name in DEFAULT_KEYS], passphrase, missing_ok=True)


def _from_agent(key: Any) -> Offer:
    return Offer(label=f"agent: {key.comment or key.get_name()}", key=key)


def _files(paths: Iterable[Path], passphrase: Passphrase, missing_ok: bool) -> Iterator[Offer | Unusable]:
    for path in paths:
        if not path.exists() and missing_ok:
            continue
        try:
            yield Offer(label=str(path), key=load(path, passphrase))
        except Unusable as e:
            yield e


def load(path: Path, passphrase: Passphrase) -> Any:
    """The private key in `path`, with its certificate if ``PATH-cert.pub`` is there. Raises `Unusable`."""
    import paramiko

    try:
        raw = path.read_bytes()
    except OSError as e:
        raise Unusable(f"{path} cannot be read: {(e.strerror or str(e)).lower()}") from e
    try:
        key = _private(raw, None)
    except paramiko.PasswordRequiredException:
        secret = passphrase()
        if secret is None:
            raise Unusable(f"{path} is encrypted and connect.key_passphrase is not set") from None
        try:
            key = _private(raw, secret)
        except (paramiko.SSHException, ValueError) as e:
            raise Unusable(f"{path} does not open with connect.key_passphrase") from e
    except (paramiko.SSHException, ValueError) as e:
        raise Unusable(f"{path} is not a private key that paramiko reads") from e
    certificate = path.with_name(path.name + "-cert.pub")
    if certificate.is_file():
        with suppress(paramiko.SSHException, ValueError):
            key.load_certificate(str(certificate))
    return key


def _private(raw: bytes, secret: str | None) -> Any:
    """Raises `PasswordRequiredException` for an encrypted key without a `secret`, else `SSHException`."""
    import io

    import paramiko

    text = raw.decode("utf-8")
    problem: Exception = paramiko.SSHException("no private key")
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(text), password=secret)
        except paramiko.PasswordRequiredException:
            raise
        except (paramiko.SSHException, ValueError, IndexError) as e:
            problem = e
    raise paramiko.SSHException(str(problem))


def _public(path: Path) -> bytes | None:
    """The public half that lies beside a private key, or in `path` itself (a key that only the agent has)."""
    for candidate in (path.with_name(path.name + ".pub"), path):
        with suppress(OSError, UnicodeDecodeError, binascii.Error, IndexError):
            return base64.b64decode(candidate.read_text(encoding="ascii").split()[1], validate=True)
    return None
