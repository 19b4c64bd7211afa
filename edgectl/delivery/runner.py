"""Carries a rollout out: asks `core.rollout.decide` for the next step, journals it, does it.

Every step is in the journal before it is taken, so that a rollout whose process ended anywhere goes on from there: a
repeated step finds its work done. Nodes are served in parallel; the journal is written one entry at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from edgectl_agent.core.messages import Allowance, Assignment, Epoch, Placement, Report, TrustStatus, UpdateResult
from edgectl_agent.core.wording import counted

from edgectl.core.errors import ConfigError, EdgeError, LockHeld, NodeUnreachable, RemoteRefused, StorageError
from edgectl.core.evidence import Observation, follows, observe, placed, placement
from edgectl.core.records import RolloutRecord
from edgectl.core.rollout import RESUMABLE, Decision, Entry, Progress, decide, retries
from edgectl.delivery.interface import Connect, Detached, Node, Repository
from edgectl.delivery.parallel import Stopped, each
from edgectl.store.store import Store

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
LONGEST_WATCH_S = 15.0
"""Between two looks at the reports of nodes that report by themselves."""
FOREIGN = frozenset({"old-epoch", "forked-epoch", "rollback"})
"""Reasons with which a node refuses what is older than, or differs from, what another operator gave it."""

Watch = Callable[[Entry, Progress], None]


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a rollout works with; everything that is not a decision."""

    store: Store
    repository: Repository | None
    """None where the keys or the repository are not at hand: then only a rollback is possible."""
    connect: Connect
    fleet: str
    operator: str
    """``user@host`` and the key's id: half of an epoch."""
    clock_ns: Callable[[], int]
    monotonic_s: Callable[[], float]
    forks: int = 8
    stop: threading.Event = field(default_factory=threading.Event)
    watch: Watch = lambda entry, progress: None
    patience_s: Callable[[str], float] = lambda node: 0.0
    """How much longer than the plan says a node's proof may take; above 0 only for nodes that report by themselves."""
    waiting: Callable[[int, float], None] = lambda count, longest_s: None
    """Called when so many nodes were told and their reports are waited for, at most so long."""
    allow: tuple[Allowance, ...] | None = None
    """What nodes' actions may do; None leaves it as it is."""
    signed: Callable[[tuple[str, ...]], None] = lambda nodes: None
    """Called with the nodes of a phase when its assignment is signed, also again after an interruption."""


Judge = Callable[[Report], Observation]


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A node that was told, and whose proof comes when it reports by itself."""

    judge: Judge
    since_ns: int
    deadline_s: float
    conclude: Callable[[str, Observation | None], None]


class Runner:
    """One rollout under way."""

    def __init__(self, record: RolloutRecord, progress: Progress, tools: Tools) -> None:
        self._record = record
        self._plan = record.plan
        self._progress = progress
        self._tools = tools
        self._turn = threading.Lock()
        self._orders: tuple[Epoch, TrustStatus] | None = None
        self._pending: dict[str, _Pending] = {}

    def resume(self) -> Progress:
        """Go on after the process ended, or try again what failed; then as `run`. Nothing happens to what has ended."""
        again = retries(self._progress)
        if self._progress.state in RESUMABLE:
            self._journal("resume")
        for node in again:
            self._journal("retry", node)
        return self.run()

    def run(self) -> Progress:
        """Until nothing is left to do for now.

        Raises:
            Detached: stopped by Ctrl-C.
            LockHeld: a node follows another operator.
            StorageError: the journal or the repository cannot be written.
        """
        try:
            while True:
                if self._tools.stop.is_set():
                    raise Stopped
                decision = decide(self._plan, self._progress, self._tools.repository is not None)
                if decision.action == "stop":
                    return self._progress
                self._take(decision)
        except (KeyboardInterrupt, Stopped):
            name = self._record.name
            done = self._progress.count("confirmed")
            raise Detached(
                f"detached from {name}: {done} of {counted(len(self._progress.nodes), 'node')} confirmed",
                hint=self._record.resume,
            ) from None
        except EdgeError as e:
            go_on = self._record.resume
            e.hint = f"{e.hint}; then {go_on}" if e.hint else f"then {go_on}"
            raise

    def _take(self, decision: Decision) -> None:
        match decision.action:
            case "record":
                self._journal(decision.event, detail=decision.reason)
            case "tell":
                self._each(decision.nodes, self._tell)
            case "sign":
                self._sign(decision.nodes)
            case "bring":
                self._each(decision.nodes, self._bring)
                self._watch()
            case "return":
                self._each(decision.nodes, self._return)
                self._watch()

    def _each(self, nodes: tuple[str, ...], work: Callable[[str], None]) -> None:
        each(nodes, work, forks=self._tools.forks, stop=self._tools.stop)

    def _journal(self, event: str, node: str = "", detail: str = "", epoch: int = 0) -> None:
        detail = detail.removeprefix(f"node {node}: ")  # the entry names it already
        with self._turn:
            entry = Entry(event=event, at_ns=self._tools.clock_ns(), node=node, detail=detail, epoch=epoch)
            self._progress = self._tools.store.rollouts.append(self._record.number, self._progress, entry)
            self._tools.watch(entry, self._progress)

    # ── signing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _sign(self, nodes: tuple[str, ...]) -> None:
        """Make the assignment in which `nodes` have their target, or, on the way back, their former placement."""
        repository = self._repository
        current = repository.assignment()
        side = self._plan.former if self._progress.state == "reverting" else self._plan.targets
        wanted = placed(current.models.get(self._plan.recipe, ()) if current else (), self._moves(nodes, side))
        allow = self._allow(current)
        if current is None or current.allow != allow or not self._is_signed(current, wanted):
            number = (current.epoch.number if current else 0) + 1
            expect = repository.versions().timestamp
            self._journal("assign", epoch=number)
            models = {**(current.models if current else {}), self._plan.recipe: wanted}
            epoch = Epoch(number=number, operator=self._tools.operator)
            placed_models = {recipe: places for recipe, places in models.items() if places}
            current = Assignment(fleet=self._tools.fleet, epoch=epoch, models=placed_models, allow=allow)
            now_ns = self._tools.clock_ns()
            repository.assign(current, datetime.fromtimestamp(now_ns / 1e9, UTC), expect)
        digest = repository.versions().assignment_sha256
        rollouts = self._tools.store.rollouts
        rollouts.signed(current, digest, self._record.number, self._plan.reason, self._tools.clock_ns())
        self._orders = None
        self._tools.signed(nodes)
        self._journal("assigned", epoch=current.epoch.number)

    def _allow(self, current: Assignment | None) -> tuple[Allowance, ...]:
        """What actions may do: as fleet.yaml says now, else as it was signed."""
        if self._tools.allow is not None:
            return self._tools.allow
        return current.allow if current else ()

    def _is_signed(self, current: Assignment, wanted: tuple[Placement, ...]) -> bool:
        """The process ended between signing and noting it."""
        same = current.models.get(self._plan.recipe, ()) == wanted
        return self._progress.intended == current.epoch.number and same

    @staticmethod
    def _moves(nodes: tuple[str, ...], side: tuple[Placement, ...]) -> Mapping[str, Placement | None]:
        return {node: placement(side, node) for node in nodes}

    @property
    def _repository(self) -> Repository:
        if self._tools.repository is None:
            raise ConfigError("this needs the repository and its keys", hint="run it where they are")
        return self._tools.repository

    def _ours(self) -> tuple[Epoch, TrustStatus]:
        """The epoch and the metadata that a node must show; read once, because only `_sign` changes them."""
        if self._orders is None:
            current = self._repository.assignment()
            if current is None or current.epoch.number < self._progress.signed:
                raise LockHeld("the repository is older than this rollout", hint="restore it from the other machine")
            # Another rollout of this repository may have signed since; nodes then show its later epoch.
            latest = current.epoch.number == self._progress.signed
            operator = current.epoch.operator if latest else self._tools.operator
            epoch = Epoch(number=self._progress.signed, operator=operator)
            self._orders = epoch, self._repository.versions()
        return self._orders

    # ── one node ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _target(self, name: str) -> Placement:
        target = placement(self._plan.targets, name)
        assert target is not None, "a plan has a target for each of its nodes"
        return target

    def _tell(self, name: str) -> None:
        """Have the node return to its other slot by itself, if that is where it shall go."""
        target, recipe = self._target(name), self._plan.recipe
        self._journal("offer", name)
        node = self._tools.connect(name)
        try:
            report = node.status()
            model = next((m for m in report.models if m.recipe == recipe), None)
            said = "runs it already" if model and model.bundle == target.sha256 else ""
            if model and not said and model.previous == target.sha256:
                result = node.rollback(recipe, max(report.epoch.number if report.epoch else 0, self._newest()))
                said = _told(result)
            self._journal("stage", name, said)
        except NodeUnreachable as e:
            self._journal("lose", name, e.message)
        except RemoteRefused as e:  # the assignment may still bring it there
            self._journal("stage", name, f"would not by itself: {e.message}")
        finally:
            node.close()

    def _newest(self) -> int:
        """The newest epoch known as signed; 0 if none is.

        A canary has only seen the epoch of its phase. The assignment that was signed for the others names it as well,
        and a quarantine of the lower epoch would end there, with the release that is being rolled back.
        """
        repository = self._tools.repository
        known = [self._tools.store.rollouts.desired(), repository.assignment() if repository else None]
        return max((assignment.epoch.number for assignment in known if assignment), default=0)

    def _bring(self, name: str) -> None:
        target = self._target(name)
        if self._tools.repository is None:
            return self._settle(name, target)
        self._journal("offer", name)
        node = self._tools.connect(name)
        try:
            if self._tools.patience_s(name):
                node.status()  # one that is silent already is unreachable, not silent after activation
            node.push(self._repository.slice_for(name, node.have()))
            self._journal("stage", name)
            self._pause(0)
            self._journal("activate", name)
        except NodeUnreachable as e:
            return self._journal("lose", name, e.message)
        except RemoteRefused as e:
            return self._journal("refuse", name, e.message)
        else:
            return self._await(name, node, target)
        finally:
            node.close()

    def _settle(self, name: str, target: Placement) -> None:
        """Without keys the node's own rollback is all there is: see whether it holds."""
        if self._progress.nodes[name].state == "staged":
            self._journal("activate", name)
        node = self._tools.connect(name)
        try:
            return self._follow(name, node, self._runs(target.sha256), self._conclude)
        finally:
            node.close()

    def _await(self, name: str, node: Node, target: Placement) -> None:
        try:
            refusal = self._order(node)
        except RemoteRefused as e:
            refusal = e.message
        if refusal:
            return self._journal("refuse", name, refusal)
        return self._follow(name, node, self._runs(target.sha256), self._conclude)

    def _conclude(self, name: str, seen: Observation | None) -> None:
        if seen is None:
            return self._journal("fall-silent", name, "no answer after activation")
        event = "confirm" if seen.event == "confirm" else "refuse"
        return self._journal(event, name, seen.detail)

    def _order(self, node: Node) -> str:
        """Tell the node to update; a refusal, or empty. No answer says nothing: it may have heard us."""
        deadline = self._tools.monotonic_s() + self._plan.timeout_s
        while True:
            try:
                result = node.update(self._plan.timeout_s)
            except NodeUnreachable:
                return ""
            if result.state != "refused":
                return ""
            if result.reason in FOREIGN or result.exit_code == LockHeld.exit_code:
                raise LockHeld(f"the node follows another operator: {result.message}")
            if result.exit_code != StorageError.exit_code or self._tools.monotonic_s() >= deadline:
                return result.message or result.reason
            self._pause(LONGEST_PAUSE_S)  # temporary, as the node says

    def _runs(self, sha256: str) -> Judge:
        """Whether a report proves that its node runs `sha256` under our orders."""
        epoch, trust = self._ours() if self._tools.repository else (None, None)
        return lambda report: observe(report, self._plan.recipe, sha256, epoch, trust)

    def _follow(self, name: str, node: Node, judge: Judge, conclude: Callable[[str, Observation | None], None]) -> None:
        """Ask until the node has proven what it should; one that reports by itself is left to `_watch`."""
        patience_s = self._tools.patience_s(name)
        if not patience_s:
            return conclude(name, self._prove(node, judge))
        deadline_s = self._tools.monotonic_s() + self._plan.timeout_s + patience_s
        pending = _Pending(judge=judge, since_ns=self._tools.clock_ns(), deadline_s=deadline_s, conclude=conclude)
        with self._turn:
            self._pending[name] = pending
        return None

    def _prove(self, node: Node, judge: Judge) -> Observation | None:
        """Ask until the node proves it, refuses, or its time is up; None if it did not answer at last."""
        deadline = self._tools.monotonic_s() + self._plan.timeout_s
        pause = FIRST_PAUSE_S
        while True:
            seen = self._look(node, judge)
            if (seen is not None and seen.event != "wait") or self._tools.monotonic_s() >= deadline:
                return seen
            self._pause(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _look(self, node: Node, judge: Judge) -> Observation | None:
        try:
            report = node.status()
        except (NodeUnreachable, RemoteRefused):
            return None
        self._keep(report)
        seen = judge(report)
        if seen.event == "foreign":
            raise LockHeld(f"another operator commands {report.node}: {seen.detail}")
        return seen

    def _watch(self) -> None:
        """Wait for the reports of the nodes that were told and report by themselves: in one thread, however many."""
        if self._pending:
            longest_s = max(p.deadline_s for p in self._pending.values()) - self._tools.monotonic_s()
            self._tools.waiting(len(self._pending), longest_s)
        while self._pending:
            for name, pending in list(self._pending.items()):
                seen = self._reported(name, pending)
                due = self._tools.monotonic_s() >= pending.deadline_s
                if due or (seen is not None and seen.event != "wait"):
                    del self._pending[name]
                    pending.conclude(name, seen)
            if self._pending:
                shortest_s = min(self._tools.patience_s(name) for name in self._pending)
                self._pause(max(FIRST_PAUSE_S, min(LONGEST_WATCH_S, shortest_s / 60)))

    def _reported(self, name: str, pending: _Pending) -> Observation | None:
        """What its newest report proves; None if nothing, and it has not reported since it was told."""
        node = self._tools.connect(name)
        try:
            seen = self._look(node, pending.judge)
        finally:
            node.close()
        if seen is None or seen.event != "wait":
            return seen
        record = self._tools.store.nodes.get(name)
        return seen if record is not None and record.received_ns >= pending.since_ns else None

    def _return(self, name: str) -> None:
        former = placement(self._plan.former, name)
        judge = self._runs(former.sha256) if former else self._has_orders()
        conclude = self._returned if former else self._left
        node = self._tools.connect(name)
        try:
            node.push(self._repository.slice_for(name, node.have()))
            refusal = self._order(node)
            if refusal and former:
                return self._journal("stick", name, refusal)
            if former is None and not self._tools.patience_s(name):
                report = node.status()
                self._keep(report)
                return conclude(name, self._keeps(report))
            return self._follow(name, node, judge, conclude)
        except (NodeUnreachable, RemoteRefused) as e:
            return self._journal("stick", name, e.message)
        finally:
            node.close()

    def _returned(self, name: str, seen: Observation | None) -> None:
        if seen is not None and seen.event == "confirm":
            return self._journal("revert", name, f"back to {seen.detail}")
        return self._journal("stick", name, seen.detail if seen else "no answer")

    def _left(self, name: str, seen: Observation | None) -> None:
        """A node that ran nothing of the recipe before is back if it still runs nothing: running cannot be unsaid."""
        if seen is None or seen.event != "confirm":
            return self._journal("stick", name, seen.detail if seen else "no answer")
        if not seen.detail:
            return self._journal("revert", name, "runs nothing of it, as before")
        return self._journal("stick", name, f"ran no {self._plan.recipe} before, keeps {seen.detail}")

    def _has_orders(self) -> Judge:
        """Whether a report was made after its node heard that it is assigned nothing of the recipe."""
        epoch, trust = self._ours()
        return lambda report: follows(report, epoch, trust) or self._keeps(report)

    def _keeps(self, report: Report) -> Observation:
        """The version that the node runs of the recipe, if any."""
        model = next((m for m in report.models if m.recipe == self._plan.recipe), None)
        return Observation(event="confirm", detail=model.version if model else "")

    def _keep(self, report: Report) -> None:
        with self._turn:
            self._tools.store.nodes.save(report, self._tools.clock_ns())

    def _pause(self, seconds: float) -> None:
        if self._tools.stop.wait(seconds):
            raise Stopped


def _told(result: UpdateResult) -> str:
    """What became of the order to return by itself."""
    if result.state == "ordered":
        return result.message
    return (
        f"would not by itself: {result.message or result.reason}" if result.state == "refused" else "reverted by itself"
    )
