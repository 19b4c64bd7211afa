"""How one node is reached by SSH: its way, its secrets, the pool of connections, and errors that name the node."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from edgectl.connectors import Context
from edgectl.connectors.ssh_link import Link, LinkError, Untrusted, connect
from edgectl.connectors.ssh_pool import Pool
from edgectl.connectors.ssh_target import Target, resolve
from edgectl.core.errors import NodeUnreachable, NodeUntrusted
from edgectl.inventory.types import Connect, Node, SecretRef


@cache
def shared_pool() -> Pool:
    """The pool of this process."""
    pool = Pool()
    atexit.register(pool.close)
    return pool


@dataclass(frozen=True)
class Reach:
    """Making one does no I/O; its way is worked out when it is first needed."""

    name: str
    connect: Connect
    target: Callable[[], Target]
    secret: Callable[[SecretRef], str]
    pool: Pool

    @contextmanager
    def link(self) -> Iterator[Link]:
        """The node's connection.

        Raises:
            NodeUnreachable: there is none, or it broke in the block.
            NodeUntrusted: a host key on the way is not the pinned one.
            ConfigError: ``~/.ssh/config`` or a secret cannot be used.
        """
        with self.link_to(self.target()) as link:
            yield link

    @contextmanager
    def link_to(self, target: Target) -> Iterator[Link]:
        """The connection to `target`, the node or a jump host of its. Raises as `link`."""
        try:
            with self.pool.link(target, self._open) as link:
                yield link
        except LinkError as e:
            raise self.error(e) from e

    def sudo_password(self) -> str | None:
        return self.secret(self.connect.sudo_password) if self.connect.sudo_password else None

    def error(self, e: LinkError) -> NodeUnreachable:
        """What broke, as this node's error."""
        if isinstance(e, Untrusted):
            pin = f"edgectl nodes pin {self.name}"
            way = f"compare it on the machine's console, then {pin} --replace" if e.changed else pin
            return NodeUntrusted(f"node {self.name}: {e}", hint=e.hint or way)
        return NodeUnreachable(f"node {self.name}: {e}", hint=e.hint or None, reason="link")

    def _open(self, target: Target, beneath: Link | None) -> Link:
        try:
            return connect(target.last, lambda: self.secret(target.passphrase) if target.passphrase else None, beneath)
        except LinkError as e:
            if target == self.target():
                raise
            raise e.of_jump_host(target.last) from e


def reach(node: Node, context: Context, pool: Pool | None = None) -> Reach:
    """How `node` is reached."""
    way = cache(lambda: resolve(node.name, node.connect, context.workspace))
    return Reach(node.name, node.connect, way, context.secret, pool or shared_pool())
