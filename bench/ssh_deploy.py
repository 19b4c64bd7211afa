"""Deploy a new release over SSH to 20 nodes, against pyinfra that uploads the same files and restarts the same agents.

Each node is an sshd of its own on the loopback with a real agent under the supervising script; both sides log in with
the same key and check the same pinned host keys. In turns, in one run:

* ``edgectl deploy press@VERSION --yes``, the real command from its start to its end: it asks every node how it is,
  signs two assignments (one canary, then the rest), uploads the signed slice (metadata, assignment, manifest and a
  bundle of 320 kB), has each agent verify it in a child process and swap it in, and ends when every node has proven
  that it runs the new bundle. Exit code 0 is required.
* pyinfra (pinned, in a virtual environment that the benchmark makes and throws away) does what an operator would use it
  for: the same job as far as a tool can that knows nothing of agents. It uploads the very same slice into an empty
  folder of each node, then stops and starts each agent by the very commands that edgectl's own service control sends,
  and waits until the agent says that it listens. Nothing proves which release runs. Two ways of uploading
  (``files.sync`` and one ``files.put`` per file) and two numbers of connections at a time are tried first; the fastest
  is the peer.

All twenty nodes share the cores of this machine with the two programs. On a node of its own the agent's update and an
agent's restart (0.08 and 0.33 CPU s here) cost the operator no time.

    python -m bench.ssh_deploy
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench._report import record
from bench._ssh_fleet import SshFleet, compiled, processors, quiet
from edgectl.machine.interface import Done
from edgectl.machine.service import Supervised

NODES = 20
ROUNDS = 3
GOAL_S, GOAL_RATIO = 15.0, 3.0
PYINFRA = "pyinfra==3.10.0"
PINS = ("paramiko==4.0.0", "gevent==26.9.0", "cryptography==50.0.2")

INVENTORY = """\
nodes = [
{hosts}
]
"""
OPERATIONS = """\
from pathlib import Path

from pyinfra import host
from pyinfra.operations import files, server

source, base = Path({source!r}), host.data.base
if {way!r} == "sync":
    files.sync(src=str(source), dest=f"{{base}}/peer")
else:
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        files.put(src=str(path), dest=f"{{base}}/peer/{{path.relative_to(source)}}")
server.shell(commands=[f"sh {{base}}/restart.sh"])
"""


@dataclass(frozen=True)
class Way:
    """One way to use pyinfra."""

    upload: str
    parallel: int


def main() -> int:
    """Measure and record."""
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as scratch:
        compiled(Path(scratch))
        peer = _pyinfra(Path(scratch) / "pyinfra")
        with SshFleet(Path(scratch), NODES) as fleet:
            fleet.release("1.0.0", 1)
            fleet.start()
            deploy(fleet, "1.0.0")
            return compare(fleet, Peer(fleet, peer))


def compare(fleet: SshFleet, peer: Peer) -> int:
    """Rounds of both, in turns."""
    way = peer.best()
    ours, theirs = [], []
    for i in range(ROUNDS):
        fleet.release(f"{i + 2}.0.0", i + 2)
        ours.append(timed(lambda i=i: deploy(fleet, f"{i + 2}.0.0")))
        theirs.append(timed(lambda: peer.run(way)))
        sys.stdout.write(f"round {i + 1}: edgectl {ours[-1][0]:.1f} s, pyinfra {theirs[-1][0]:.1f} s\n")
    wall, other = (statistics.median(run[0] for run in runs) for runs in (ours, theirs))
    cpu, other_cpu = (statistics.median(run[1] for run in runs) for runs in (ours, theirs))
    load = os.getloadavg()[0]
    name = f"{PYINFRA}, {way.upload}, {way.parallel} at a time: {other:.1f} s; load {load:.1f} on {processors()} cores"
    met = record("ssh.deploy.wall", round(wall, 2), f"s for {NODES} nodes", better="lower", peer=name, goal=GOAL_S)
    faster = record("ssh.deploy.vs_pyinfra", round(other / wall, 2), "x", better="higher", peer=name, goal=GOAL_RATIO)
    record(
        "ssh.deploy.operator_cpu", round(cpu, 2), "CPU s of the command", better="lower",
        peer=f"{PYINFRA}: {other_cpu:.2f} CPU s",
    )  # fmt: skip
    return 0 if met and faster else 1


def deploy(fleet: SshFleet, version: str) -> None:
    """The real command; every node must have confirmed."""
    said = fleet.shell.ok("deploy", f"press@{version}", "--yes", timeout_s=600)
    assert f"{NODES} of {NODES} nodes confirmed" in said, said


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall seconds, and processor seconds of the commands that `work` ran (sshds and agents are nobody's children)."""
    before, started = os.times(), time.perf_counter()
    work()
    wall, after = time.perf_counter() - started, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


class Peer:
    """pyinfra with everything prepared that is not part of the job."""

    def __init__(self, fleet: SshFleet, program: Path) -> None:
        self._fleet, self._program = fleet, program
        self._folder = fleet.folder / "peer"
        self._folder.mkdir()
        hosts = "\n".join(f"    ({name!r}, {self._data(name)!r})," for name in fleet.names)
        (self._folder / "inventory.py").write_text(INVENTORY.format(hosts=hosts))
        for name in fleet.names:
            self._restart_script(name)

    def best(self) -> Way:
        """The fastest way, each tried once."""
        ways = [Way("sync", NODES), Way("put", NODES), Way("sync", 8)]
        took = {way: timed(lambda way=way: self.run(way)) for way in ways}
        for way, (seconds, _) in took.items():
            sys.stdout.write(f"pyinfra {way.upload} with {way.parallel} at a time: {seconds:.1f} s\n")
        return min(took, key=lambda way: took[way])

    def run(self, way: Way) -> None:
        """Upload the slice that the nodes have just got from us, and restart every agent."""
        source = self._folder / "slice"
        for name, content in self._fleet.repository.slice_for(self._fleet.names[0]).items():
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        before = self._fleet.agents()
        (self._folder / "operations.py").write_text(OPERATIONS.format(source=str(source), way=way.upload))
        command = [str(self._program), "-y", "--parallel", str(way.parallel), "inventory.py", "operations.py"]
        quiet(command, cwd=self._folder, timeout=900)
        after = self._fleet.agents()
        assert len(after) == NODES
        assert not set(after.values()) & set(before.values()), "every agent is a new process"
        for name in self._fleet.names:
            quiet(["rm", "-rf", str(self._fleet.base(name) / "peer")])
        quiet(["rm", "-rf", str(source)])

    def _data(self, name: str) -> dict[str, object]:
        server = self._fleet.servers[name]
        return {
            "ssh_hostname": self._fleet.hosts[name], "ssh_port": server.port, "ssh_user": server.user,
            "ssh_key": str(self._fleet.key), "ssh_known_hosts_file": str(self._fleet.work / "known_hosts"),
            "ssh_strict_host_key_checking": "yes", "ssh_allow_agent": False, "ssh_look_for_keys": False,
            "base": str(self._fleet.base(name)),
        }  # fmt: skip

    def _restart_script(self, name: str) -> None:
        """What our own service control would send to this node, and the wait for the agent."""
        told = _Recorder()
        service = Supervised(told, self._fleet.layout(name))  # type: ignore[arg-type]
        service.stop()
        service.start()
        commands = [f"({command}\n) || exit 1" for command in told.commands]
        wait = f"until [ -s {self._fleet.layout(name).api_json} ]; do sleep 0.1; done"
        (self._fleet.base(name) / "restart.sh").write_text("\n".join([*commands, wait, ""]))


class _Recorder:
    """In place of a machine: writes down what it is told to run."""

    name = "recorder"

    def __init__(self) -> None:
        self.commands: list[str] = []

    def run(self, command: str, **_: object) -> Done:
        self.commands.append(command)
        return Done(0, b"", b"")


def _pyinfra(folder: Path) -> Path:
    """pyinfra in a virtual environment of its own, gone with the scratch folder."""
    quiet([sys.executable, "-m", "venv", str(folder)])
    quiet([str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", PYINFRA, *PINS])
    return folder / "bin" / "pyinfra"


if __name__ == "__main__":
    sys.exit(main())
