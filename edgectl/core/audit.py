"""The audit's rules: where the fleet is not as it should be, and what to type about it. No I/O.

Desired is what was signed and what fleet.yaml says; actual is what nodes reported. A rule is a function of `Facts`;
`audit` runs all of them. No finding means that desired equals actual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
from edgectl_agent.core.messages import Assignment, ModelStatus, Placement, Report
from edgectl_agent.core.units import SECOND_NS, iso
from edgectl_agent.core.wording import counted

from edgectl.core.evidence import placement
from edgectl.core.records import NOT_INSTALLED, AlertRecord, Expected, NodeRecord, RolloutRecord
from edgectl.core.versions import distance, fits, way_out

SKEW_NS = 30 * SECOND_NS
OUTBOX_SHARE = 0.8
LIFE_SHARE = 0.25
UNSEEN_NS = 15 * 60 * SECOND_NS
"""How long a critical alert may stay unacknowledged."""
ROLLED_BACK = "rolled back"
"""How the reason of a quarantine begins when an operator ordered it; every other reason is the node's refusal."""


CONFIGURE = "edgectl nodes configure --diff"


class Expiry(msgspec.Struct, frozen=True, kw_only=True):
    """One role of the repository's metadata."""

    role: str
    expires_ns: int
    life_ns: int
    """How long the role is valid when it is freshly signed."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the rules may look at, fixed at one moment."""

    now_ns: int
    expected: Mapping[str, Expected]
    version: str = ""
    """Of this edgectl."""
    nodes: Mapping[str, NodeRecord]
    assignment: Assignment | None = None
    signed: Mapping[str, str] | None = None
    """Digest of every signed bundle → version; None where the repository is not at hand."""
    untrusted: str = ""
    """Why the repository cannot be believed; empty if it can."""
    expiries: tuple[Expiry, ...] = ()
    certificates: tuple[Expiry, ...] = ()
    """Of the fleet's own authority; the role of a node's is ``node NAME``."""
    critical: tuple[AlertRecord, ...] = ()
    """Open critical alerts."""
    rollouts: tuple[RolloutRecord, ...] = ()
    retired: Mapping[str, frozenset[str]] = msgspec.field(default_factory=dict)
    """Per node, the outboxes of machines that had its name before."""
    lost: Mapping[str, tuple[tuple[int, int], ...]] = msgspec.field(default_factory=dict)
    """Per node, the ranges of alerts that its outbox reported as damaged."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between desired and actual. `fix` is the command to type, or empty."""

    kind: str
    node: str = ""
    subject: str = ""
    """Tells apart findings of one kind on one node."""
    since_ns: int
    detail: str
    fix: str = ""

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.node}/{self.subject}"


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Findings that read the same on several nodes: one line for people."""

    kind: str
    nodes: tuple[str, ...]
    since_ns: int
    detail: str
    fix: str


Rule = Callable[[Facts], Iterator[Finding]]


def audit(facts: Facts) -> tuple[Finding, ...]:
    """All findings, by kind in the order of `RULES`, then by node."""
    return tuple(finding for rule in RULES for finding in rule(facts))


def group(findings: Sequence[Finding]) -> tuple[Group, ...]:
    """`findings` with those of equal kind and detail joined; a joined line's fix selects by the finding."""
    cells: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        cells.setdefault((finding.kind, finding.detail), []).append(finding)
    groups = []
    for (kind, detail), members in cells.items():
        names = tuple(f.node for f in members if f.node)
        fix = members[0].fix
        if len(names) > 1:
            fix = fix.replace(f"name={names[0]}", f"finding={kind}")
        since = min(f.since_ns for f in members)
        groups.append(Group(kind=kind, nodes=names, since_ns=since, detail=detail, fix=fix))
    return tuple(groups)


# ── rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _reports(facts: Facts) -> Iterator[tuple[str, NodeRecord, Report]]:
    for name in sorted(facts.expected):
        record = facts.nodes.get(name)
        if record is not None and record.report is not None:
            yield name, record, record.report


def reachability(facts: Facts) -> Iterator[Finding]:
    """A node that does not answer, never did, or whose newest report is too old."""
    for name, expected in sorted(facts.expected.items()):
        record = facts.nodes.get(name) or NodeRecord(node=name)
        show = f"edgectl nodes show {name}"
        again = "edgectl collect" if expected.asked else f"edgectl nodes why {name}"
        if record.error:
            since = record.failing_since_ns or record.attempted_ns
            detail = record.error.removeprefix(f"node {name}: ")  # the finding names it already
            fix = f"edgectl nodes bootstrap {name}" if NOT_INSTALLED in detail else show
            yield Finding(kind="unreachable", node=name, since_ns=since, detail=detail, fix=fix)
        elif record.report is None:
            said = "has never reported"
            yield Finding(kind="never-reported", node=name, since_ns=facts.now_ns, detail=said, fix=again)
        elif facts.now_ns - record.received_ns > expected.silent_after_ns:
            detail = f"newest report is of {iso(record.received_ns)}"
            yield Finding(kind="stale-report", node=name, since_ns=record.received_ns, detail=detail, fix=again)


def releases(facts: Facts) -> Iterator[Finding]:
    """A node that runs something else than what it is assigned, or something that nobody signed."""
    models = facts.assignment.models if facts.assignment else {}
    for name, record, report in _reports(facts):
        running = {model.recipe: model for model in report.models}
        for recipe in sorted({*models, *running}):
            wanted, model = placement(models.get(recipe, ()), name), running.get(recipe)
            if model is not None and facts.signed is not None and model.bundle not in facts.signed:
                detail = f"runs a {recipe} that is not in the repository ({model.bundle[:12]})"
                yield _misplaced("unknown-bundle", name, recipe, record, detail, "edgectl rollback")
            elif wanted is not None and (model is None or model.bundle != wanted.sha256):
                yield _other(facts, name, recipe, record, report, wanted, model)
            elif wanted is None and model is not None:
                detail = f"runs {recipe} {model.version}, nothing is assigned"
                yield _misplaced("wrong-release", name, recipe, record, detail, "edgectl deploy")


def _other(
    facts: Facts,
    name: str,
    recipe: str,
    record: NodeRecord,
    report: Report,
    wanted: Placement,
    model: ModelStatus | None,
) -> Finding:
    runs = f"runs {recipe} {model.version}" if model else f"runs no {recipe}"
    since = standing_since(report, facts.assignment)
    refused = next(
        (q for q in report.quarantined if (q.recipe, q.bundle) == (recipe, wanted.sha256) and q.epoch >= since), None
    )
    if refused is not None and refused.reason.startswith(ROLLED_BACK):
        detail = f"{runs}: rolled back, assignment pending ({wanted.version} is still assigned)"
        return _misplaced("rollback-pending", name, recipe, record, detail, "edgectl rollback")
    why = f", refused {wanted.version}: {refused.reason}" if refused else f", assigned {wanted.version}"
    if model is not None and model.version == wanted.version:
        why = f" as another bundle than assigned ({model.bundle[:12]}, not {wanted.sha256[:12]})"
    return _misplaced("wrong-release", name, recipe, record, runs + why, "edgectl deploy", f"@{wanted.version}")


def standing_since(report: Report, assignment: Assignment | None) -> int:
    """The lowest epoch of a quarantine that still counts on the node.

    A quarantine ends with a higher epoch only once the node has seen that epoch: one that was a canary may have left a
    release before it heard of the assignment for all.
    """
    signed = assignment.epoch.number if assignment else 0
    return min(signed, report.epoch.number) if report.epoch else signed


def _misplaced(kind: str, name: str, recipe: str, record: NodeRecord, detail: str, verb: str, at: str = "") -> Finding:
    fix = f"{verb} {recipe}{at} --select name={name}"
    return Finding(kind=kind, node=name, subject=recipe, since_ns=record.received_ns, detail=detail, fix=fix)


def health(facts: Facts) -> Iterator[Finding]:
    """What a node says about itself: golden vectors, sources, outbox, clock, epoch."""
    for name, record, report in _reports(facts):
        for model in report.models:
            if not model.golden_error <= 1:
                detail = f"{model.recipe} {model.version}: golden vectors off by {model.golden_error:.3g} tolerances"
                yield _misplaced("golden-failed", name, model.recipe, record, detail, "edgectl rollback")
        if report.state in ("failed", "degraded"):
            detail = "; ".join(report.reasons) or f"reports itself {report.state}"
            yield _health(f"node-{report.state}", record, detail)
        for action in report.actions:
            if action.refused and not action.dry_run:
                detail = f"action {action.name}: {action.refused}"
                yield _health("action-not-allowed", record, detail, fix="edgectl nodes allow", subject=action.name)
        outbox = report.outbox
        if outbox.log_id in facts.retired.get(name, ()):
            detail = "the machine that was replaced answers under its old name"
            yield _health("replaced-machine", record, detail, fix=f"edgectl nodes why {name}")
        if outbox.limit_bytes and outbox.bytes > OUTBOX_SHARE * outbox.limit_bytes:
            share = outbox.bytes / outbox.limit_bytes
            detail = f"{counted(outbox.records, 'alert')} not collected yet, {share:.0%} of the outbox is used"
            yield _health("outbox-filling", record, detail, fix="edgectl collect")
        ranges = facts.lost.get(name, ())
        if outbox.lost or ranges:
            what = ", ".join(f"{first}–{last}" for first, last in ranges) or f"{outbox.lost} in number"
            yield _health("outbox-lost", record, f"storage damaged alerts {what}")
        if abs(record.skew_ns) > SKEW_NS:
            where = "ahead" if record.skew_ns > 0 else "behind"
            yield _health("clock-skew", record, f"clock is {abs(record.skew_ns) / SECOND_NS:.0f} s {where}")
        if facts.assignment and report.epoch and report.epoch.number > facts.assignment.epoch.number:
            ours = facts.assignment.epoch.number
            detail = f"is at epoch {report.epoch.number} of {report.epoch.operator}, this repository at {ours}"
            yield _health("foreign-epoch", record, detail)


def settings(facts: Facts) -> Iterator[Finding]:
    """A node whose agent.yaml or whose agent is not what fleet.yaml asks for."""
    for name, record, report in _reports(facts):
        wanted = facts.expected[name]
        where = "; its machine is its owner's" if wanted.by_hand else ""  # else one line would name one fix for all
        if wanted.config_refused:
            yield _health("config-drift", record, f"fleet.yaml makes no agent.yaml for it: {wanted.config_refused}")
        elif wanted.config_sha256 and report.config_sha256 not in ("", wanted.config_sha256):
            fix = f"edgectl nodes restart {name}" if wanted.here else f"{CONFIGURE} --select name={name}"
            detail = f"agent.yaml is not the one that fleet.yaml makes{where}"
            yield _health("config-drift", record, detail, wanted.by_hand or fix)
        far = distance(report.agent, facts.version)
        if far:
            fix = wanted.by_hand or way_out(name, report.agent, facts.version)
            yield _health("agent-version", record, f"{far}{where}", fix)
        elif not fits(wanted.agent_version, report.agent):
            detail = f"agent {report.agent}, fleet.yaml asks for {wanted.agent_version}{where}"
            yield _health(
                "agent-version", record, detail, wanted.by_hand or f"edgectl nodes upgrade --select name={name}"
            )


def _health(kind: str, record: NodeRecord, detail: str, fix: str = "", subject: str = "") -> Finding:
    fix = fix or f"edgectl nodes show {record.node}"
    return Finding(kind=kind, node=record.node, subject=subject, since_ns=record.received_ns, detail=detail, fix=fix)


def metadata(facts: Facts) -> Iterator[Finding]:
    """A repository that does not verify, and signed metadata with less than a quarter of its life left."""
    if facts.untrusted:
        yield Finding(kind="repository-untrusted", since_ns=facts.now_ns, detail=facts.untrusted)
    for role in facts.expiries:
        left = role.expires_ns - facts.now_ns
        if left >= LIFE_SHARE * role.life_ns:
            continue
        since = role.expires_ns - int(LIFE_SHARE * role.life_ns)
        verb = "ends" if left > 0 else "ended"
        yield Finding(
            kind="metadata-expiring", subject=role.role, since_ns=since, fix="edgectl repo refresh",
            detail=f"{role.role} {verb} {iso(role.expires_ns)}",
        )  # fmt: skip


def certificates(facts: Facts) -> Iterator[Finding]:
    """A certificate of the fleet's own authority with less than a quarter of its life left."""
    for held in facts.certificates:
        left = held.expires_ns - facts.now_ns
        node = held.role.removeprefix("node ") if held.role.startswith("node ") else ""
        if left >= LIFE_SHARE * held.life_ns or (node and node not in facts.expected):
            continue
        fix = f"edgectl nodes configure --select name={node}" if node else ""
        verb = "ends" if left > 0 else "ended"
        yield Finding(
            kind="certificate-expiring", node=node, subject="" if node else held.role,
            since_ns=held.expires_ns - int(LIFE_SHARE * held.life_ns),
            fix=fix or ("edgectl init" if held.role == "operator" else ""),
            detail=f"{'its' if node else held.role} certificate {verb} {iso(held.expires_ns)}",
        )  # fmt: skip


def unseen(facts: Facts) -> Iterator[Finding]:
    """Critical alerts that are open and that nobody acknowledged in time."""
    for record in facts.critical:
        alert = record.alert
        if record.acknowledged_ns or facts.now_ns - record.stored_ns <= UNSEEN_NS:
            continue
        yield Finding(
            kind="alert-unacknowledged", node=alert.node, subject=alert.id, since_ns=record.stored_ns,
            detail=f"critical alert {alert.id} on {alert.stream}", fix=f"edgectl alerts show {alert.id}",
        )  # fmt: skip


def unfinished(facts: Facts) -> Iterator[Finding]:
    """Rollouts that wait for somebody."""
    for rollout in facts.rollouts:
        if rollout.state in ("planned", "running", "paused", "reverting", "stuck"):
            what = {"running": "was interrupted", "planned": "was interrupted", "stuck": "is halted, not all reverted"}
            detail = f"{rollout.name} {rollout.recipe} {rollout.plan.version} {what.get(rollout.state, rollout.state)}"
            yield Finding(
                kind="rollout-open", subject=rollout.name, since_ns=rollout.changed_ns, detail=detail,
                fix=rollout.resume,
            )  # fmt: skip


RULES: tuple[Rule, ...] = (reachability, releases, health, settings, metadata, certificates, unseen, unfinished)
