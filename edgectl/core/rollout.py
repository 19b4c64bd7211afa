"""A rollout's rules: its life cycle, what a node must show, and when the next phase may begin. No I/O.

The plan is frozen when the rollout is made; everything after it is an event in a journal. Both life cycles are tables
of (state, event) → state; an event that a table does not name raises and changes nothing. Laws:

1. `fold` of a journal is the state, whoever appended to it and however often the process died in between.
2. Promotion needs positive evidence: a canary phase passes only with ``min_confirmed`` confirmed nodes and no failure.
   No answer at all can make a rollout inconclusive, never successful.
3. Only nodes that were reached count: an unreachable node leaves the denominator; one silent after activation failed.
4. Only `confirmed` counts as success: the node's own report names the digest of the loaded bytes, the golden vectors
   within tolerance, and this rollout's epoch or a later one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

import msgspec
from edgectl_agent.core.errors import EdgeError
from edgectl_agent.core.messages import Placement

RolloutState = Literal[
    "planned", "running", "paused", "reverting", "done", "incomplete", "halted", "stuck", "superseded"
]
NodeState = Literal[
    "pending", "offered", "staged", "activated", "confirmed", "reverted", "failed", "silent", "unreachable"
]

ROLLOUT: Mapping[tuple[RolloutState, str], RolloutState] = MappingProxyType({
    ("planned", "start"): "running",
    ("planned", "supersede"): "superseded",
    ("running", "assign"): "running",        # about to sign: the entry names the epoch
    ("running", "assigned"): "running",      # signed and stored in the repository
    ("running", "pass"): "running",          # the phase's verdict is good, the next one begins
    ("running", "pause"): "paused",          # inconclusive
    ("running", "halt"): "reverting",
    ("running", "finish"): "done",
    ("running", "fall-short"): "incomplete",
    ("running", "resume"): "running",        # the process had ended in between
    ("running", "supersede"): "superseded",
    ("paused", "resume"): "running",
    ("paused", "supersede"): "superseded",
    ("incomplete", "resume"): "running",
    ("incomplete", "supersede"): "superseded",
    ("reverting", "assign"): "reverting",
    ("reverting", "assigned"): "reverting",
    ("reverting", "resume"): "reverting",
    ("reverting", "end-halted"): "halted",   # every node that was touched is back
    ("reverting", "end-stuck"): "stuck",
    ("reverting", "supersede"): "superseded",
    ("stuck", "resume"): "reverting",
    ("stuck", "supersede"): "superseded",
})  # fmt: skip

NODE: Mapping[tuple[NodeState, str], NodeState] = MappingProxyType({
    ("pending", "offer"): "offered",         # about to upload
    ("pending", "lose"): "unreachable",
    ("offered", "offer"): "offered",         # again, after a crash
    ("offered", "stage"): "staged",          # uploaded
    ("offered", "refuse"): "failed",
    ("offered", "lose"): "unreachable",
    ("staged", "offer"): "offered",
    ("staged", "activate"): "activated",     # about to order the update
    ("staged", "refuse"): "failed",
    ("staged", "lose"): "unreachable",
    ("activated", "offer"): "offered",
    ("activated", "confirm"): "confirmed",
    ("activated", "refuse"): "failed",
    ("activated", "fall-silent"): "silent",
    ("unreachable", "retry"): "pending",
    ("failed", "retry"): "pending",
    ("silent", "retry"): "pending",
    **{(state, "revert"): "reverted" for state in ("offered", "staged", "activated", "confirmed", "failed", "silent",
                                                   "unreachable")},
    # could not be brought back; stays what it is, and the entry says why
    **{(state, "stick"): state for state in ("offered", "staged", "activated", "confirmed", "failed", "silent",
                                             "unreachable")},
})  # fmt: skip

FINAL: frozenset[NodeState] = frozenset({"confirmed", "failed", "silent", "unreachable", "reverted"})
OPEN: frozenset[RolloutState] = frozenset({"planned", "running", "paused", "reverting"})
RESUMABLE: frozenset[RolloutState] = frozenset(state for state, event in ROLLOUT if event == "resume")


class IllegalEvent(EdgeError):
    """The life cycle does not know this event in this state; a bug, not a mistake of the operator."""

    reason = "illegal-event"


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One cohort. A canary's failure halts the rollout; with fewer than `min_confirmed` it is inconclusive."""

    nodes: tuple[str, ...]
    canary: bool
    min_confirmed: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that a rollout will do, fixed before it begins and kept as JSON in the store."""

    format: int = 1
    kind: Literal["deploy", "rollback", "upgrade", "configure"] = "deploy"
    recipe: str
    version: str
    """What the operator asked for; `targets` say it per node."""
    targets: tuple[Placement, ...]
    former: tuple[Placement, ...] = ()
    """Where the nodes return to; a node in none of them ran nothing of this recipe."""
    phases: tuple[Phase, ...]
    on_halt: Literal["revert"] = "revert"
    timeout_s: float = 60.0
    """How long a node may take from the order to its proof."""
    selection: str = ""
    reason: str = ""
    parts: Mapping[str, str] = {}
    """``upgrade`` and ``configure``: node → the environment, or the SHA-256 of the agent.yaml, that it shall have.
    Machines are changed by their administrator: nothing is signed, and each keeps itself what it returns to."""

    @property
    def signed(self) -> bool:
        """Whether it moves nodes by signed assignments."""
        return self.kind in ("deploy", "rollback")

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(node for phase in self.phases for node in phase.nodes)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the journal. `epoch` is set by ``assign`` and ``assigned``."""

    event: str
    at_ns: int
    node: str = ""
    detail: str = ""
    epoch: int = 0


class NodeProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Where one node is, since when, and the last thing said about it."""

    state: NodeState = "pending"
    since_ns: int = 0
    detail: str = ""
    touched: bool = False
    """Something was sent to it, so a halt must bring it back."""
    stuck: bool = False


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a rollout is: the fold of its journal."""

    state: RolloutState = "planned"
    phase: int = 0
    intended: int = 0
    """Epoch that was about to be signed."""
    signed: int = 0
    """Epoch in force for the current phase, or for the way back; 0 while it must be signed."""
    reason: str = ""
    nodes: Mapping[str, NodeProgress] = msgspec.field(default_factory=dict)

    def count(self, *states: NodeState) -> int:
        return sum(node.state in states for node in self.nodes.values())


def begin(plan: Plan) -> Progress:
    """The state of an empty journal."""
    return Progress(nodes={node: NodeProgress() for node in plan.nodes})


def fold(plan: Plan, journal: Iterable[Entry]) -> Progress:
    """The state after `journal`. Raises `IllegalEvent`."""
    progress = begin(plan)
    for entry in journal:
        progress = apply(progress, entry)
    return progress


def apply(progress: Progress, entry: Entry) -> Progress:
    """The state after one more event. Raises `IllegalEvent`; `progress` itself never changes."""
    return _apply_node(progress, entry) if entry.node else _apply_rollout(progress, entry)


def _apply_node(progress: Progress, entry: Entry) -> Progress:
    old = progress.nodes.get(entry.node)
    if old is None:
        raise IllegalEvent(f"node {entry.node} is not part of this rollout")
    state = NODE.get((old.state, entry.event))
    if state is None:
        raise IllegalEvent(f"node {entry.node}: event {entry.event!r} is illegal in state {old.state!r}")
    new = NodeProgress(
        state=state,
        since_ns=entry.at_ns if state != old.state else old.since_ns,
        detail=entry.detail,
        touched=old.touched or entry.event == "offer",
        stuck=entry.event == "stick",
    )
    # A node that refused has quarantined (bundle, epoch): only a higher epoch makes it try again.
    signed = 0 if (old.state, entry.event) == ("failed", "retry") else progress.signed
    intended = progress.intended if signed else 0
    return msgspec.structs.replace(
        progress, nodes={**progress.nodes, entry.node: new}, signed=signed, intended=intended
    )


def _apply_rollout(progress: Progress, entry: Entry) -> Progress:
    state = ROLLOUT.get((progress.state, entry.event))
    if state is None:
        raise IllegalEvent(f"rollout: event {entry.event!r} is illegal in state {progress.state!r}")
    new = msgspec.structs.replace(progress, state=state, reason=entry.detail or progress.reason)
    match entry.event:
        case "assign":
            return msgspec.structs.replace(new, intended=entry.epoch)
        case "assigned":
            return msgspec.structs.replace(new, signed=entry.epoch)
        case "pass":
            return msgspec.structs.replace(new, phase=progress.phase + 1, intended=0, signed=0)
        case "halt":
            return msgspec.structs.replace(new, intended=0, signed=0)
        case "resume" if progress.state == "stuck":
            nodes = {name: msgspec.structs.replace(node, stuck=False) for name, node in progress.nodes.items()}
            return msgspec.structs.replace(new, nodes=nodes, intended=0, signed=0)
    return new


# ── decisions ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do next.

    ``record`` appends `event`; ``tell`` orders local rollbacks; ``sign`` makes the assignment of the current phase or
    of the way back; ``bring`` and ``return`` act on `nodes`; ``stop``: the rollout is where it can be for now.
    """

    action: Literal["record", "tell", "sign", "bring", "return", "stop"]
    event: str = ""
    nodes: tuple[str, ...] = ()
    reason: str = ""


def decide(plan: Plan, progress: Progress, can_sign: bool = True) -> Decision:
    """The one next step; repeating it after a crash is safe. Without keys (not `can_sign`) only a rollback goes on."""
    if progress.state == "planned":
        return Decision(action="record", event="start")
    if progress.state == "running":
        return _advance(plan, progress, can_sign)
    if progress.state == "reverting":
        return _withdraw(plan, progress)
    return Decision(action="stop", reason=progress.reason)


def _advance(plan: Plan, progress: Progress, can_sign: bool) -> Decision:
    reached = [node for phase in plan.phases[: progress.phase + 1] for node in phase.nodes]
    if not progress.signed and plan.kind == "rollback":  # the nodes first: that needs neither registry nor keys
        untold = tuple(node for node in reached if progress.nodes[node].state in ("pending", "offered"))
        if untold:
            return Decision(action="tell", nodes=untold)
    if plan.signed and not progress.signed and can_sign:
        return Decision(action="sign", nodes=tuple(reached))
    waiting = tuple(node for node in reached if progress.nodes[node].state not in FINAL)
    if waiting:
        return Decision(action="bring", nodes=waiting)
    return verdict(plan, progress)


def verdict(plan: Plan, progress: Progress) -> Decision:
    """Whether the current phase, whose nodes all came to an end, is passed, failed or inconclusive, and why."""
    phase = plan.phases[progress.phase]
    members = {name: progress.nodes[name] for name in phase.nodes}
    confirmed = [name for name, node in members.items() if node.state == "confirmed"]
    bad = [name for name, node in members.items() if node.state in ("failed", "silent")]
    if phase.canary and bad:
        first = members[bad[0]]
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        reason = f"canary {bad[0]}{more} {first.state}: {first.detail or 'no answer after activation'}"
        return Decision(action="record", event="halt", nodes=tuple(bad), reason=reason)
    if len(confirmed) < phase.min_confirmed:
        reason = f"{len(confirmed)} of {len(members)} canaries confirmed, {phase.min_confirmed} needed"
        return Decision(action="record", event="pause", reason=reason)
    if progress.phase + 1 < len(plan.phases):
        return Decision(action="record", event="pass", reason=f"{len(confirmed)} of {len(members)} confirmed")
    missing = [name for name, node in progress.nodes.items() if node.state != "confirmed"]
    if missing:
        reason = f"{progress.count('confirmed')} of {len(progress.nodes)} confirmed"
        return Decision(action="record", event="fall-short", nodes=tuple(missing), reason=reason)
    return Decision(action="record", event="finish", reason=f"{len(progress.nodes)} confirmed")


def _withdraw(plan: Plan, progress: Progress) -> Decision:
    if plan.signed and not progress.signed:
        return Decision(action="sign", nodes=touched(progress))
    waiting = [name for name in touched(progress) if not _settled(progress.nodes[name])]
    if waiting:
        return Decision(action="return", nodes=tuple(waiting))
    stuck = tuple(name for name in touched(progress) if progress.nodes[name].stuck)
    return Decision(action="record", event="end-stuck" if stuck else "end-halted", nodes=stuck)


def _settled(node: NodeProgress) -> bool:
    return node.state == "reverted" or node.stuck


def touched(progress: Progress) -> tuple[str, ...]:
    """Nodes that something was sent to, in plan order."""
    return tuple(name for name, node in progress.nodes.items() if node.touched)


def retries(progress: Progress) -> tuple[str, ...]:
    """Nodes that a resume tries once more. While the rollout runs, a failure is evidence and not yet judged."""
    if progress.state not in ("paused", "incomplete"):
        return ()
    return tuple(name for name, node in progress.nodes.items() if node.state in ("unreachable", "failed", "silent"))


def exit_code(progress: Progress) -> int:
    """The documented exit code of where a rollout stopped: the worst thing wins, a failure before a silence before an
    unreachable node."""
    fixed = {"done": 0, "halted": 20, "stuck": 21, "paused": 22, "superseded": 50}
    if progress.state in fixed:
        return fixed[progress.state]
    for states, code in ((("failed", "reverted"), 30), (("silent",), 32), (("unreachable",), 31)):
        if progress.count(*states):
            return code
    return 130
