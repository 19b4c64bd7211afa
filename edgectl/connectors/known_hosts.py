"""Pinned host keys in OpenSSH's ``known_hosts`` format: plain, hashed, ``[host]:port``, patterns, ``@revoked``.

Pure: text in, entries and verdicts out. ``@cert-authority`` lines and lines that make no sense trust nobody.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

REVOKED = "@revoked"
ANOTHER_KEY = "give the machine another host key; or delete that line, if nobody else can have this one"
"""What to do about a host that shows a revoked key."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line: which hosts have which key, and where it is written."""

    hosts: tuple[str, ...]
    kind: str
    """``ssh-ed25519`` and so on."""
    key: bytes
    marker: str = ""
    where: str = ""
    """``file:line``, for messages."""

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the files say about a key that a host showed."""

    answer: Literal["trusted", "unknown", "changed", "revoked"]
    pinned: tuple[Entry, ...] = ()
    """The entries that decided."""


def address(host: str, port: int) -> str:
    """A host's name in the file: ``host``, or ``[host]:port`` off the standard port."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def fingerprint(key: bytes) -> str:
    """``SHA256:…`` as `ssh-keygen -l` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def parse(text: str, file: str = "known_hosts") -> tuple[Entry, ...]:
    """The entries of one file, in its order."""
    found = (_entry(line, f"{file}:{number}") for number, line in enumerate(text.splitlines(), 1))
    return tuple(entry for entry in found if entry is not None)


def pinned(files: Iterable[Sequence[Entry]], names: Sequence[str]) -> tuple[Entry, ...]:
    """The keys pinned for a host: of the first of its `names` that the first of the `files` knows."""
    for entries in files:
        for name in names:
            found = tuple(e for e in entries if not e.marker and _names(e.hosts, name))
            if found:
                return found
    return ()


def judge(files: Sequence[Sequence[Entry]], names: Sequence[str], key: bytes) -> Verdict:
    """Whether a host that goes by `names` may show `key`; a revoked key is refused wherever it is revoked."""
    revoked = tuple(e for entries in files for e in entries if e.marker == REVOKED and e.key == key)
    revoked = tuple(e for e in revoked if any(_names(e.hosts, name) for name in names))
    if revoked:
        return Verdict(answer="revoked", pinned=revoked)
    known = pinned(files, names)
    if not known:
        return Verdict(answer="unknown")
    return Verdict(answer="trusted" if any(e.key == key for e in known) else "changed", pinned=known)


def pin(text: str, name: str, kind: str, key: bytes) -> str:
    """`text` with exactly one key for `name`: other keys of that name are dropped, other names are left alone."""
    lines = [kept for line in text.splitlines() if (kept := _without(line, name)) is not None]
    return "\n".join([*lines, f"{name} {kind} {base64.b64encode(key).decode()}"]) + "\n"


def revoke(text: str, name: str, entries: Iterable[Entry]) -> str:
    """`text` in which `name` has none of the keys of `entries` any more, and must never have them again."""
    lines = [kept for line in text.splitlines() if (kept := _without(line, name)) is not None]
    for entry in entries:
        line = f"{REVOKED} {name} {entry.kind} {base64.b64encode(entry.key).decode()}"
        lines += [] if line in lines else [line]
    return "\n".join(lines) + "\n" if lines else ""


def _entry(line: str, where: str) -> Entry | None:
    parts = line.split()
    marker = parts.pop(0) if parts and parts[0].startswith("@") else ""
    if len(parts) < 3 or parts[0].startswith("#") or marker not in ("", REVOKED):
        return None
    try:
        key = base64.b64decode(parts[2], validate=True)
    except binascii.Error:
        return None
    if not key.startswith(len(parts[1]).to_bytes(4, "big") + parts[1].encode()):  # the blob names its own kind
        return None
    return Entry(hosts=tuple(parts[0].split(",")), kind=parts[1], key=key, marker=marker, where=where)


def _names(hosts: Iterable[str], name: str) -> bool:
    matched = False
    for host in hosts:
        if host.startswith("!") and _matches(host[1:], name):
            return False
        matched = matched or _matches(host, name)
    return matched


def _matches(host: str, name: str) -> bool:
    if not host.startswith("|1|"):
        # brackets are part of a name here, not a set of characters
        return fnmatchcase(name, re.sub(r"\[", "[[]", host.lower()))
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in host[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)


def _without(line: str, name: str) -> str | None:
    """The line without `name`; None if nobody is left on it. Patterns stay: they name others too."""
    entry = _entry(line, "")
    if entry is None or entry.marker:
        return line
    left = [host for host in entry.hosts if host.lower() != name and not (host[:3] == "|1|" and _matches(host, name))]
    if len(left) == len(entry.hosts):
        return line
    rest = line.split(None, 1)[1]
    return f"{','.join(left)} {rest}" if left else None
