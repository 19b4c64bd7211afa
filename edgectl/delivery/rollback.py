"""Makes the plan of a rollback: each node to the model in its other slot, or all to one version.

The nodes are told first, which needs neither the registry nor keys; where both are at hand, a higher assignment then
names what they fell back to. Without it the nodes keep their fallback, because they quarantine what they left, and
`edgectl audit` says ``rollback-pending`` until the assignment is signed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from edgectl_agent.core.messages import Assignment, ModelStatus, Placement, Release, Report

from edgectl.core.errors import NothingMatched
from edgectl.core.names import unknown
from edgectl.core.rollout import Phase, Plan
from edgectl.delivery.deploy import choose, running


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A node that a rollback leaves alone, and why."""

    node: str
    why: str


def plan(
    recipe: str,
    nodes: Sequence[str],
    reports: Mapping[str, Report],
    *,
    to: str = "",
    releases: Sequence[Release] = (),
    current: Assignment | None = None,
    timeout_s: float = 60.0,
    selection: str = "",
    reason: str = "",
) -> tuple[Plan, tuple[Skipped, ...]]:
    """The plan for those of `nodes` that can go back; `releases` and `current` are empty without a repository.

    A node that was rolled back already, its assignment pending, keeps what it runs: only the signature is missing.

    Raises:
        NothingMatched: no node has anything to go back to, or there is no version `to`.
    """
    moves: dict[str, tuple[str, str, str]] = {}
    former: dict[str, tuple[str, str, str]] = {}
    skipped = []
    for node in sorted(nodes):
        model = running(reports.get(node), recipe)
        target = _target(node, model, reports.get(node), recipe, to, releases, current)
        if isinstance(target, str):
            skipped.append(Skipped(node=node, why=target))
            continue
        moves[node] = target
        if model is not None:
            former[node] = (model.version, model.bundle, model.variant)
    if not moves:
        why = f": {skipped[0].node} {skipped[0].why}" if skipped else ""
        raise NothingMatched(f"no node can return from its {recipe}{why}")
    versions = sorted({version or "the previous release" for version, _, _ in moves.values()})
    made = Plan(
        kind="rollback",
        recipe=recipe,
        version=to or ", ".join(versions),
        targets=_placements(moves),
        former=_placements(former),
        phases=(Phase(nodes=tuple(moves), canary=False),),
        timeout_s=timeout_s,
        selection=selection,
        reason=reason,
    )
    return made, tuple(skipped)


def _target(
    node: str,
    model: ModelStatus | None,
    report: Report | None,
    recipe: str,
    to: str,
    releases: Sequence[Release],
    current: Assignment | None,
) -> tuple[str, str, str] | str:
    """(version, digest, variant) to return to, or why there is none."""
    if report is None:
        return "does not answer"
    if model is None:
        return f"runs no {recipe}"
    signed = {ref.sha256: (r.version, ref.sha256, ref.variant) for r in releases for ref in r.variants}
    if to:
        release = next((r for r in releases if r.recipe == recipe and r.version == to), None)
        if release is None:
            raise unknown(
                "version", f"{recipe}@{to}", [f"{r.recipe}@{r.version}" for r in releases if r.recipe == recipe]
            )
        same = next((ref for ref in release.variants if ref.variant == model.variant), None) or choose(release, "")
        return release.version, same.sha256, same.variant
    if _pending(model, report, recipe, current):
        return model.version, model.bundle, model.variant
    if not model.previous:
        return f"has no release before {model.version}"
    if releases and model.previous not in signed:
        return f"has a previous bundle {model.previous[:12]} that is in no signed release"
    return signed.get(model.previous, ("", model.previous, model.variant))


def _pending(model: ModelStatus, report: Report, recipe: str, current: Assignment | None) -> bool:
    """Rolled back already; the assignment still names what the node left."""
    assigned = current.placement(recipe, report.node) if current else None
    left = {q.bundle for q in report.quarantined if q.recipe == recipe}
    if assigned is None:
        return model.previous in left
    return model.bundle != assigned.sha256 and assigned.sha256 in left


def _placements(moves: Mapping[str, tuple[str, str, str]]) -> tuple[Placement, ...]:
    cells: dict[tuple[str, str, str], list[str]] = {}
    for node, cell in moves.items():
        cells.setdefault(cell, []).append(node)
    return tuple(
        Placement(version=version, sha256=sha256, variant=variant, nodes=tuple(sorted(names)))  # type: ignore[arg-type]
        for (version, sha256, variant), names in sorted(cells.items())
    )
