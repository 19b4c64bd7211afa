"""Pins the host keys on the way to a node in the workspace's ``known_hosts``, as somebody decides for each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgectl.connectors import known_hosts
from edgectl.connectors.ssh_link import Link, LinkError, host_key
from edgectl.connectors.ssh_reach import Reach
from edgectl.connectors.ssh_target import Hop, Target
from edgectl.core.errors import NodeUntrusted
from edgectl.files import write_file


@dataclass(frozen=True, kw_only=True)
class HostKey:
    """What one machine on the way shows."""

    host: str
    """``host:port``; of a jump host too."""
    name: str
    """What it is called in ``known_hosts``."""
    kind: str
    fingerprint: str
    state: str
    """``new``, ``changed`` or ``known``; ``pinned`` once it is written down."""
    was: str = ""
    """The fingerprint that is pinned so far, and where."""


Decide = Callable[[HostKey], bool]
"""Whether to pin this key."""


def pin(reach: Reach, decide: Decide, replace: bool) -> list[HostKey]:
    """Fetch the key of each machine on the way, the jump hosts' first, and pin those that `decide` accepts.

    A machine is logged into only to go on to the next, and only once its key is pinned. What was pinned stays pinned if
    a later machine fails.

    Raises:
        NodeUnreachable: a machine does not answer, or a jump host accepts no key.
        NodeUntrusted: a key has changed and `replace` was not said, or it is revoked.
        StorageError: ``known_hosts`` cannot be written.
    """
    target = reach.target()
    found: list[HostKey] = []
    with ExitStack() as links:
        beneath: Link | None = None
        for number, hop in enumerate(target.hops, 1):
            shown, key = _look(reach, target, hop, beneath)
            if shown.state == "changed" and not replace:
                raise NodeUntrusted(
                    f"node {reach.name}: the host key of {hop.place} has changed: expected {shown.was}, found"
                    f" {shown.kind} {shown.fingerprint}",
                    hint=f"compare it on the machine's console, then edgectl nodes pin {reach.name} --replace",
                )
            if shown.state != "known":
                if not decide(shown):
                    return found
                _write(hop.known_hosts[0], hop.names[0], shown.kind, key)
            found.append(shown if shown.state == "known" else dataclasses.replace(shown, state="pinned"))
            if number < len(target.hops):
                beneath = links.enter_context(
                    reach.link_to(Target(hops=target.hops[:number], passphrase=target.passphrase))
                )
    return found


def _look(reach: Reach, target: Target, hop: Hop, beneath: Link | None) -> tuple[HostKey, bytes]:
    files = hop.pins()
    try:
        kind, key = host_key(hop, beneath)
    except LinkError as e:
        raise reach.error(e if hop == target.last else e.of_jump_host(hop)) from e
    verdict = known_hosts.judge(files, hop.names, key)
    if verdict.answer == "revoked":
        where = verdict.pinned[0].where
        said = f"node {reach.name}: {hop.place} shows a host key that {where} revokes"
        raise NodeUntrusted(said, hint=known_hosts.ANOTHER_KEY)
    states = {"unknown": "new", "changed": "changed", "trusted": "known"}
    return HostKey(
        host=hop.place,
        name=hop.names[0],
        kind=kind,
        fingerprint=known_hosts.fingerprint(key),
        state=states[verdict.answer],
        was=_said(verdict.pinned),
    ), key


def _said(pinned: Sequence[known_hosts.Entry]) -> str:
    return f"{pinned[0].kind} {pinned[0].fingerprint} ({pinned[0].where})" if pinned else ""


def _write(file: Path, name: str, kind: str, key: bytes) -> None:
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    write_file(file, known_hosts.pin(text, name, kind, key).encode())
