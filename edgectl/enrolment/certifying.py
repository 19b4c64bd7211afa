"""Gives nodes their certificates: which node needs one, and the files that it gets for its signing request.

The key stays where it was made: ``edgectl-agent csr`` prints the request on the node and `files` answers it here. On a
machine `enrol` does both; where nobody can log in, its owner carries request and files (`edgectl nodes certify`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from edgectl.core.errors import ConfigError, RemoteRefused, UsageError
from edgectl.files import write_file
from edgectl.fleet import membership
from edgectl.inventory.agent_config import Columns
from edgectl.inventory.doors import CERTIFICATE, KEY, OPERATORS, certified, names
from edgectl.inventory.types import Node
from edgectl.machine.interface import Host
from edgectl.machine.layout import AGENT, Layout
from edgectl.machine.shell import words
from edgectl.trust import certificates
from edgectl.trust.authority import Authority
from edgectl.workspace import Workspace


def due(node: Node, authority: Authority, now: datetime) -> bool:
    """Whether `node` needs a certificate now: it has none yet, less than a third of its life is left, or it has moved.

    Raises:
        ConfigError: its ``connect.url`` makes no sense.
        TrustError: what is kept of its certificate is damaged.
    """
    if not certified(node):
        return False
    held = authority.issued(node.name)
    if held is None or certificates.life_of(held).due(now):
        return True
    return not {node.name, *names(node)} <= {*certificates.names_of(held)}


def files(node: Node, authority: Authority, request: bytes, now: datetime) -> dict[str, bytes]:
    """What to place on `node` (names as `edgectl.machine.layout.Layout.path` takes them) for its signing request.

    The agent shows a new certificate from the next connection on; another operators' root needs a restart.

    Raises:
        TrustError: the request is not sound, or there is no authority here.
        StorageError: the disk refuses.
    """
    made = authority.certify(node.name, names(node), request, now)
    return {CERTIFICATE: made, OPERATORS: authority.trusted("operators")}


def by_hand(
    node: Node,
    workspace: Workspace,
    columns: Callable[[str], Columns],
    root: bytes,
    authority: Authority,
    request: Path,
    now: datetime,
) -> dict[str, bytes]:
    """All files of a node that its owner sets up, for the signing request in a file.

    Raises:
        UsageError: the node needs no certificate.
        ConfigError: the file cannot be read, or fleet.yaml makes no agent.yaml for the node.
        TrustError, StorageError: as `files`.
    """
    if not certified(node):
        hint = "a node needs one if it is reached by http, or takes readings off loopback"
        raise UsageError(f"node {node.name} needs no certificate", hint=hint)
    try:
        csr = request.read_bytes()
    except OSError as e:
        raise ConfigError(f"{request} cannot be read: {e.strerror}") from e
    return membership.files(node, workspace, columns, root) | files(node, authority, csr, now)


def save(made: Mapping[str, bytes], folder: Path) -> None:
    """Write files below `folder`. Raises `StorageError`."""
    for name, content in made.items():
        write_file(folder / name, content)


def enrol(node: Node, host: Host, layout: Layout, environment: str, authority: Authority, now: datetime) -> None:
    """Have the agent in `environment` (a path on the machine) make a key and a request, and put the answer beside it.

    Each file is replaced whole; an agent that runs shows the new certificate from its next connection on.

    Raises:
        NodeUnreachable, StorageError: as `Host.write`.
        RemoteRefused: the machine's agent makes no request; the sentence says why.
        TrustError: as `files`.
    """
    command = words(f"{environment}/bin/{AGENT}", "csr", "--key", layout.path(KEY), "--node", node.name)
    done = host.run(command, root=layout.root)
    if done.status:
        raise RemoteRefused(f"node {node.name}: it makes no signing request: {done.complaint}", status=500)
    for name, content in files(node, authority, done.out, now).items():
        path = layout.path(name)
        host.write(path, content, mode=0o640, root=layout.root)
        if layout.root:
            host.run(f"chgrp {words(layout.user, path)}", root=True)


def missing(host: Host, layout: Layout) -> bool:
    """Whether a machine has not all of its files of `files`, or no key. Raises as `Host.run`."""
    tests = " && ".join(f"[ -s {words(layout.path(name))} ]" for name in (CERTIFICATE, KEY, OPERATORS))
    return host.run(tests, root=layout.root).status != 0
