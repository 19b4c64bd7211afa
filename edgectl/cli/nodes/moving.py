"""What the verbs that change machines have in common: whom they mean, what they work with, what they print."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from edgectl_agent.core.wording import counted

from edgectl.cli import rolling, wiring
from edgectl.cli.output import Column, Format, Settings, confirm, emit, note, write
from edgectl.core.errors import EdgeError, NothingMatched, UsageError

if TYPE_CHECKING:
    from edgectl_agent.core.messages import Report

    from edgectl.delivery.machines import Kind
    from edgectl.inventory.types import Inventory, Node
    from edgectl.machine.move import Move
    from edgectl.provisioning.installing import Installed, Installer
    from edgectl.store.store import Store
    from edgectl.workspace import Workspace

WheelhouseOption = Annotated[
    Path | None, typer.Option("--wheelhouse", help="Upload packages from here (default: what the workspace has).")
]
WheelOption = Annotated[Path | None, typer.Option("--wheel", help="The agent's wheel (default: that of this edgectl).")]
AllOption = Annotated[bool, typer.Option("--all", help="All nodes that operators log in to.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and change nothing.")]
DiffOption = Annotated[bool, typer.Option("--diff", help="Show how files change.")]
CanaryOption = Annotated[str, typer.Option(help="First so many nodes (2) or percent (20%), then the rest.")]
PhasesOption = Annotated[str, typer.Option(help="Cumulative sizes, as 1,5%,25%,100% (default: 1,100%).")]
ResumeOption = Annotated[str, typer.Option(help="Go on with one (r-3) that was interrupted or fell short.")]


def elsewhere(
    fleet: Inventory, store: Store, names: Sequence[str], select: str, verb: str, everyone: bool = False
) -> list[Node]:
    """The nodes on other machines that `names` or `select` mean, or `everyone`.

    Raises:
        UsageError: none or several were said, or a node is a process on this machine, or nobody logs in there.
        NothingMatched: an unknown name, or a selector that hits nothing.
    """
    from edgectl.inventory.types import HERE

    if (bool(names), bool(select), everyone).count(True) != 1:
        raise UsageError(f"expected names of nodes, --select or --all, to {verb}", hint="edgectl nodes list")
    if names:
        found = [fleet.node(name) for name in dict.fromkeys(names)]
        local = next((node.name for node in found if node.via in HERE), None)
        if local is not None:
            raise UsageError(
                f"node {local} is a process on this machine: it runs with the agent that edgectl brings",
                hint=f"edgectl nodes restart {local}",
            )
        foreign = next((node for node in found if node.by_hand), None)
        if foreign is not None:
            raise UsageError(
                f"node {foreign.name}: its machine and its agent are its owner's to manage (via {foreign.via})",
                hint=foreign.by_hand,
            )
        return found
    able = {node.name for node in fleet.nodes if node.via not in HERE and not node.by_hand}
    none = "fleet.yaml has no node on another machine that operators log in to"
    return [fleet.node(name) for name in rolling.choose(fleet, store, able, none, select=select)]


def installing(
    said: Settings,
    fleet: Inventory,
    command: str,
    wheel: Path | None = None,
    wheelhouse: Path | None = None,
    to: str = "",
) -> Installer:
    """What machines are changed with, as this command line wants it."""
    from edgectl.provisioning.choosing import choice
    from edgectl.provisioning.installing import Installer

    workspace = said.workspace
    return Installer(
        workspace=workspace,
        columns=wiring.columns(workspace),
        authority=wiring.authority(workspace, fleet),
        now=wiring.now(),
        root=wiring.repository(workspace, fleet).root_bytes(),
        machine=lambda node: wiring.machine(workspace, fleet, node),
        packages=choice(workspace.wheels, workspace.wheelhouses, wheel, wheelhouse, to),
        command=command,
        since=wiring.now().isoformat(timespec="seconds"),
        tell=lambda node, text: note(f"{node}: {text}"),
    )


def reporting(store: Store, nodes: Sequence[Node]) -> dict[str, float]:
    """Those of `nodes` that are heard of as they should → how many seconds ago."""
    from edgectl.core.status import condition

    now_ns, records = time.time_ns(), store.nodes.all()
    well = {n.name: condition(records.get(n.name), n.expected, now_ns) for n in nodes}
    away = ("unknown", "unreachable", "silent")
    return {name: (now_ns - records[name].received_ns) / 1e9 for name in well if well[name] not in away}


def keep(reports: Sequence[Report], workspace: Workspace, fleet: Inventory) -> None:
    """Store what agents said when they came up: so they are known before the first round of collecting."""
    if reports:
        with wiring.store(workspace, fleet) as store:
            for report in reports:
                store.nodes.save(report, time.time_ns())


def uninstall(said: Settings, fleet: Inventory, node: Node, keep_data: bool) -> None:
    """Take the agent off a node's machine, this one or another.

    Raises:
        NodeUnreachable: there is no connection; the hint says how to go on without the machine.
    """
    from edgectl.core.errors import NodeUnreachable
    from edgectl.inventory.types import HERE

    if node.via in HERE:
        return wiring.connector(said.workspace, fleet, node).remove(keep_data=keep_data)
    try:
        return installing(said, fleet, "nodes remove").remove(node, keep_data)
    except NodeUnreachable as e:
        further = f"edgectl nodes remove {node.name} --forget leaves its machine as it is"
        e.hint = f"{e.hint}; or {further}" if e.hint else further
        raise


def show_differences(diffs: Mapping[str, str], output: Format) -> None:
    """Print node → diff for people, each under its node's name; its files have the same paths on every node."""
    if output in (Format.TABLE, Format.WIDE):
        for name, text in diffs.items():
            write(f"node {name}\n{text.rstrip()}")


def finish(rows: Sequence[Installed], diff: bool, output: Format) -> None:
    """Print what became of machines, and end with the exit code of the worst."""
    from edgectl.provisioning.installing import worst

    if diff:
        show_differences({row.node: row.diff for row in rows if row.diff}, output)
    columns = (
        Column("NODE", "node"),
        Column("STATE", "state"),
        Column("AGENT", "agent"),
        Column("ENVIRONMENT", "environment", wide=True),
        Column("SECONDS", "seconds", right=True),
        Column("DETAIL", lambda row: row.detail or "; ".join(row.steps)),
    )
    emit(rows, columns, output, name="node")
    code = worst(rows)
    if code:
        raise typer.Exit(code)


def digest(parts: Mapping[str, str]) -> str:
    """A short name for many parts."""
    return hashlib.sha256("".join(f"{n}={p}\n" for n, p in sorted(parts.items())).encode()).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A rollout that moves machines, as a command line wants it."""

    kind: Kind
    said: Settings
    sizes: tuple[str, str]
    """What ``--canary`` and ``--phases`` say."""
    resume: str
    dry_run: bool
    forks: int
    yes: bool
    output: Format
    selection: str
    everyone: bool
    """What ``--all`` says."""
    reason: str

    @contextmanager
    def locked(self) -> Iterator[tuple[Inventory, Store]]:
        """The fleet and its store, while nobody else works in this workspace. Raises `LockHeld`."""
        workspace = self.said.workspace
        fleet = wiring.inventory(workspace)
        lock = nullcontext() if self.dry_run else workspace.lock(f"nodes {self.kind}")
        with lock, wiring.store(workspace, fleet) as store:
            yield fleet, store

    def whom(self, fleet: Inventory, store: Store, names: Sequence[str]) -> list[Node]:
        """The nodes to move: those that are named, or those of the rollout that goes on. Raises as `elsewhere`."""
        if not self.resume:
            return elsewhere(fleet, store, names, self.selection, self.kind, self.everyone)
        if names or self.selection or self.everyone:
            raise UsageError(
                "--resume goes on with the nodes of its plan", hint=f"edgectl nodes {self.kind} --resume {self.resume}"
            )
        planned = store.rollouts.get(self.resume).plan.nodes
        gone = [name for name in planned if name not in fleet.names]
        if gone:
            raise NothingMatched(f"{self.resume} moves {gone[0]}, which fleet.yaml does not name any more")
        return [fleet.node(name) for name in planned]

    def parts(self, nodes: Sequence[Node], look: Callable[[Node], str], unknown: str) -> dict[str, str]:
        """Node → what `look` says, of all that have something to do; `unknown` of one that did not answer, which is
        asked again when its turn comes.

        Raises:
            EdgeError: the only node cannot be moved, or one that answered cannot.
        """
        from edgectl.core.errors import NodeUnreachable
        from edgectl.provisioning.installing import each_node

        parts = {}
        for name, value in each_node(nodes, look, self.forks).items():
            if isinstance(value, EdgeError):
                if len(nodes) == 1 or not isinstance(value, NodeUnreachable):
                    raise value
                note(f"{name}: {value.message.removeprefix(f'node {name}: ')}")
                value = unknown
            if value:
                parts[name] = value
        return parts

    def roll(
        self, fleet: Inventory, store: Store, parts: Mapping[str, str], wanted: Mapping[str, str], version: str,
        move: Callable[[Node, str], Move],
    ) -> None:  # fmt: skip
        """Make a rollout of `parts`, or go on with one, and end with its exit code.

        `wanted` is what each node shall have, also one that has it; empty where only the version is known.
        """
        from edgectl.core.phases import specification
        from edgectl.delivery import machines
        from edgectl.workspace import operator

        def move_of(name: str, id_: str) -> Move:
            return move(fleet.node(name), id_)

        tools = rolling.tools(self.said.workspace, fleet, store, None, operator(), self.forks)
        if self.resume:
            record, runner = machines.resume(self.resume, self.kind, parts, tools, move_of)
            return rolling.finish(record, runner.resume(), self.output)
        if not parts:
            open_ = "" if self.dry_run else machines.unproven(self.kind, version, wanted, store)
            note(f"nothing to do: every node has it already{f'; {open_} ends with their proof' if open_ else ''}")
            if not open_:
                return None
            record, runner = machines.resume(open_, self.kind, parts, tools, move_of)
            return rolling.finish(record, runner.resume(), self.output)
        plan = machines.plan(
            self.kind, version, parts, specification(*self.sizes), store.rollouts.next_number(),
            selection=self.selection, reason=self.reason,
        )  # fmt: skip
        if self.dry_run:
            return rolling.show_plan(plan, self.output)
        note(rolling.plan_text(plan))
        question = f"{self.kind.capitalize()} {counted(len(parts), 'node')}?"
        if len(parts) > 1 and not confirm(question, yes=self.yes, settings=self.said):
            return note("nothing was changed")
        record, runner = machines.begin(plan, tools, move_of)
        return rolling.finish(record, runner.run(), self.output)
