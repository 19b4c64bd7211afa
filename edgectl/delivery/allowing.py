"""Signs rules for actions and brings them to nodes: no rollout, because no model changes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from edgectl_agent.core.messages import Report

from edgectl.core.allowing import differing, nothing_to_do, refused, untold, with_allowances
from edgectl.core.errors import NOT_TRIED, NodeUnreachable, RemoteRefused
from edgectl.delivery.interface import Repository
from edgectl.delivery.parallel import each
from edgectl.delivery.runner import Tools
from edgectl.delivery.survey import check_pending

UPDATE_S = 60.0


def changed(rules: Mapping[str, int], tools: Tools) -> tuple[str, ...]:
    """Those of the nodes (node → how many rules fleet.yaml has for it) whose signed rules are others."""
    return differing(_repository(tools).assignment(), tools.allow or (), rules)


def sign(tools: Tools, now: datetime) -> None:
    """Sign `tools.allow`, and keep it. Raises `ConfigError` where that would bring back what was rolled back."""
    repository = _repository(tools)
    current = repository.assignment()
    assignment = with_allowances(current, tools.allow or (), tools.fleet, tools.operator)
    if current is not None and assignment.epoch != current.epoch:
        check_pending(tools.store.nodes.all(), current)
    repository.assign(assignment, now, repository.versions().timestamp)
    digest = repository.versions().assignment_sha256
    tools.store.rollouts.signed(assignment, digest, None, "nodes allow", tools.clock_ns())


def behind(rules: Mapping[str, int], changed: tuple[str, ...], tools: Tools) -> tuple[str, ...]:
    """Nodes to tell: those whose rules `changed`, those that hold an older assignment, and those that say that an
    action is refused to them."""
    ruled, reports = _ruled(rules), _reports(tools)
    older = untold(reports, ruled, _repository(tools).versions().assignment_sha256)
    return tuple(name for name in rules if name in older.union(changed, refused(reports) & ruled))


def nothing(rules: Mapping[str, int], tools: Tools) -> str:
    """What to say where nobody is behind."""
    return nothing_to_do((refused(_reports(tools)) - _ruled(rules)) & rules.keys())


def bring(nodes: tuple[str, ...], tools: Tools) -> dict[str, tuple[str, str]]:
    """Node → (``told``, ``fetches it``, ``not told`` or ``failed``, why); the signed repository is published first."""
    if nodes:
        tools.signed(nodes)
    return each(nodes, lambda name: _bring(name, tools), forks=tools.forks, stop=tools.stop)


def _bring(name: str, tools: Tools) -> tuple[str, str]:
    repository = _repository(tools)
    if tools.patience_s(name):
        return "fetches it", "at its next poll"
    node = tools.connect(name)
    try:
        node.push(repository.slice_for(name, node.have()))
        result = node.update(UPDATE_S)
        if result.state == "refused":
            return "failed", result.message or result.reason
        tools.store.nodes.save(node.status(), tools.clock_ns())
        return "told", ""
    except (NodeUnreachable, RemoteRefused) as e:
        return ("not told" if e.reason in NOT_TRIED else "failed"), e.message
    finally:
        node.close()


def _repository(tools: Tools) -> Repository:
    assert tools.repository is not None, "whoever signs has one"
    return tools.repository


def _ruled(rules: Mapping[str, int]) -> set[str]:
    return {name for name, count in rules.items() if count}


def _reports(tools: Tools) -> dict[str, Report]:
    return {name: record.report for name, record in tools.store.nodes.all().items() if record.report}
