"""Installs the agent on a machine, step by step; a step that finds its work done does nothing.

`look` reads the machine, `steps` decides, `Setup.carry_out` acts. A process that ends between any two steps leaves a
machine that the same command completes.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgectl.core.errors import ConfigError, NodeUnreachable, RemoteRefused, StorageError, TrustError
from edgectl.machine import accounts, agents_own, environment, switch
from edgectl.machine.environment import Environment
from edgectl.machine.interface import Done, Host, Told
from edgectl.machine.layout import AGENT, Layout
from edgectl.machine.shell import words

Kind = Literal["accounts", "folders", "environment", "trust", "certificate", "switch", "start"]

_LOOK = r"""
getent passwd "$user" > /dev/null && echo user
id -nG "$login" | tr ' ' '\n' | grep -qxF -e "$user" && echo member
[ "$login" = root ] && echo member
for f in "$config" "$data" "$spool"; do
    [ ! -d "$f" ] || echo "folder $(stat -c "%a $owner %n" "$f")"
done
echo "current $(readlink "$current")"
cd "$home/venvs" 2> /dev/null && for e in */; do
    case $e in *.part/|\*/) ;; *) [ ! -e "$e/bin/$agent" ] || echo "environment ${e%/}" ;; esac
done
systemctl -q is-enabled "$agent" 2> /dev/null && echo enabled
systemctl -q is-active "$agent" 2> /dev/null && echo active
[ -d /run/systemd/system ] && echo systemd
exit 0
"""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a machine shall have."""

    node: str
    login: str
    """The user that operators log in as: it becomes a member of the agent's group."""
    environment: Environment
    files: Mapping[str, bytes]
    """Files of the configuration and the unit by absolute path."""
    trust: Mapping[str, bytes]
    """Files that the agent takes over and keeps up to date itself; written where there is none."""
    certify: Callable[[], None] | None = None
    """Gives the node its certificate, once its environment is there; None where it needs none now."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a machine has."""

    user: bool = False
    member: bool = False
    folders: Mapping[str, str] = field(default_factory=dict)
    """Path → mode and owner."""
    current: str = ""
    environments: tuple[str, ...] = ()
    enabled: bool = False
    active: bool = False
    systemd: bool = False
    files: Mapping[str, bytes | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to do, as people read it; `diff` is a unified diff of the files that change."""

    kind: Kind
    said: str
    diff: str = ""


def look(host: Host, layout: Layout, wanted: Wanted) -> Found:
    """Read, and change nothing. Raises as `Host.run` and `Host.read`."""
    given = {
        "user": layout.user, "login": wanted.login, "config": layout.config, "data": layout.data, "spool": layout.spool,
        "current": layout.current, "home": layout.home, "agent": AGENT, "owner": "%U:%G" if layout.root else "%U",
    }  # fmt: skip
    names = "".join(f"{name}={words(value)}\n" for name, value in given.items())
    lines = [line.partition(" ")[::2] for line in host.run(names + _LOOK, root=layout.root).text.splitlines()]
    flags = {word for word, _ in lines}
    folders = [rest.split(" ", 2) for word, rest in lines if word == "folder"]
    paths = (*wanted.files, *wanted.trust)
    return Found(
        user="user" in flags,
        member="member" in flags,
        folders={path: f"{mode} {owner}" for mode, owner, path in folders},
        current=next((rest for word, rest in lines if word == "current"), ""),
        environments=tuple(rest for word, rest in lines if word == "environment"),
        enabled="enabled" in flags,
        active="active" in flags,
        systemd="systemd" in flags,
        files={path: host.read(path, root=layout.root) for path in paths},
    )


def check_owner(wanted: Wanted, found: Found, layout: Layout, same_fleet: Callable[[bytes], bool]) -> None:
    """Whether the machine is free, or this very node's.

    Args:
        wanted: what it shall have.
        found: what it has.
        layout: where.
        same_fleet: says of a root.json whether this fleet's keys signed it.

    Raises:
        ConfigError: it is another node of this fleet.
        TrustError: it belongs to another fleet.
    """
    for path, content in found.files.items():
        if path in wanted.trust and content is not None and content != wanted.trust[path] and not same_fleet(content):
            raise TrustError(
                f"node {wanted.node}: this machine belongs to another fleet: its {path} holds other root keys",
                hint="have that fleet remove it: edgectl nodes remove",
                reason="other-fleet",
            )
    name = node_name(found.files.get(layout.agent_yaml))
    if name and name != wanted.node:
        raise ConfigError(
            f"node {wanted.node}: this machine is node {name} already",
            hint=f"edgectl nodes remove {name}, or correct connect.host in fleet.yaml",
        )


def node_name(text: bytes | None) -> str:
    """Which node an agent.yaml says it is; empty if it does not say."""
    import yaml
    from edgectl_agent.yamlfile import UNREADABLE

    try:
        found = yaml.safe_load(text or b"")
    except UNREADABLE:
        return ""
    return str(found.get("node", "")) if isinstance(found, dict) else ""


def same_fleet(one: bytes, other: bytes) -> bool:
    """Whether two root.json name a root key in common: keys are replaced one at a time."""
    return bool(_root_keys(one) & _root_keys(other))


def _root_keys(raw: bytes) -> frozenset[str]:
    try:
        return frozenset(json.loads(raw)["signed"]["roles"]["root"]["keyids"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return frozenset()


def steps(wanted: Wanted, found: Found, layout: Layout) -> tuple[Step, ...]:
    """What is left to do, in order; nothing for a machine that has all of it and runs it."""
    todo = []
    if layout.root and not (found.user and found.member):
        said = f"add user and group {layout.user}" if not found.user else ""
        joins = f"let {wanted.login} into group {layout.user}" if not found.member else ""
        todo.append(Step(kind="accounts", said=", ".join(part for part in (said, joins) if part)))
    folders = _folders(layout, wanted.login)
    missing = [path for path, rights in folders.items() if found.folders.get(path) != rights]
    if missing:
        todo.append(Step(kind="folders", said=f"make {', '.join(missing)}"))
    name = wanted.environment.name
    if name not in found.environments:
        kind = "the uploaded wheels" if wanted.environment.wheels else "its package index"
        todo.append(Step(kind="environment", said=f"install agent {wanted.environment.version} from {kind} as {name}"))
    absent = [path for path in wanted.trust if found.files.get(path) is None]
    if absent:
        todo.append(Step(kind="trust", said=f"write {', '.join(absent)}"))
    if wanted.certify is not None:
        todo.append(Step(kind="certificate", said="make a key there and certify it"))
    moved = found.current != environment.path(layout, name)
    changed = [path for path in wanted.files if found.files.get(path) != wanted.files[path]]
    if moved or changed:
        parts = [f"write {', '.join(changed)}"] if changed else []
        parts += [f"point {layout.current} to {name}"] if moved else []
        diffs = "".join(diff(path, found.files.get(path), wanted.files[path]) for path in changed)
        todo.append(Step(kind="switch", said=f"{', '.join(parts)}, start and probe", diff=diffs))
    elif found.systemd and not (found.enabled and found.active):
        todo.append(Step(kind="start", said=f"enable and start {AGENT}"))
    return tuple(todo)


def diff(path: str, old: bytes | None, new: bytes) -> str:
    """A unified diff of a text file."""
    before = (old or b"").decode(errors="replace").splitlines(keepends=True)
    after = new.decode(errors="replace").splitlines(keepends=True)
    lines = difflib.unified_diff(before, after, path if old is not None else "/dev/null", path)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def change(wanted: Wanted, layout: Layout) -> switch.Change:
    """The switch that gives a machine its environment and files; the same parts have the same id."""
    files = switch.files(wanted.files, layout)
    digest = hashlib.sha256(wanted.environment.name.encode())
    for file in files:
        digest.update(f"{file.path}\0".encode() + hashlib.sha256(file.content).digest())
    return switch.Change(
        id=f"setup-{digest.hexdigest()[:12]}",
        environment=environment.path(layout, wanted.environment.name),
        version=wanted.environment.version,
        files=files,
    )


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Carries steps out on one machine."""

    host: Host
    layout: Layout
    wanted: Wanted
    service: str
    python: str = "python3"
    told: Told | None = None
    """Uploaded bytes."""
    before: Callable[[Step], None] = lambda step: None
    """Called before each step."""

    def carry_out(self, todo: tuple[Step, ...]) -> switch.Outcome | None:
        """Do all steps; the outcome of the switch, if there was one.

        Raises:
            NodeUnreachable: the link broke; the same command completes it.
            RemoteRefused, StorageError: a step failed; the sentence says which and why.
        """
        ended = None
        for step in todo:
            self.before(step)
            match step.kind:
                case "accounts":
                    self._run(accounts.make(self.layout, self.wanted.login), "the user cannot be made")
                case "folders":
                    self._run(make_folders(self.layout, self.wanted.login), "the folders cannot be made")
                case "environment":
                    environment.install(self.host, self.layout, self.wanted.environment, self.python, self.told)
                case "trust":
                    self._trust()
                case "certificate":
                    if self.wanted.certify is not None:
                        self.wanted.certify()
                case "switch":
                    ended = self.switch()
                case "start":
                    names = f"agent={AGENT} current={words(self.layout.current)}\n"
                    self._run(f"{names}{self.service}restart", "it does not start")
        return ended

    def switch(self) -> switch.Outcome:
        """To the environment and the files; an earlier attempt with the same parts that failed is not its answer."""
        wanted = change(self.wanted, self.layout)
        found = switch.outcome(self.host, self.layout, wanted.id)
        if found is not None:
            switch.forget(self.host, self.layout, ())
        switch.begin(self.host, self.layout, wanted, self.service)
        return switch.follow(self.host, self.layout, wanted.id)

    def _trust(self) -> None:
        for path, content in self.wanted.trust.items():
            if self.host.read(path, root=self.layout.root) is None:
                parents = _between(self.layout.data, path)
                self._run(f"mkdir -p -m 750 {words(*parents)}", "a folder cannot be made")
                if self.layout.root:  # -h: the agent's folder may hold a link by that name
                    owned = words(f"{self.layout.user}:{self.layout.user}", *parents)
                    self._run(f"chown -h {owned}", "a folder cannot be given to the agent")
                self.host.write(path, content, mode=0o640, root=self.layout.root)

    def _run(self, script: str, what: str) -> None:
        done = self.host.run(f"LC_ALL=C; export LC_ALL\n{script}", root=self.layout.root, timeout_s=120)
        if done.status:
            raise failed(self.host, what, done)


def failed(host: Host, what: str, done: Done) -> StorageError | RemoteRefused:
    """A step's error, in one sentence."""
    said = done.complaint
    if "No space" in said:
        return StorageError(f"node {host.name}: {what}: {said}", hint=f"make room on {host.name}")
    if "Read-only" in said:
        return StorageError(f"node {host.name}: {what}: {said}", hint="see edgectl nodes check")
    return RemoteRefused(f"node {host.name}: {what}: {said}", status=500)


def judged(host: Host, ended: switch.Outcome) -> None:
    """Raise what a switch that did not end well means.

    Raises:
        NodeUnreachable: the agent did not come up.
    """
    if ended.state == "reverted":
        raise NodeUnreachable(f"node {host.name}: the agent did not come up, all is as it was: {ended.reason}")
    if ended.state == "stuck":
        raise NodeUnreachable(f"node {host.name}: the agent did not come up: {ended.reason}")


def _folders(layout: Layout, login: str) -> dict[str, str]:
    """Folder → mode, owner and group; without root all is the user's own."""
    if not layout.root:
        return dict.fromkeys((layout.config, layout.data, layout.spool), f"700 {login}")
    owner = f"{layout.user}:{layout.user}"
    return {
        layout.config: f"750 root:{layout.user}",
        layout.data: f"750 {owner}",
        layout.spool: f"2770 {owner}",
    }


def make_folders(layout: Layout, login: str) -> str:
    """Shell text that makes the folders, and gives the agent what a removal kept of it, which root has had since."""
    lines = ["set -e", agents_own.functions(layout.user)]
    if layout.root:  # first: the data folder's owner is what tells a rerun that this is still to be done
        kept, owner = words(f"{layout.data}/outbox"), words(f"{layout.user}:{layout.user}")
        lines.append(f"[ ! -d {kept} ] || find {kept} -user 0 -exec chown -h {owner} {{}} +")
    for path, rights in _folders(layout, login).items():
        mode, owner = rights.split()
        if layout.root and path == layout.spool:  # in a folder of the agent's
            lines.append(f"[ ! -e {words(path)} ] || chown -h {words(owner)} {words(path)}")
            lines.append(f"cd {words(layout.data)}; as_agent 'mkdir -p spool && chmod {mode} spool'")
            continue
        lines.append(f"mkdir -p {words(path)}; chown {words(owner)} {words(path)}; chmod {mode} {words(path)}")
    return "\n".join(lines)


def _between(folder: str, path: str) -> list[str]:
    """The folders below `folder` on the way to `path`, outermost first."""
    parts = path.removeprefix(f"{folder}/").split("/")[:-1]
    return [f"{folder}/{'/'.join(parts[: i + 1])}" for i in range(len(parts))]
