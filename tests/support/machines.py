"""A fleet whose nodes are machines of the lab, and agents to install on them.

fleet = MachineFleet(tmp_path / "fleet", lab)
fleet.write("press-01", "press-02")
fleet.shell.ok("nodes", "bootstrap", "press-01", "--wheelhouse", str(wheelhouse(tmp_path_factory)))
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import yaml

from edgectl.machine import packages
from edgectl.machine import wheelhouse as wheelhouses
from tests.support.cli import Shell
from tests.support.lab import Lab, Node, changes

LOGS = ("var/log", "run", "dev")
"""What a removed agent may have left: logs, and what a reboot deletes."""


def wheelhouse(factory: pytest.TempPathFactory) -> Path:
    """The agent and its dependencies for this machine, downloaded once per test run."""
    shared = factory.getbasetemp()
    shared = shared.parent if shared.name.startswith("popen-gw") else shared  # of all workers
    with (shared / "wheels.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wheel = packages.agent_wheel(shared / "agent")
        found, _ = wheelhouses.build(shared / "wheelhouse", wheel, packages.constraints(), "x86_64", "3.11")
    return found.folder


def other_agent(folder: Path, version: str, edit: Callable[[str], str] = lambda text: text) -> Path:
    """The agent's wheel as another version, with another ``__init__.py``."""
    wheel = next(folder.glob("edgectl_agent-*.whl"))
    old = packages.version(wheel)
    made = folder.parent / f"edgectl_agent-{version}-py3-none-any.whl"
    with ZipFile(wheel) as source, ZipFile(made, "w", ZIP_DEFLATED) as target:
        for name in source.namelist():
            raw = source.read(name)
            if name.endswith("RECORD"):
                raw = b""
            if name.endswith("METADATA"):
                raw = raw.replace(f"Version: {old}".encode(), f"Version: {version}".encode())
            if name == "edgectl_agent/__init__.py":
                raw = edit(raw.decode().replace(f'"{old}"', f'"{version}"')).encode()
            target.writestr(name.replace(f"edgectl_agent-{old}", f"edgectl_agent-{version}"), raw)
    return made


class MachineFleet:
    """An operator's folder whose fleet.yaml names machines of `lab`, with their host keys pinned."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        folder.mkdir(parents=True)
        self.folder, self.lab = folder, lab
        self.shell = Shell(folder, {"EDGECTL_SSH_CONFIG": "/dev/null"})
        self.shell.ok("init", "--fleet", "acme")
        (folder / "known_hosts").write_text(lab.known_hosts + self._by_name())
        self.nodes: dict[str, dict[str, Any]] = {}
        self.more: dict[str, Any] = {}
        """Further top-level keys of fleet.yaml."""

    def _by_name(self) -> str:
        return "".join(f"{node.name} {node.host_key}\n" for node in self.lab.nodes)

    def write(self, *names: str, **settings: Any) -> None:
        """Name these machines in fleet.yaml; `settings` are keys of their entries."""
        for name in names:
            node = self.lab[name]
            connect = {"via": "ssh", "host": node.address, "user": "edge", "key": str(self.lab.key)}
            if node.jump:
                connect["jump"] = f"edge@{node.jump.address}"
            entry = {"name": name, "connect": connect, "sources": {"host": {"type": "host-metrics", "every": "1s"}}}
            self.nodes[name] = {**entry, **self.nodes.get(name, {}), **settings}
        document = {"version": 1, "fleet": "acme", **self.more, "nodes": list(self.nodes.values())}
        (self.folder / "fleet.yaml").write_text(yaml.safe_dump(document, sort_keys=False))

    def refused(self, code: int, *args: str, says: str) -> str:
        """The command must end with `code`, and its last word on stderr be one sentence that contains `says`."""
        done = self.shell.run(*args, timeout_s=600)
        shown = f"edgectl {' '.join(args)} → {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, shown
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("edgectl: "), shown
        assert says in last, shown
        assert "Traceback" not in done.stderr, shown
        return last

    def json(self, *args: str) -> Any:
        """What a command prints as JSON; it must succeed."""
        return json.loads(self.shell.ok(*args, "-o", "json", timeout_s=600))


def running(node: Node) -> str:
    """Name of the environment that the agent's process on `node` runs from."""
    pid = node.run("systemctl show -P MainPID edgectl-agent").strip()
    return node.run(f"tr '\\0' ' ' < /proc/{pid}/cmdline").split()[0].split("/")[4]


def left(before: dict[str, Any], node: Node) -> list[str]:
    """Paths on `node` that differ from the snapshot `before`, logs apart."""
    return list(changes(before, node.snapshot(LOGS)))


def temporary_files(node: Node) -> list[str]:
    """Names on `node` that only an unfinished step leaves."""
    found = node.run(
        "find /etc /opt /var/lib/edgectl-agent /home /tmp "
        "-name '*.part' -o -name '*.new' -o -name '*.tmp' -o -name '*.edgectl-*' "
        "2> /dev/null; ls /run/edgectl-agent.lease* /root/.edgectl-* 2> /dev/null || :"
    )
    return [name for name in found.splitlines() if "/venvs/" not in name or name.endswith(".part")]
