"""Makes the plan of a deployment, and starts or resumes the rollout that carries it out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgectl_agent.core.messages import Assignment, BundleRef, ModelStatus, Placement, Release, Report

from edgectl.core import phases
from edgectl.core.errors import LockHeld, TrustError, UsageError
from edgectl.core.evidence import placement
from edgectl.core.names import unknown
from edgectl.core.records import RolloutRecord
from edgectl.core.rollout import OPEN, RESUMABLE, Entry, Plan, Progress, touched
from edgectl.delivery.interface import Repository
from edgectl.delivery.runner import Runner, Tools
from edgectl.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for."""

    recipe: str
    version: str = ""
    variant: str = ""
    phases: str = phases.DEFAULT
    timeout_s: float = 60.0
    selection: str = ""
    reason: str = ""


def resolve(recipe: str, version: str, signed: Iterable[Release], trained: Mapping[str, Sequence[str]]) -> Release:
    """The release that is meant: the one of `version`, or the newest signed one.

    Raises:
        TrustError: it is trained, and nobody has signed it.
        NothingMatched: there is no such model or version; the message has the closest names.
    """
    known = {(release.recipe, release.version): release for release in signed}
    mine = sorted((r for r in known.values() if r.recipe == recipe), key=lambda r: r.counter)
    if version and (recipe, version) in known:
        return known[recipe, version]
    unsigned = [v for v in trained.get(recipe, ()) if (recipe, v) not in known]
    if version in unsigned or (unsigned and not mine and not version):
        name = f"{recipe}@{version or unsigned[-1]}"
        raise TrustError(f"{name} is not signed", hint=f"edgectl models sign {name}", reason="unsigned")
    if version and (mine or unsigned):
        raise unknown("version", f"{recipe}@{version}", [f"{r.recipe}@{r.version}" for r in mine])
    if not mine:
        raise unknown("model", recipe, {*trained, *(r for r, _ in known)}, first="edgectl train RECIPE --data FILE")
    return mine[-1]


def choose(release: Release, variant: str) -> BundleRef:
    """The bundle of `variant`; fp32 unless one is named, else the first that the release ships."""
    by_name = {ref.variant: ref for ref in release.variants}
    if not variant:
        return by_name.get("fp32") or release.variants[0]
    found = next((ref for name, ref in by_name.items() if name == variant), None)
    if found is None:
        raise UsageError(
            f"{release.recipe}@{release.version} has no variant {variant!r}", hint=f"it ships {', '.join(by_name)}"
        )
    return found


def plan(
    request: Request,
    release: Release,
    nodes: Sequence[str],
    reports: Mapping[str, Report],
    *,
    repository: Repository,
    store: Store,
    by_hand: Collection[str] = (),
) -> Plan | None:
    """The frozen plan for `nodes`; None if all of them already prove that they run the release.

    Those that are reached `by_hand` are assigned it with the last phase.
    """
    ref = choose(release, request.variant)
    current = repository.assignment()
    left = [node for node in nodes if not _runs(node, reports.get(node), release, ref, current)]
    if not left:
        return None
    seed = f"{release.recipe}@{release.version}/{store.rollouts.next_number()}"
    target = Placement(version=release.version, sha256=ref.sha256, variant=ref.variant, nodes=tuple(sorted(left)))
    return Plan(
        recipe=release.recipe,
        version=release.version,
        targets=(target,),
        former=_former(left, release.recipe, reports, current, repository, store),
        phases=phases.split(request.phases, left, seed, by_hand),
        timeout_s=request.timeout_s,
        selection=request.selection,
        reason=request.reason,
    )


def freeze(plan: Plan, operator: str, tools: Tools) -> tuple[RolloutRecord, Progress]:
    """Keep `plan` under a number and end the rollouts that it replaces."""
    rollouts = tools.store.rollouts
    older = [r for r in rollouts.all(recipe=plan.recipe) if r.state in OPEN | RESUMABLE]
    record = rollouts.create(plan, operator, tools.clock_ns())
    for old in older:
        entry = Entry(event="supersede", at_ns=tools.clock_ns(), detail=f"superseded by {record.name}")
        rollouts.append(old.number, rollouts.progress(old), entry)
    rollouts.log(operator, f"{plan.kind} {plan.recipe}@{plan.version}", record.name, tools.clock_ns())
    return record, rollouts.progress(record)


def begin(plan: Plan, operator: str, tools: Tools) -> tuple[RolloutRecord, Runner]:
    """Freeze `plan`, and make the runner that carries it out."""
    record, progress = freeze(plan, operator, tools)
    return record, Runner(record, progress, tools)


def recall(name: str, tools: Tools) -> tuple[RolloutRecord, Progress]:
    """The rollout `name` and where it is.

    Raises:
        NothingMatched: there is none of that name.
        LockHeld: a later one took its place.
    """
    record = tools.store.rollouts.get(name)
    progress: Progress = tools.store.rollouts.progress(record)
    if progress.state == "superseded":
        raise LockHeld(f"{record.name} was {progress.reason}", hint="edgectl status")
    return record, progress


def resume(name: str, tools: Tools) -> tuple[RolloutRecord, Runner]:
    """The rollout `name`, ready to go on; one that has ended is left as it is.

    Raises:
        UsageError: it does not move models, but machines.
        NothingMatched, LockHeld: as `recall`.
    """
    record, progress = recall(name, tools)
    if not record.plan.signed:
        raise UsageError(f"{name} moves no model", hint=record.resume)
    return record, Runner(record, progress, tools)


def unproven(
    kind: str, recipe: str, wanted: Mapping[str, str], store: Store, version: str = "", sha256: str = ""
) -> str:
    """Name of the newest rollout of `recipe` if all that it waits for is the proof of nodes that have what they should.

    A node that fell silent may have done as it was told. Then there is nothing to do, but the rollout is to be ended.

    Args:
        kind: what was asked for.
        recipe: of which model, or `Plan.recipe` of what changes machines.
        wanted: the nodes that were found to have it → the part that each has (`Plan.parts`), empty for any.
        store: with the rollouts.
        version: of the rollout; empty for any.
        sha256: of the bundle that a deployment places.

    Returns:
        Empty if there is none.
    """
    newest = next(iter(store.rollouts.all(recipe=recipe, limit=1)), None)
    if newest is None or newest.kind != kind or newest.state not in ("planned", "running", "paused", "incomplete"):
        return ""
    plan, progress = newest.plan, store.rollouts.progress(newest)
    left = [name for name, node in progress.nodes.items() if node.state != "confirmed"]
    placed = {target.sha256 for target in plan.targets}
    same = version in ("", plan.version) and (not sha256 or placed == {sha256})
    mine = all(name in wanted and wanted[name] in ("", plan.parts.get(name, "")) for name in left)
    return newest.name if same and mine else ""


def running(report: Report | None, recipe: str) -> ModelStatus | None:
    """What `report` says of `recipe`."""
    return next((m for m in report.models if m.recipe == recipe), None) if report else None


def _runs(node: str, report: Report | None, release: Release, ref: BundleRef, current: Assignment | None) -> bool:
    model = running(report, release.recipe)
    place = current.placement(release.recipe, node) if current else None
    proven = model is not None and model.bundle == ref.sha256 and model.golden_error <= 1
    return proven and place is not None and place.sha256 == ref.sha256


def _former(
    nodes: Iterable[str],
    recipe: str,
    reports: Mapping[str, Report],
    current: Assignment | None,
    repository: Repository,
    store: Store,
) -> tuple[Placement, ...]:
    """Where each node returns to: what an unfinished older rollout would have returned it to, else what it is assigned,
    else the signed release that it runs."""
    signed = {ref.sha256: (release, ref) for release in repository.releases() for ref in release.variants}
    unproven = _unproven(recipe, store)
    found: dict[tuple[str, str, str], list[str]] = {}
    for node in sorted(nodes):
        place = placement(unproven, node) or (current.placement(recipe, node) if current else None)
        model = running(reports.get(node), recipe)
        if place is not None:
            found.setdefault((place.version, place.sha256, place.variant), []).append(node)
        elif model is not None and model.bundle in signed:
            release, ref = signed[model.bundle]
            found.setdefault((release.version, ref.sha256, ref.variant), []).append(node)
    return tuple(
        Placement(version=version, sha256=sha256, variant=variant, nodes=tuple(names))  # type: ignore[arg-type]
        for (version, sha256, variant), names in sorted(found.items())
    )


def _unproven(recipe: str, store: Store) -> tuple[Placement, ...]:
    """Former placements of nodes that an interrupted deployment left on a release that nobody judged."""
    newest = store.rollouts.all(recipe=recipe, limit=1)
    if not newest or newest[0].state not in ("running", "paused", "reverting", "stuck"):
        return ()
    moved = set(touched(store.rollouts.progress(newest[0])))
    return tuple(
        Placement(version=p.version, sha256=p.sha256, variant=p.variant, nodes=tuple(n for n in p.nodes if n in moved))
        for p in newest[0].plan.former
    )
