"""Gives nodes their certificates: which node needs one, and the files that it gets for its signing request.

The key stays where it was made: ``edgectl-agent csr --config agent.yaml`` prints the request on the node, `files`
answers it here, and whoever manages the machine puts the files there.
"""

from __future__ import annotations

from datetime import datetime

from edgectl.inventory.doors import CERTIFICATE, OPERATORS, certified, names
from edgectl.inventory.types import Node
from edgectl.trust import certificates
from edgectl.trust.authority import Authority


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
