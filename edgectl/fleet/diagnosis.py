"""Puts together what `edgectl.core.why` reasons about: the store, fleet.yaml and, if asked, the node itself."""

from __future__ import annotations

from edgectl_agent.core.messages import Report

from edgectl.connectors import Context
from edgectl.connectors.stages import walk
from edgectl.core.rollout import OPEN, RESUMABLE
from edgectl.core.status import condition
from edgectl.core.why import Diagnosis, Placed, Step, Subject, diagnose, siblings
from edgectl.inventory.types import Inventory, Node
from edgectl.store.store import Store

NEWEST = 20
"""Rollouts that are looked through."""


def why(node: Node, fleet: Inventory, store: Store, now_ns: int, steps: tuple[Step, ...] = ()) -> Diagnosis:
    """What the operator's side knows of `node`; `steps` are what asking it brought. Raises as the store does."""
    records = store.nodes.all()
    conditions = {other.name: condition(records.get(other.name), other.expected, now_ns) for other in fleet.nodes}
    return diagnose(
        Subject(
            now_ns=now_ns,
            node=node.name,
            via=node.via,
            expected=node.expected,
            record=records.get(node.name),
            depends=_depends(node),
            siblings=siblings(node.name, {other.name: _depends(other) for other in fleet.nodes}, conditions),
            findings=tuple(finding for finding in store.findings.standing() if finding.node == node.name),
            rollout=_placed(node.name, store),
            waiting=len(store.orders.waiting(node.name, now_ns)),
            steps=steps,
        )
    )


def ask(node: Node, context: Context, store: Store, now_ns: int) -> tuple[Step, ...]:
    """Go the way to `node` stage by stage and keep what came of it in the store."""

    def heard(report: Report) -> None:
        store.nodes.save(report, now_ns)

    steps = walk(node, context, heard)
    failed = next((step for step in steps if step.state == "failed"), None)
    if failed is not None:
        store.nodes.save_failure(node.name, failed.detail, now_ns)
    return steps


def _depends(node: Node) -> tuple[str, ...]:
    jumps = tuple(f"jump host {part.strip()}" for part in node.connect.jump.split(",") if part.strip())
    parent = (f"parent {node.parent}",) if node.parent else ()
    return (*jumps, *parent, *((f"site {node.site}",) if node.site else ()))


def _placed(name: str, store: Store) -> Placed | None:
    for record in store.rollouts.all(limit=NEWEST):
        if name in record.plan.nodes:
            node = store.rollouts.progress(record).nodes[name]
            what = f"{record.kind} {record.recipe} {record.plan.version}"
            resume = record.resume if record.state in OPEN | RESUMABLE else ""
            return Placed(rollout=record.name, what=what, state=node.state, detail=node.detail, resume=resume)
    return None
