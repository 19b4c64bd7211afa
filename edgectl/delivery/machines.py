"""Carries out what changes machines and not models: another agent (upgrade), another agent.yaml (configure).

The rules are those of every rollout (`edgectl.core.rollout`): canaries first, promotion by proof only, a failing canary
brings all that were touched back. Two things differ. Nothing is signed, because administrators change machines. And
each machine switches by itself (`edgectl.machine.switch`): how that ended is asked for after a cut link, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal

from edgectl_agent.core.wording import counted

from edgectl.core import phases
from edgectl.core.errors import EdgeError, LockHeld, NodeUnreachable, UsageError
from edgectl.core.records import RolloutRecord
from edgectl.core.rollout import Plan, Progress
from edgectl.delivery import deploy
from edgectl.delivery.deploy import freeze, recall
from edgectl.delivery.runner import Runner, Tools
from edgectl.machine import move as moves
from edgectl.machine.layout import AGENT
from edgectl.machine.move import Move
from edgectl.machine.switch import WITHIN_S, Outcome
from edgectl.store.store import Store

Kind = Literal["upgrade", "configure"]
_SUBJECT: Mapping[Kind, str] = {"upgrade": AGENT, "configure": "agent.yaml"}
MoveOf = Callable[[str, str], Move]
"""(node, id) → its move; makes no connection yet."""


def plan(
    kind: Kind,
    version: str,
    parts: Mapping[str, str],
    specification: str,
    seed: int,
    selection: str = "",
    reason: str = "",
) -> Plan:
    """The frozen plan.

    Args:
        kind: what is done.
        version: where to, for screens.
        parts: node → the part that it shall have.
        specification: phases, as `edgectl.core.phases.split` reads them.
        seed: number of the rollout.
        selection: what the operator asked for.
        reason: why.
    """
    return Plan(
        kind=kind,
        recipe=_SUBJECT[kind],
        version=version,
        targets=(),
        phases=phases.split(specification, parts, f"{kind}/{version}/{seed}"),
        parts=dict(parts),
        timeout_s=WITHIN_S,
        selection=selection,
        reason=reason,
    )


def begin(plan: Plan, tools: Tools, move_of: MoveOf) -> tuple[RolloutRecord, MachineRunner]:
    """Freeze `plan`, and make the runner that carries it out."""
    record, progress = freeze(plan, tools.operator, tools)
    return record, MachineRunner(record, progress, tools, move_of)


def resume(
    name: str, kind: Kind, parts: Mapping[str, str], tools: Tools, move_of: MoveOf
) -> tuple[RolloutRecord, MachineRunner]:
    """The rollout `name`, ready to go on with what it began.

    Args:
        name: ``r-3``.
        kind: what it must be.
        parts: node → the part that it would get today; for any node of the plan.
        tools: as for every rollout.
        move_of: makes a node's move.

    Raises:
        NothingMatched: there is none of that name.
        UsageError: it is of another kind, or fleet.yaml or the wheels have changed since.
        LockHeld: a later one took its place.
    """
    record, progress = recall(name, tools)
    if record.kind != kind:
        raise UsageError(f"{name} is no {kind}", hint=record.resume)
    changed = [node for node, part in record.plan.parts.items() if parts.get(node, part) != part]
    if changed:
        raise UsageError(
            f"what {name} began with is not what is here now: {changed[0]} would get {parts[changed[0]]}, "
            f"the plan says {record.plan.parts[changed[0]]}",
            hint=f"restore it, or begin anew: edgectl nodes {kind}",
        )
    return record, MachineRunner(record, progress, tools, move_of)


def unproven(kind: Kind, version: str, wanted: Mapping[str, str], store: Store) -> str:
    """As `edgectl.delivery.deploy.unproven`, of what changes machines. A configuration is told by its parts alone."""
    return deploy.unproven(kind, _SUBJECT[kind], wanted, store, version if kind == "upgrade" else "")


class MachineRunner(Runner):
    """One upgrade or configuration under way."""

    def __init__(self, record: RolloutRecord, progress: Progress, tools: Tools, move_of: MoveOf) -> None:
        super().__init__(record, progress, tools)
        self._move_of = move_of

    def _bring(self, name: str) -> None:
        try:
            move = self._move(name)
            if not self._ordered(name) or not move.begun():
                self._order_switch(name, move)
        except LockHeld:
            raise
        except NodeUnreachable as e:
            return self._journal("fall-silent" if self._ordered(name) else "lose", name, e.message)
        except EdgeError as e:
            if self._progress.nodes[name].state == "pending":
                self._journal("offer", name)
            return self._journal("refuse", name, e.message)
        return self._await_switch(name, move)

    def _order_switch(self, name: str, move: Move) -> None:
        with move.hold():
            self._journal("offer", name)
            move.stage()
            self._journal("stage", name)
            self._pause(0)
            self._journal("activate", name)
            move.begin()

    def _ordered(self, name: str) -> bool:
        return self._progress.nodes[name].state == "activated"

    def _await_switch(self, name: str, move: Move) -> None:
        try:
            ended = move.follow()
            gone = moves.lost(ended) if ended.state == "taken" else ()
            if gone:
                move.undo()
        except NodeUnreachable as e:
            return self._journal("fall-silent", name, e.message)
        except EdgeError as e:
            return self._journal("refuse", name, e.message)
        if ended.state != "taken":
            return self._journal("refuse", name, self._why(ended))
        if gone:
            return self._journal("refuse", name, f"the agent came up without {', '.join(gone)}; reverted")
        return self._confirm(name, move, ended)

    def _confirm(self, name: str, move: Move, ended: Outcome) -> None:
        found = moves.report(ended.after)
        if found is not None:
            self._keep(found)
        with suppress(EdgeError):  # an older environment more on its disk is no failure
            move.tidy()
        count = len(found.models) if found else 0
        models = f", {counted(count, 'model')}" if count else ""
        return self._journal("confirm", name, f"agent {found.agent if found else move.version}{models}")

    def _return(self, name: str) -> None:
        try:
            move = self._move(name)
            with move.hold():
                ended = move.undo()
        except EdgeError as e:
            return self._journal("stick", name, e.message)
        if ended.state == "stuck":
            return self._journal("stick", name, ended.reason)
        return self._journal("revert", name, "reverted by itself" if ended.state == "reverted" else "put back")

    def _move(self, name: str) -> Move:
        return self._move_of(name, self._record.name)

    @staticmethod
    def _why(ended: Outcome) -> str:
        return ended.reason if ended.state == "stuck" else f"reverted by itself: {ended.reason}"
