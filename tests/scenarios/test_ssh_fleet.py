"""Nodes behind a real sshd: the operator's usual day, a full disk there, and a link that is cut at any byte."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgectl.cli import wiring
from edgectl.fleet import membership
from edgectl.inventory import editing
from edgectl.workspace import Workspace
from tests.cli.test_full_disk import fill, onto
from tests.scenarios.fleets import RECIPE, Plant, until
from tests.support.cut import Cut
from tests.support.sshd import Sshd, install

NAMES = ("pi-1", "pi-2")
pytestmark = pytest.mark.needs("sshd")


class Remote(Plant):
    """Nodes on one machine behind `sshd`, each below a folder of its own; their agents do not run yet."""

    def __init__(self, folder: Path, sshd: Sshd, port: int, names: tuple[str, ...] = NAMES) -> None:
        (folder / "work").mkdir()
        super().__init__(folder / "work", ())
        self.names, self.nodes = names, folder / "nodes"
        self.shell.env |= {"HOME": str(folder / "operator"), "SSH_AUTH_SOCK": ""}
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {sshd.host_key}\n")
        (self.folder / "models" / "press" / "recipe.yaml").write_text(RECIPE)
        for name in names:
            connect = {"via": "ssh", "host": "127.0.0.1", "port": port, "user": sshd.user, "key": str(sshd.key)}
            entry = {
                "name": name,
                "connect": connect,
                "agent": {"folder": str(self.nodes / name)},
                "sources": {"s": {"type": "tail", "path": str(self.nodes / f"{name}.jsonl")}},
                "models": {"press": ["s"]},
            }
            self.fleet_yaml.write_text(editing.add(self.fleet_yaml.read_text(), entry, self.folder))
            self.installed(name)

    @property
    def fleet_yaml(self) -> Path:
        return self.folder / "fleet.yaml"

    def installed(self, name: str) -> None:
        """What `nodes bootstrap` would leave there."""
        layout, workspace = install(self.nodes / name), Workspace(self.folder)
        (self.nodes / f"{name}.jsonl").touch()
        node = wiring.inventory(workspace).node(name)
        files = membership.files(node, workspace, wiring.columns(workspace), self.repository.root_bytes())
        for path, content in files.items():
            Path(layout.path(path)).parent.mkdir(parents=True, exist_ok=True)
            Path(layout.path(path)).write_bytes(content)

    def pid(self, name: str) -> int:
        return int(json.loads((self.nodes / name / "data" / "api.json").read_text())["pid"])

    def spool(self, name: str) -> Path:
        return self.nodes / name / "data" / "spool"

    def spooled(self, name: str) -> dict[str, bytes]:
        """Files in a node's spool by their path."""
        spool = self.spool(name)
        return {str(p.relative_to(spool)): p.read_bytes() for p in spool.rglob("*") if p.is_file()}

    def signed(self) -> set[bytes]:
        """Contents of the files in the repository; only the timestamp's is ever replaced."""
        return {path.read_bytes() for path in (self.folder / "repo").rglob("*") if path.is_file()}

    def runs(self, name: str) -> str:
        """The version of press that the node reports."""
        self.shell.ok("collect")
        rows = json.loads(self.shell.ok("nodes", "list", "-o", "json"))
        return str(next(row["models"]["press"] for row in rows if row["name"] == name))

    def close(self) -> None:
        for name in self.names:
            self.shell.run("nodes", "stop", name)


@pytest.fixture
def plant(tmp_path: Path, ssh_server: Sshd) -> Iterator[Remote]:
    made = Remote(tmp_path, ssh_server, ssh_server.port)
    yield made
    made.close()


def test_the_usual_day_over_ssh(plant: Remote) -> None:
    shell = plant.shell
    for name in NAMES:
        shell.ok("nodes", "start", name)
    plant.release("1.0.0", seed=1)
    shell.ok("deploy", "press", "--yes")
    assert "press  1.0.0 on 2" in shell.ok("status")
    assert shell.ok("audit") == ""
    shell.ok("nodes", "start", "pi-1")
    assert "metadata/timestamp.json" in plant.spooled("pi-1")
    assert litter(plant.spooled("pi-1")) == set()

    before = plant.pid("pi-1")
    os.kill(before, signal.SIGKILL)
    until(lambda: plant.pid("pi-1") != before)
    shell.ok("collect")

    shell.ok("nodes", "stop", "pi-2")
    said = shell.run("collect")
    assert said.returncode == 31
    assert "node pi-2: the agent does not run; its log ends: stopped" in said.stdout
    shell.ok("nodes", "restart", "pi-2")
    running = psutil.Process(plant.pid("pi-2"))
    assert str(plant.nodes / "pi-2" / "agent.yaml") in running.cmdline()

    # New settings wait for a trial: starting anew does not bring them.
    before_it = (plant.nodes / "pi-2" / "agent.yaml").read_bytes()
    plant.fleet_yaml.write_text(plant.fleet_yaml.read_text().replace("pi-2.jsonl", "other.jsonl"))
    said = shell.run("nodes", "restart", "pi-2")
    assert said.stderr == (
        "pi-2 runs; its agent.yaml is not the one that fleet.yaml makes → edgectl nodes configure pi-2 --diff\n"
    )
    assert (plant.nodes / "pi-2" / "agent.yaml").read_bytes() == before_it


def litter(spooled: dict[str, bytes]) -> set[str]:
    """Paths of what only an upload under way leaves."""
    return {path for path in spooled if Path(path).name.startswith(".")}


@pytest.mark.needs("root")
def test_a_full_disk_on_a_node_is_said_and_the_deployment_goes_on_when_there_is_room(
    tmp_path: Path, ssh_server: Sshd, small_disk: Path
) -> None:
    plant = Remote(tmp_path, ssh_server, ssh_server.port, ("pi-1",))
    onto(small_disk, plant.spool("pi-1"))
    try:
        plant.shell.ok("nodes", "start", "pi-1")
        plant.release("1.0.0", seed=1)
        filler = fill(small_disk)
        done = plant.shell.run("deploy", "press", "--yes")
        last = done.stderr.splitlines()[-1]
        assert done.returncode == 75, done.stderr
        assert last.startswith("edgectl: node pi-1: cannot put metadata/")
        assert "into its spool: cannot write " in last
        assert last.endswith("no space left on device → make room on pi-1; then edgectl deploy --resume r-1")
        assert [path for path, content in plant.spooled("pi-1").items() if content] == []
        filler.unlink()
        plant.shell.ok("deploy", "--resume", "r-1")
        assert plant.runs("pi-1") == "1.0.0"
    finally:
        plant.close()


def test_a_link_cut_at_any_byte_of_a_deployment_leaves_whole_files_and_the_next_run_completes_it(
    tmp_path: Path, ssh_server: Sshd
) -> None:
    with Cut(ssh_server.port) as cut:
        plant = Remote(tmp_path, ssh_server, cut.port, ("pi-1",))
        try:
            plant.shell.ok("nodes", "start", "pi-1")
            plant.release("1.0.0", seed=1)
            cut.mend()
            plant.shell.ok("deploy", "press", "--yes")
            whole, signed = cut.sent, set[bytes]()
            for number, share in enumerate((0.2, 0.4, 0.55, 0.7), start=1):
                signed |= plant.signed()
                plant.release(f"1.{number}.0", seed=number + 1)
                cut.after(int(whole * share))
                done = plant.shell.run("deploy", "press", "--yes")
                assert done.returncode in (22, 31, 32), f"{share}: {done.returncode}\n{done.stdout}\n{done.stderr}"
                assert "Traceback" not in done.stderr
                signed |= plant.signed()
                spooled = plant.spooled("pi-1")
                assert [path for path in spooled.keys() - litter(spooled) if spooled[path] not in signed] == []
                cut.mend()
                plant.shell.ok("deploy", "press", "--yes")
                assert litter(plant.spooled("pi-1")) == set()
            assert plant.runs("pi-1") == f"1.{number}.0"
        finally:
            cut.mend()
            plant.close()
