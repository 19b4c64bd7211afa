"""Brings signed rules for actions to nodes: no rollout, because no model changes."""

from __future__ import annotations

from edgectl.core.errors import NOT_TRIED, NodeUnreachable, RemoteRefused
from edgectl.delivery.parallel import each
from edgectl.delivery.runner import Tools

UPDATE_S = 60.0


def bring(nodes: tuple[str, ...], tools: Tools) -> dict[str, tuple[str, str]]:
    """Node → (``told``, ``fetches it``, ``not told`` or ``failed``, why); the signed repository is published first."""
    if nodes:
        tools.signed(nodes)
    return each(nodes, lambda name: _bring(name, tools), forks=tools.forks, stop=tools.stop)


def _bring(name: str, tools: Tools) -> tuple[str, str]:
    assert tools.repository is not None, "it has just signed"
    if tools.patience_s(name):
        return "fetches it", "at its next poll"
    node = tools.connect(name)
    try:
        node.push(tools.repository.slice_for(name, node.have()))
        result = node.update(UPDATE_S)
        if result.state == "refused":
            return "failed", result.message or result.reason
        tools.store.nodes.save(node.status(), tools.clock_ns())
        return "told", ""
    except (NodeUnreachable, RemoteRefused) as e:
        return ("not told" if e.reason in NOT_TRIED else "failed"), e.message
    finally:
        node.close()
