"""What every machine shall have by fleet.yaml, and the ways there: bootstrap, move, remove.

It puts `edgectl.machine`'s parts together for one fleet; nothing is reached before a method says so.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, Protocol, TypeVar

import msgspec
from edgectl_agent import yamlfile
from edgectl_agent.config import Config
from edgectl_agent.core.messages import Report
from edgectl_agent.core.units import size_bytes

from edgectl.core.errors import ConfigError, EdgeError, NodeUnreachable, RemoteRefused, StorageError, UsageError
from edgectl.core.machines import MachineFacts, Needs, check
from edgectl.core.status import age
from edgectl.delivery.parallel import each
from edgectl.enrolment import certifying
from edgectl.fleet import membership
from edgectl.inventory.agent_config import Columns
from edgectl.inventory.doors import certified
from edgectl.inventory.types import Node
from edgectl.machine import environment, lease, removal, setup, supervisor, switch, unit
from edgectl.machine import layout as layouts
from edgectl.machine import move as moves
from edgectl.machine.environment import Environment
from edgectl.machine.facts import gather
from edgectl.machine.interface import Host, Told
from edgectl.machine.layout import Layout
from edgectl.machine.move import Move
from edgectl.machine.setup import Setup, Step, Wanted
from edgectl.machine.shell import words
from edgectl.trust.authority import Authority
from edgectl.workspace import Workspace

_BEFORE = ("architecture", "libc", "python", "writable", "memory", "clock", "root")
"""Checks that refuse a machine whatever is on it; room is needed only where something is installed."""

_RENDERING = threading.Lock()
"""Recipes and agent.yaml are decoded by one thread at a time: msgspec builds a type's tables at its first use, and two
threads that do so at once end the process (see edgectl_agent.core.messages)."""

T = TypeVar("T")
State = Literal["installed", "unchanged", "planned", "failed", "unreachable"]


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one machine."""

    node: str
    state: State
    agent: str = ""
    """Version."""
    environment: str = ""
    steps: tuple[str, ...] = ()
    diff: str = ""
    detail: str = ""
    exit_code: int = 0
    seconds: float = 0.0


class Packages(Protocol):
    """Chooses what is installed on a machine. Raises `EdgeError` with the reason why nothing fits."""

    @property
    def version(self) -> str: ...

    def __call__(self, node: Node, facts: MachineFacts) -> Environment: ...


Tell = Callable[[str, str], None]
"""(node, what happens there)."""


@dataclass(frozen=True)
class _Basics:
    login: str
    systemd: int
    """Version; 0 without it."""


@dataclass(frozen=True, kw_only=True)
class Installer:
    """Of one fleet."""

    workspace: Workspace
    columns: Callable[[str], Columns]
    root: bytes
    """The first root.json: whom the nodes trust."""
    authority: Authority
    now: datetime
    machine: Callable[[Node], Host]
    packages: Packages
    command: str
    """What is done, for operators that find the machine leased."""
    since: str
    tell: Tell = lambda node, text: None
    uploaded: Told | None = None
    monotonic_s: Callable[[], float] = field(default=time.monotonic)
    heard: list[Report] = field(default_factory=list)
    """What agents said when they came up after `bootstrap`."""

    # ── bootstrap ───────────────────────────────────────────────────────────────────────────────────────────────────

    def bootstrap(self, node: Node, dry_run: bool = False, heard_s: float | None = None) -> Installed:
        """Install the agent, or complete what was begun; with `dry_run` only say how.

        Args:
            node: who the machine shall be.
            dry_run: change nothing.
            heard_s: how long ago a node of that name reported; None if none does.

        Raises:
            ConfigError: the machine is another node, the node is another machine, or fleet.yaml makes no agent.yaml.
            TrustError: it belongs to another fleet.
            LockHeld: another operator is at work on it.
            NodeUnreachable, RemoteRefused, StorageError: as `edgectl.machine.setup.Setup.carry_out`.
        """
        began = self.monotonic_s()
        host, layout = self.machine(node), layouts.of(node)
        with closing(host):
            facts, now_s = gather(host, layout, index=False)
            _refuse(node, facts, now_s, _BEFORE)
            if heard_s is not None and not facts.installed.traces:
                raise ConfigError(
                    f"node {node.name}: another machine reports under this name, {age(heard_s)} ago, and this one at "
                    f"{node.connect.host} is new",
                    hint=f"edgectl nodes replace {node.name} gives it the name, or correct connect.host",
                )
            wanted = self._wanted(node, layout, facts, _basics(host).login)
            found = setup.look(host, layout, wanted)
            setup.check_owner(wanted, found, layout, lambda other: setup.same_fleet(other, self.root))
            wanted = self._certified(wanted, node, host, layout)
            todo = setup.steps(wanted, found, layout)
            if any(step.kind == "environment" for step in todo):
                _refuse(node, facts, now_s, "disk")
            if todo and not dry_run:
                with self.hold(node, host, layout):
                    self._carry_out(node, host, layout, wanted, todo, facts)
            elif not dry_run:
                lease.clear(host, layout)
        return Installed(
            node=node.name,
            state="planned" if dry_run and todo else "installed" if todo else "unchanged",
            agent=wanted.environment.version,
            environment=wanted.environment.name,
            steps=tuple(step.said for step in todo),
            diff="".join(step.diff for step in todo),
            seconds=round(self.monotonic_s() - began, 1),
        )

    def _carry_out(
        self, node: Node, host: Host, layout: Layout, wanted: Wanted, todo: tuple[Step, ...], facts: MachineFacts
    ) -> None:
        work = Setup(
            host=host, layout=layout, wanted=wanted, service=_service(layout, facts.systemd), told=self.uploaded,
            python=facts.python.path if facts.python else "python3",
            before=lambda step: self.tell(node.name, step.said),
        )  # fmt: skip
        ended = work.carry_out(todo)
        if ended is not None:
            setup.judged(host, ended)
            self.heard.extend(filter(None, [moves.report(ended.after)]))

    def _wanted(self, node: Node, layout: Layout, facts: MachineFacts, login: str) -> Wanted:
        placed, trust = self._files(node, layout, facts.systemd)
        return Wanted(
            node=node.name,
            login=login,
            environment=self.packages(node, facts),
            files=placed,
            trust=trust,
        )

    def _files(self, node: Node, layout: Layout, systemd: int) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Path → content of the configuration with its service, and of what the agent takes over."""
        with _RENDERING:
            files = membership.files(node, self.workspace, self.columns, self.root, layout)
            own = {layout.path(name): content for name, content in files.items() if not name.startswith("data/")}
            own |= _service_files(layout, own[layout.agent_yaml], systemd)
        return own, {layout.path(name): content for name, content in files.items() if name.startswith("data/")}

    def _certified(self, wanted: Wanted, node: Node, host: Host, layout: Layout) -> Wanted:
        """`wanted`, with how the node gets a certificate if it needs one now."""
        if not self._uncertified(node, host, layout):
            return wanted
        where = environment.path(layout, wanted.environment.name)
        return replace(wanted, certify=lambda: self._enrol(node, host, layout, where))

    def _uncertified(self, node: Node, host: Host, layout: Layout) -> bool:
        if not certified(node):
            return False
        return certifying.due(node, self.authority, self.now) or certifying.missing(host, layout)

    def _enrol(self, node: Node, host: Host, layout: Layout, where: str) -> None:
        certifying.enrol(node, host, layout, where, self.authority, self.now)

    # ── moves ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def behind(self, node: Node) -> str:
        """Name of the environment that a node shall have, if it runs another one; empty if it has it.

        Raises:
            UsageError: there is no agent on it.
            EdgeError: as `Packages` and `Host.run`.
        """
        host, layout = self.machine(node), layouts.of(node)
        with closing(host):
            wanted = self.packages(node, gather(host, layout, index=False)[0]).name
            found = host.run(f"readlink {words(layout.current)}", root=layout.root).text.rpartition("/")[2]
        if not found:
            raise UsageError(f"node {node.name}: there is no agent on it", hint=f"edgectl nodes bootstrap {node.name}")
        return "" if found == wanted else wanted

    @property
    def version(self) -> str:
        """Of the agent that this installs."""
        return self.packages.version

    def part(self, node: Node) -> str:
        """SHA-256 of the agent.yaml that a node shall have. Raises `ConfigError`."""
        with _RENDERING:
            text = membership.agent_yaml(node, self.workspace, self.columns, layouts.of(node))
        return hashlib.sha256(text.encode()).hexdigest()

    def upgrade(self, node: Node, id_: str) -> Move:
        """The move of a node to the environment that it shall have."""
        host, layout = self.machine(node), layouts.of(node)
        facts, now_s = gather(host, layout, index=False)
        _refuse(node, facts, now_s, "python")
        wanted = self.packages(node, facts)
        python = facts.python.path if facts.python else "python3"
        return self._move(node, host, layout, id_, wanted.version, wanted, {}, python)

    def configure(self, node: Node, id_: str) -> Move:
        """The move of a node to the agent.yaml that fleet.yaml makes, and the unit that belongs to it."""
        host, layout = self.machine(node), layouts.of(node)
        if self._uncertified(node, host, layout):  # beside the running agent, which shows it from the next connection
            self._enrol(node, host, layout, layout.current)
        return self._move(node, host, layout, id_, "", None, self.configuration(node, host, layout))

    def configuration(self, node: Node, host: Host, layout: Layout) -> dict[str, bytes]:
        """Path → content of all that is configuration. Raises `ConfigError`, and as `Host.run`."""
        placed, _ = self._files(node, layout, _basics(host).systemd)
        return placed

    def differences(self, node: Node) -> str:
        """What `configure` would change: a unified diff, empty for nothing. Raises as `configuration`."""
        host, layout = self.machine(node), layouts.of(node)
        with closing(host):
            wanted = self.configuration(node, host, layout)
            found = {path: host.read(path, root=layout.root) for path in wanted}
            renewed = f"a new certificate for {node.name}\n" if self._uncertified(node, host, layout) else ""
        if found[layout.agent_yaml] is None:
            raise UsageError(f"node {node.name}: there is no agent on it", hint=f"edgectl nodes bootstrap {node.name}")
        changed = (path for path in wanted if found[path] != wanted[path])
        return "".join(setup.diff(path, found[path], wanted[path]) for path in changed) + renewed

    def _move(
        self, node: Node, host: Host, layout: Layout, id_: str, version: str, wanted: Environment | None,
        files: Mapping[str, bytes], python: str = "python3",
    ) -> Move:  # fmt: skip
        return Move(
            python=python, host=host, layout=layout, id=id_, version=version, environment=wanted, files=files,
            service=_service(layout, _basics(host).systemd), hold=lambda: self.hold(node, host, layout),
        )  # fmt: skip

    # ── removal ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def remove(self, node: Node, keep_data: bool) -> None:
        """Leave nothing of the agent on its machine. Raises as `edgectl.machine.removal.remove`, and `LockHeld`."""
        host, layout = self.machine(node), layouts.of(node)
        with closing(host), self.hold(node, host, layout):
            removal.remove(host, layout, _basics(host).login, keep_data)

    def hold(self, node: Node, host: Host, layout: Layout) -> AbstractContextManager[object]:
        """Keep other operators off a machine."""
        return lease.held(host, layout, f"{self.command} {node.name}", self.since)


def each_node(
    nodes: Sequence[Node], work: Callable[[Node], T], forks: int, stop: threading.Event | None = None
) -> dict[str, T | EdgeError]:
    """Node → what `work` returned, or its error. Ctrl-C ends what is under way in order and is raised."""
    by_name = {node.name: node for node in nodes}

    def one(name: str) -> T | EdgeError:
        try:
            return work(by_name[name])
        except EdgeError as e:
            return e

    return each(by_name, one, forks=forks, stop=stop or threading.Event())


def worst(rows: Iterable[Installed]) -> int:
    """The exit code of many: a failure wins over an unreachable node; one kind of error keeps its own code."""
    codes = {row.exit_code for row in rows if row.exit_code}
    if len(codes) <= 1:
        return next(iter(codes), 0)
    return RemoteRefused.exit_code


def failure(node: str, e: EdgeError) -> Installed:
    """A machine that could not be installed."""
    gone = isinstance(e, NodeUnreachable) and e.exit_code == NodeUnreachable.exit_code
    state: State = "unreachable" if gone else "failed"
    detail = e.message.removeprefix(f"node {node}: ") + (f" → {e.hint}" if e.hint else "")
    return Installed(node=node, state=state, detail=detail, exit_code=e.exit_code)


def _refuse(node: Node, facts: MachineFacts, now_s: float, names: str | tuple[str, ...]) -> None:
    """Raise the first of these checks (`edgectl nodes check` prints all) that the machine does not pass.

    Raises:
        StorageError: too little room, or a read-only disk.
        RemoteRefused: anything else.
    """
    needs = Needs(
        node=node.name, now_s=now_s, memory_bytes=size_bytes(node.limits.memory),
        outbox_bytes=size_bytes(node.limits.outbox),
    )  # fmt: skip
    for one in check(facts, needs):
        if one.verdict == "refuse" and one.name.startswith(names):
            expected = f", expected {one.expected}" if one.expected else ""
            said = f"node {node.name}: {one.name}: {one.found}{expected}"
            if one.name.startswith(("disk", "writable")):
                raise StorageError(said, hint=one.fix)
            raise RemoteRefused(said, status=412, hint=one.fix, reason="check")


def _service(layout: Layout, systemd: int) -> str:
    return switch.SYSTEMD if systemd and layout.root else switch.supervised(layout)


def _service_files(layout: Layout, agent_yaml: bytes, systemd: int) -> dict[str, bytes]:
    """The unit, or the script that keeps the agent running where there is no systemd."""
    if not (systemd and layout.root):
        return {supervisor.script_file(layout): supervisor.script(layout).encode()}
    config = yamlfile.parse(agent_yaml.decode(), Config, layout.agent_yaml)
    return {layout.unit: unit.render(layout, config, systemd=systemd).encode()}


def _basics(host: Host) -> _Basics:
    """Who logs in, and whether systemd runs. Raises as `Host.run`."""
    script = "id -un; [ ! -d /run/systemd/system ] || systemctl --version | sed -n '1s/^systemd \\([0-9]*\\).*/\\1/p'"
    login, *rest = host.run(script).text.splitlines() or [""]
    return _Basics(login, int(rest[0]) if rest and rest[0].isdigit() else 0)
