"""The fleet on one screen, from what the store holds. No I/O and no live connection: the screen says how old it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from edgectl_agent.core.units import DAY_NS

from edgectl.core.audit import Finding, group
from edgectl.core.records import AlertRecord, Expected, NodeRecord, RolloutRecord
from edgectl.core.rollout import Progress

CONDITIONS = ("healthy", "warming", "degraded", "unreachable", "silent", "failed", "unknown")
_MARKED = ("unreachable", "silent", "failed", "unknown", "degraded")


class NodeLine(msgspec.Struct, frozen=True, kw_only=True):
    """One node. `age_s` is the age of its newest report."""

    name: str
    site: str
    tier: str
    condition: str
    age_s: float | None
    models: dict[str, str]
    """Recipe → version."""
    open_alerts: int
    detail: str


class AlertCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many alerts, as of now; `critical` and `acknowledged` are parts of `open`."""

    last_24h: int
    open: int
    critical: int
    acknowledged: int


class ModelLine(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions of a recipe run on how many nodes; `unknown` counts assigned nodes that say nothing."""

    recipe: str
    versions: dict[str, int]
    unknown: int
    p99_us: float


class RolloutLine(msgspec.Struct, frozen=True, kw_only=True):
    """The newest rollout."""

    name: str
    kind: str
    recipe: str
    version: str
    former: tuple[str, ...]
    state: str
    phase: int
    phases: int
    nodes: int
    counts: dict[str, int]
    reason: str
    changed_ns: int


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """Something that waits for the operator, with the command to type."""

    text: str
    command: str
    since_ns: int


class FleetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `edgectl status` shows."""

    fleet: str
    at_ns: int
    newest_report_s: float | None
    oldest_report_s: float | None
    """Of the nodes that are neither unreachable nor silent."""
    conditions: dict[str, int]
    alerts: AlertCounts
    models: tuple[ModelLine, ...]
    rollout: RolloutLine | None
    needs: tuple[Need, ...]
    nodes: tuple[NodeLine, ...]


def condition(record: NodeRecord | None, expected: Expected, now_ns: int) -> str:
    """One word for a node, the worst that holds."""
    if record is None or (record.report is None and not record.error):
        return "unknown"
    if record.error or record.report is None:
        return "unreachable"
    if now_ns - record.received_ns > expected.silent_after_ns:
        return "silent"
    return record.report.state


def summarise(
    fleet: str,
    expected: Mapping[str, Expected],
    records: Mapping[str, NodeRecord],
    *,
    open_alerts: Sequence[AlertRecord],
    last_24h: int,
    rollout: tuple[RolloutRecord, Progress] | None,
    findings: Sequence[Finding],
    assigned: Mapping[str, frozenset[str]],
    now_ns: int,
) -> FleetStatus:
    """The screen's values; `assigned` is recipe → nodes that shall run it."""
    lines = tuple(_node(name, expected[name], records.get(name), now_ns) for name in sorted(expected))
    ages = [line.age_s for line in lines if line.age_s is not None]
    current = [age for line in lines if (age := line.age_s) is not None and line.condition not in _MARKED[:2]]
    counts = Counter(line.condition for line in lines)
    return FleetStatus(
        fleet=fleet,
        at_ns=now_ns,
        newest_report_s=min(ages, default=None),
        oldest_report_s=max(current, default=None),
        conditions={name: counts[name] for name in CONDITIONS if counts[name]},
        alerts=AlertCounts(
            last_24h=last_24h,
            open=len(open_alerts),
            critical=sum(r.alert.severity == "critical" for r in open_alerts),
            acknowledged=sum(r.acknowledged_ns > 0 for r in open_alerts),
        ),
        models=_models(expected, records, assigned),
        rollout=rollout_line(*rollout) if rollout else None,
        needs=_needs(findings, now_ns),
        nodes=lines,
    )


def _node(name: str, expected: Expected, record: NodeRecord | None, now_ns: int) -> NodeLine:
    report = record.report if record else None
    return NodeLine(
        name=name,
        site=expected.site,
        tier=expected.tier,
        condition=condition(record, expected, now_ns),
        age_s=(now_ns - record.received_ns) / 1e9 if record and report else None,
        models={m.recipe: m.version for m in report.models} if report else {},
        open_alerts=sum(m.open_alerts for m in report.models) if report else 0,
        detail=(record.error if record else "") or ("; ".join(report.reasons) if report else ""),
    )


def _models(
    expected: Mapping[str, Expected], records: Mapping[str, NodeRecord], assigned: Mapping[str, frozenset[str]]
) -> tuple[ModelLine, ...]:
    versions: dict[str, Counter[str]] = {recipe: Counter() for recipe in assigned}
    seen: dict[str, set[str]] = {recipe: set() for recipe in assigned}
    worst: dict[str, float] = {}
    for name in expected:
        record = records.get(name)
        for model in record.report.models if record and record.report else ():
            versions.setdefault(model.recipe, Counter())[model.version] += 1
            seen.setdefault(model.recipe, set()).add(name)
            worst[model.recipe] = max(worst.get(model.recipe, 0.0), model.p99_us)
    return tuple(
        ModelLine(
            recipe=recipe,
            versions=dict(versions[recipe].most_common()),
            unknown=len((assigned.get(recipe, frozenset()) & set(expected)) - seen[recipe]),
            p99_us=worst.get(recipe, 0.0),
        )
        for recipe in sorted(versions)
    )


def rollout_line(record: RolloutRecord, progress: Progress) -> RolloutLine:
    """`record` and where it is, in one line."""
    plan = record.plan
    return RolloutLine(
        name=record.name,
        kind=record.kind,
        recipe=record.recipe,
        version=plan.version,
        former=tuple(sorted({place.version for place in plan.former} - {plan.version})),
        state=progress.state,
        phase=min(progress.phase + 1, len(plan.phases)),
        phases=len(plan.phases),
        nodes=len(progress.nodes),
        counts=dict(Counter(node.state for node in progress.nodes.values())),
        reason=progress.reason,
        changed_ns=record.changed_ns,
    )


def _needs(findings: Sequence[Finding], now_ns: int) -> tuple[Need, ...]:
    needs = []
    for line in group(findings):
        who = line.nodes[0] if len(line.nodes) == 1 else f"{len(line.nodes)} nodes"
        text = f"{who}: {line.detail}" if line.nodes else line.detail
        needs.append(Need(text=f"{line.kind} · {text}", command=line.fix, since_ns=min(line.since_ns, now_ns)))
    return tuple(needs)


def day_ago(now_ns: int) -> int:
    """The beginning of the last 24 hours."""
    return now_ns - DAY_NS


def age(seconds: float) -> str:
    """``4 s``, ``12 min``, ``3 h``, ``2 d``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
