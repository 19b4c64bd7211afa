"""The operator's usual day with nodes behind a real sshd: deploy, collect, status, a killed agent, stop and start."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgectl.inventory import editing
from tests.scenarios.fleets import RECIPE, Plant, until
from tests.support.sshd import Sshd, install

NAMES = ("pi-1", "pi-2")
pytestmark = pytest.mark.needs("sshd")


class Remote(Plant):
    """Two nodes on one machine, each below a folder of its own."""

    def __init__(self, folder: Path, sshd: Sshd) -> None:
        super().__init__(folder / "work", ())
        self.names, self.nodes = NAMES, folder / "nodes"
        self.shell.env |= {"HOME": str(folder / "operator"), "SSH_AUTH_SOCK": ""}
        (self.folder / "known_hosts").write_text(sshd.pin)
        (self.folder / "models" / "press" / "recipe.yaml").write_text(RECIPE)
        file = self.folder / "fleet.yaml"
        for name in NAMES:
            install(self.nodes / name)
            connect = {"via": "ssh", "host": "127.0.0.1", "port": sshd.port, "user": sshd.user, "key": str(sshd.key)}
            entry = {
                "name": name,
                "connect": connect,
                "agent": {"folder": str(self.nodes / name)},
                "sources": {"s": {"type": "tail", "path": str(self.nodes / f"{name}.jsonl")}},
                "models": {"press": ["s"]},
            }
            (self.nodes / f"{name}.jsonl").touch()
            file.write_text(editing.add(file.read_text(), entry, self.folder))

    def pid(self, name: str) -> int:
        return int(json.loads((self.nodes / name / "data" / "api.json").read_text())["pid"])

    def close(self) -> None:
        for name in self.names:
            self.shell.run("nodes", "stop", name)


@pytest.fixture
def plant(tmp_path: Path, ssh_server: Sshd) -> Iterator[Remote]:
    (tmp_path / "work").mkdir()
    made = Remote(tmp_path, ssh_server)
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
    spool = [path.name for path in (plant.nodes / "pi-1" / "data" / "spool").rglob("*") if path.is_file()]
    assert "timestamp.json" in spool
    assert not [name for name in spool if name.startswith(".")]

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
