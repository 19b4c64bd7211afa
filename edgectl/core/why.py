"""Why a node is not healthy, and what to type about it: reasoning over what the store, fleet.yaml, the audit and, where
the node was asked, its answers say. No I/O.

A cause that others share comes first, because looking at one node does not mend it; then the first stage on the way to
the node that fails, then what the node says about itself, then what the operator's side knows (rollouts, findings).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec
from edgectl_agent.core.messages import NO_MODEL
from edgectl_agent.core.units import format_duration, iso

from edgectl.core.audit import Finding
from edgectl.core.records import Expected, NodeRecord
from edgectl.core.status import condition

AWAY = ("unreachable", "silent")
SHARED = 0.5
"""Share of those that depend on the same thing and are away above which that thing is suspected, with at least two."""
_TOLD = ("unreachable", "never-reported", "stale-report", "node-failed", "node-degraded", "action-not-allowed")
"""Findings that say what the reasons before them say already."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of the way to a node: ``name``, ``tcp``, ``login``, ``agent``, ``report`` and so on."""

    stage: str
    state: Literal["ok", "failed", "skipped"]
    detail: str = ""
    fix: str = ""
    exit_code: int = 0
    """Of a stage that failed: what any command that goes this way ends with."""


class Sibling(msgspec.Struct, frozen=True, kw_only=True):
    """Another node that depends on what this one depends on. `depends` is what: ``jump bastion``, ``site lyon``."""

    name: str
    depends: frozenset[str]
    condition: str


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the node is in the newest rollout that names it."""

    rollout: str
    what: str
    state: str
    detail: str
    resume: str = ""
    """The command that goes on with it; empty if it has ended."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of one node at one moment."""

    now_ns: int
    node: str
    via: str
    expected: Expected
    record: NodeRecord | None
    depends: tuple[str, ...] = ()
    """What it depends on, the nearest to the operator first."""
    siblings: tuple[Sibling, ...] = ()
    findings: tuple[Finding, ...] = ()
    rollout: Placed | None = None
    waiting: int = 0
    """Orders that it has not fetched yet."""
    steps: tuple[Step, ...] = ()
    """What asking it brought, in the order of the way; empty if it was not asked."""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence, and what to type about it (empty if nothing helps but patience)."""

    text: str
    fix: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `state` is as `edgectl status` has it; the first reason weighs most."""

    node: str
    state: str
    reasons: tuple[Reason, ...]
    steps: tuple[Step, ...]
    next: str
    """The command to type now, or empty."""


def diagnose(subject: Subject) -> Diagnosis:
    """Never raises; a node that is well gets no reason."""
    state = condition(subject.record, subject.expected, subject.now_ns)
    broken = next((step for step in subject.steps if step.state == "failed"), None)
    if broken is None and subject.steps and subject.record is not None and subject.record.report is not None:
        state = subject.record.report.state  # it has just answered: what the store says of its silence is history
    reasons = tuple(_reasons(subject, state, broken))
    fix = next((reason.fix for reason in reasons if reason.fix), "")
    return Diagnosis(node=subject.node, state=state, reasons=reasons, steps=subject.steps, next=fix)


def _reasons(subject: Subject, state: str, broken: Step | None) -> Iterator[Reason]:
    if broken is not None or (state in AWAY and not subject.steps):
        yield from _shared(subject)
    if broken is not None:
        yield Reason(text=f"{broken.stage}: {broken.detail}", fix=broken.fix)
    elif not subject.steps:
        yield from _heard(subject, state)
    yield from _says(subject, state)
    yield from _refused(subject)
    yield from _placed(subject)
    for finding in subject.findings:
        if finding.kind not in _TOLD:
            yield Reason(text=f"{finding.kind}: {finding.detail}", fix=finding.fix)


def _shared(subject: Subject) -> Iterator[Reason]:
    """What it and others depend on, if most of those are away too: the first such thing on the way."""
    for thing in subject.depends:
        others = [sibling for sibling in subject.siblings if thing in sibling.depends]
        away = [sibling for sibling in others if sibling.condition in AWAY]
        if len(away) >= 2 and len(away) >= SHARED * len(others):
            parent = thing.removeprefix("parent ") if thing.startswith("parent ") else ""
            fix = f"edgectl nodes why {parent} --ask" if parent else ""
            text = f"{len(away)} of {len(others)} others behind {thing} are away too: look there first"
            yield Reason(text=text, fix=fix)
            return


def _heard(subject: Subject, state: str) -> Iterator[Reason]:
    """What the store knows of the last contact."""
    record, node = subject.record, subject.node
    ask = _ask(subject)
    if record is None or (record.report is None and not record.error):
        yield Reason(text="nothing was heard of it yet", fix=ask)
    elif record.error:
        since = record.failing_since_ns or record.attempted_ns
        text = f"{record.error.removeprefix(f'node {node}: ')} (for {_age(subject.now_ns - since)})"
        yield Reason(text=text, fix=ask)
    elif state == "silent":
        allowed = _age(subject.expected.silent_after_ns)
        text = f"its newest report is of {iso(record.received_ns)}; more than {allowed} without one counts as silent"
        yield Reason(text=text, fix=ask)
    if subject.waiting:
        yield Reason(text=f"{subject.waiting} orders wait for it to ask for them")


def _ask(subject: Subject) -> str:
    if subject.via == "usb":
        return f"edgectl collect --from FILE (as `edgectl-agent export` wrote it on {subject.node})"
    if subject.via == "pull":
        return ""
    return f"edgectl nodes why {subject.node} --ask"


def _says(subject: Subject, state: str) -> Iterator[Reason]:
    """What the node's last report says about itself."""
    report = subject.record.report if subject.record else None
    if report is None or report.state == "healthy":
        return
    when = "" if state == report.state else f"when last heard it was {report.state}: "
    fix = f"edgectl nodes restart {subject.node}" if report.state == "failed" and not when else ""
    refused = {f"action {action.name}: {action.refused}" for action in report.actions if action.refused}
    for text in report.reasons or (f"reports itself {report.state}",):
        if text in refused:
            yield Reason(text=f"{when}{text}", fix="edgectl nodes allow")
            continue
        lacking = text.removesuffix(f": {NO_MODEL}") if text.endswith(NO_MODEL) else ""
        deploy = f"edgectl deploy {lacking} --select name={subject.node}" if lacking and not when else ""
        yield Reason(text=f"{when}{text}", fix=deploy or fix)


def _refused(subject: Subject) -> Iterator[Reason]:
    """Sources of which hardly anything is a reading: the mapping is wrong, or somebody sends something else."""
    report = subject.record.report if subject.record else None
    for source in report.sources if report else ():
        refused = sum(source.rejected.values())
        if refused > source.accepted:
            most = max(source.rejected, key=lambda reason: source.rejected[reason])
            text = f"source {source.name}: {refused:,} of {refused + source.accepted:,} records are no readings"
            yield Reason(
                text=f"{text}, most of them {most}: dead-letters/{source.name}.jsonl in its data folder shows some"
            )


def _placed(subject: Subject) -> Iterator[Reason]:
    placed = subject.rollout
    if placed is None or placed.state in ("confirmed", "reverted") or (placed.state == "pending" and not placed.resume):
        return
    detail = f": {placed.detail}" if placed.detail else ""
    yield Reason(text=f"{placed.rollout} ({placed.what}): {placed.state} on this node{detail}", fix=placed.resume)


def _age(span_ns: int) -> str:
    """A duration, rounded to what people say."""
    second = 10**9
    for unit in (86400 * second, 3600 * second, 60 * second, second):
        if span_ns >= 2 * unit:
            return format_duration(span_ns // unit * unit)
    return format_duration(max(second, span_ns // second * second))


def skipped(stages: Sequence[str], after: str) -> tuple[Step, ...]:
    """The stages that nobody looked at, because `after` failed."""
    return tuple(Step(stage=stage, state="skipped", detail=f"after {after}") for stage in stages)


def siblings(node: str, depends: Mapping[str, tuple[str, ...]], conditions: Mapping[str, str]) -> tuple[Sibling, ...]:
    """Other nodes that depend on something that `node` depends on."""
    mine = frozenset(depends[node])
    return tuple(
        Sibling(name=name, depends=mine & frozenset(things), condition=conditions[name])
        for name, things in depends.items()
        if name != node and mine & frozenset(things)
    )
