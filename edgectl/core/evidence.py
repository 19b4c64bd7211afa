"""What a node's report proves about a rollout, and placements as values. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from edgectl_agent.core.messages import UPDATE_REFUSED, Epoch, Placement, Report, TrustStatus


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What a report proves: ``confirm``, ``refuse`` (it will not run it), ``foreign`` (another operator's epoch), or
    ``wait``; `detail` is the evidence."""

    event: Literal["confirm", "refuse", "foreign", "wait"]
    detail: str


def observe(
    report: Report, recipe: str, sha256: str, epoch: Epoch | None, trust: TrustStatus | None = None
) -> Observation:
    """Whether `report` proves that its node runs bundle `sha256` under `epoch` (None: whatever the epoch).

    With `trust`, the operator's own metadata, a node that has seen other metadata of the same or a higher version is
    ``foreign``: two laptops have signed.
    """
    refused = next((q for q in report.quarantined if q.recipe == recipe and q.bundle == sha256), None)
    if refused and (epoch is None or refused.epoch >= epoch.number):
        return Observation(event="refuse", detail=refused.reason)
    behind = follows(report, epoch, trust)
    if behind is not None:
        return behind
    model = next((m for m in report.models if m.recipe == recipe), None)
    if epoch is not None and (model is None or model.bundle != sha256):
        refusal = next((why for why in report.reasons if UPDATE_REFUSED in why), "")
        if refusal:  # it polls: nobody was there to hear its answer
            return Observation(event="refuse", detail=refusal.partition(UPDATE_REFUSED)[2])
    if model is None:
        return Observation(event="wait", detail=f"runs no {recipe}")
    if model.bundle != sha256:
        return Observation(event="wait", detail=f"still runs {model.version} ({model.bundle[:8]})")
    if not model.golden_error <= 1:  # also a NaN fails
        return Observation(event="refuse", detail=f"golden vectors off by {model.golden_error:.3g} tolerances")
    return Observation(event="confirm", detail=f"{model.version} {model.variant}, golden {model.golden_error:.2f}")


def follows(report: Report, epoch: Epoch | None, trust: TrustStatus | None) -> Observation | None:
    """Whose orders the node follows: None if they are ours, and it has them."""
    if epoch is not None:
        seen = report.epoch
        if seen is None or seen.number < epoch.number:
            return Observation(event="wait", detail=f"still at epoch {seen.number if seen else 0}, not {epoch.number}")
        if seen.number == epoch.number and seen.operator != epoch.operator:
            return Observation(event="foreign", detail=f"epoch {seen.number} was given by {seen.operator}")
    if trust is not None:
        held = report.trust
        if held is None or held.timestamp < trust.timestamp:
            version = held.timestamp if held else 0
            return Observation(event="wait", detail=f"holds metadata {version}, not {trust.timestamp}")
        same = trust.assignment_sha256 in ("", held.assignment_sha256)
        if held.timestamp > trust.timestamp or not same:
            return Observation(
                event="foreign", detail=f"holds metadata {held.timestamp} that is not of this repository"
            )
    return None


def placement(places: Iterable[Placement], node: str) -> Placement | None:
    """The placement that names `node`."""
    return next((place for place in places if node in place.nodes), None)


def placed(places: Iterable[Placement], moves: Mapping[str, Placement | None]) -> tuple[Placement, ...]:
    """`places` with every node of `moves` in its new placement (None: in none). Sorted, without empty placements."""
    cells: dict[tuple[str, str, str], set[str]] = {}
    for place in places:
        key = (place.version, place.sha256, place.variant)
        cells.setdefault(key, set()).update(node for node in place.nodes if node not in moves)
    for node, place_ in moves.items():
        if place_ is not None:
            cells.setdefault((place_.version, place_.sha256, place_.variant), set()).add(node)
    return tuple(
        Placement(version=version, sha256=sha, variant=variant, nodes=tuple(sorted(nodes)))  # type: ignore[arg-type]
        for (version, sha, variant), nodes in sorted(cells.items())
        if nodes
    )
