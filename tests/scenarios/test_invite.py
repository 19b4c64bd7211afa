"""Machines behind NAT join by one line: a real receiver with the fleet's own certificate, real script, real agents."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl.store.store import Store
from tests.scenarios.fleets import RECIPE, until
from tests.support.cli import Shell

FLEET = """\
version: 1
fleet: acme
receiver: {{url: "https://127.0.0.1:{port}"}}
profiles:
  pi:
    connect: {{every: 1s}}
    report: {{every: 1s}}
    sources: {{host: {{type: host-metrics, every: 1s}}}}
sites: {{lyon: {{}}}}
nodes: []
"""


class Hub:
    """An operator's workspace with a receiver, and machines as folders of this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plant").mkdir()
        self.shell = Shell(folder / "plant")
        self.shell.ok("init", "--fleet", "acme")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "plant" / "fleet.yaml").write_text(FLEET.format(port=self.port))
        recipe = folder / "plant" / "models" / "press"
        recipe.mkdir(parents=True)
        (recipe / "recipe.yaml").write_text(RECIPE)
        self.server = self.shell.start("serve", "--listen", f"127.0.0.1:{self.port}")
        assert self.server.stderr is not None
        assert "serving acme" in self.server.stderr.readline()

    def invite(self, *more: str) -> str:
        made = json.loads(self.shell.ok("nodes", "invite", "--site", "lyon", "--profile", "pi", *more, "-o", "json"))
        assert made["site"] == "lyon"
        return str(made["line"])

    def machine(self, name: str) -> Path:
        made = self.folder / name
        made.mkdir(exist_ok=True)
        return made

    def join(self, line: str, name: str, code: int = 0) -> str:
        """Type `line` on a machine; its last word on stderr."""
        folder = self.machine(name)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"TMPDIR": str(folder)}
        done = subprocess.run(
            ["sh", "-c", f"{line} --folder {folder}/edgectl"],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=500, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        assert {path.name for path in folder.iterdir()} <= {"edgectl"}, "the script and its folder are gone"
        return (done.stderr.strip().splitlines() or [""])[-1]

    def same_environment(self, name: str) -> None:
        """Give a machine the environment that m1 has, for what is told apart only once it is there."""
        shutil.copytree(
            self.machine("m1") / "edgectl" / "agent", self.machine(name) / "edgectl" / "agent", symlinks=True
        )

    def nodes(self) -> dict[str, str]:
        return {row["name"]: row["state"] for row in json.loads(self.shell.ok("nodes", "list", "-o", "json"))}

    def close(self) -> None:
        for pid_file in self.folder.glob("*/edgectl/data/service.pid"):
            os.kill(int(pid_file.read_text()), signal.SIGTERM)
            until(lambda file=pid_file: not file.exists())  # type: ignore[misc]
        self.server.send_signal(signal.SIGTERM)
        self.server.communicate(timeout=60)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    made = Hub(tmp_path_factory.mktemp("invite"))
    yield made
    made.close()


def test_one_line_makes_a_machine_a_node_that_reports_and_again_it_changes_nothing(hub: Hub) -> None:
    line = hub.invite("--count", "1", "--label", "line=press")
    said = hub.join(line, "m1")
    name = re.search(r"this machine is node (\S+) of the fleet acme", said)
    assert name, said
    node = name[1]
    until(lambda: hub.nodes().get(node) in ("healthy", "warming", "degraded"), within_s=120)
    (row,) = json.loads(hub.shell.ok("nodes", "list", "--select", "line=press", "-o", "json"))
    assert (row["name"], row["via"], row["site"]) == (node, "pull", "lyon")

    # The same machine again keeps its name and takes no second place, also with nothing left of its identity.
    assert node in hub.join(line, "m1")
    (hub.machine("m1") / "edgectl" / "uplink.token").unlink()
    assert node in hub.join(line, "m1")
    (known,) = json.loads(hub.shell.ok("nodes", "invites", "-o", "json"))
    assert (known["used"], known["count"], known["state"]) == (1, 1, "used up")
    assert list(hub.nodes()) == [node]

    # Another machine finds no place left.
    hub.same_environment("m2")
    assert hub.join(line, "m2", code=4).endswith("the invite was for 1 node, all have enrolled → edgectl nodes invite")


def test_a_node_that_enrolled_is_removed_with_its_token_and_may_come_back(hub: Hub) -> None:
    (node,) = hub.nodes()
    hub.shell.ok("nodes", "remove", node, "--yes")
    assert hub.nodes() == {}
    with Store("sqlite:///.edgectl/state.db", hub.shell.folder) as store:
        assert all(credential.revoked_ns for credential in store.credentials.of(node))
    assert node in hub.join(hub.invite(), "m1")
    until(lambda: hub.nodes().get(node) in ("healthy", "warming", "degraded"), within_s=120)


def test_an_enrolled_node_may_be_written_into_fleet_yaml_and_stays_one_node(hub: Hub) -> None:
    fleet = hub.shell.folder / "fleet.yaml"
    before = fleet.read_text()
    (node,) = hub.nodes()
    assert hub.shell.ok("nodes", "import", "--enrolled", "-o", "name").split() == [node]
    assert f"name: {node}" in fleet.read_text()
    assert list(hub.nodes()) == [node]
    assert hub.shell.ok("nodes", "import", "--enrolled", "-o", "name").split() == []
    fleet.write_text(before)


def test_unknown_expired_and_revoked_invites_are_one_sentence_each(hub: Hub) -> None:
    for name in ("m3", "m4"):
        hub.same_environment(name)
    line = hub.invite("--valid", "1m")
    forged = re.sub(r"(?<=n' )\S+", "not-a-token", line)
    assert "the receiver refuses: no such invite" in hub.join(forged, "m3", code=40)
    with Store("sqlite:///.edgectl/state.db", hub.shell.folder) as store:
        from sqlalchemy import update

        from edgectl.store.schema import invites

        with store.enrolments._database.write() as connection:
            connection.execute(update(invites).values(expires_ns=1))
    assert "the receiver refuses: the invite has expired" in hub.join(line, "m3", code=41)
    line = hub.invite()
    (open_,) = [i for i in json.loads(hub.shell.ok("nodes", "invites", "-o", "json")) if i["state"] == "open"]
    hub.shell.ok("nodes", "invites", "--revoke", open_["id"])
    assert "the receiver refuses: no such invite" in hub.join(line, "m4", code=40)


def test_its_owner_removes_the_agent_and_nothing_stays_but_the_alerts_that_he_keeps(hub: Hub) -> None:
    (node,) = hub.nodes()
    line = hub.shell.ok("nodes", "remove", node, "--yes", "--keep-data").strip()
    below = hub.machine("m1") / "edgectl"
    (below / "notes.txt").touch()
    assert "holds what is not the agent's: notes.txt" in hub.join(line, "m1", code=3)
    (below / "notes.txt").unlink()
    agent = int((below / "data" / "service.pid").read_text())
    assert hub.join(line, "m1").endswith(f"the agent is removed, its alerts are kept in {below}/data/outbox")
    assert not Path(f"/proc/{agent}").exists()
    kept = [path.relative_to(below) for path in below.rglob("*") if path.is_file()]
    assert {path.parts[:2] for path in kept} == {("data", "outbox")}
    line = line.removesuffix(" --keep-data")
    assert hub.join(line, "m1").endswith("the agent is removed")
    assert list(hub.machine("m1").iterdir()) == []
    assert "there is no agent on this machine" in hub.join(line, "m1")


def test_a_script_that_is_not_the_invited_one_is_not_run(hub: Hub) -> None:
    line = hub.invite()
    digest = re.search(r"[0-9a-f]{64}", line)
    assert digest
    done = subprocess.run(
        ["sh", "-c", line.replace(digest[0], "0" * 64)],
        cwd=hub.machine("m5"), env={**os.environ, "TMPDIR": str(hub.machine("m5"))}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert list(hub.machine("m5").iterdir()) == []


@pytest.mark.parametrize(
    ("program", "text", "says"),
    [
        ("uname", '[ "$1" = -m ] && echo armv7l || echo Linux', "this machine is armv7l: ONNX Runtime has no wheel"),
        ("ldd", "echo musl libc", "this machine has the C library musl"),
        ("getconf", "echo glibc 2.17", "this machine has glibc 2.17, expected 2.28 or newer"),
        ("python3", 'case "$*" in *platform*) echo 3.9.2 ;; *) exit 1 ;; esac', "Python 3.9.2, expected 3.11 or newer"),
    ],
)
def test_a_machine_that_cannot_run_the_agent_is_told_before_anything_is_installed(
    hub: Hub, program: str, text: str, says: str
) -> None:
    (script,) = (hub.shell.folder / ".edgectl" / "installs").glob("*.sh")
    machine = hub.machine(f"unfit-{program}")
    tools = machine / "bin"
    tools.mkdir()
    for name in ("uname", "ldd", "getconf", "python3", "grep", "cut", "id", "sh"):
        (tools / name).symlink_to(shutil.which(name) or "/bin/false")
    (tools / program).unlink()
    (tools / program).write_text(f"#!/bin/sh\n{text}\n")
    (tools / program).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", script, "--folder", str(machine / "edgectl")], input="token\n",
        env={"PATH": str(tools)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, says in done.stderr) == (3, True), done.stderr
    assert not (machine / "edgectl").exists()


def test_what_makes_no_sense_is_refused_before_there_is_an_invite(hub: Hub) -> None:
    hub.shell.fails(4, "nodes", "invite", "--site", "lyn", says="unknown site 'lyn' → did you mean 'lyon'?")
    hub.shell.fails(4, "nodes", "invite", "--site", "lyon", "--profile", "p", says="unknown profile 'p'")
    hub.shell.fails(2, "nodes", "invite", "--site", "lyon", "--valid", "soon", says="--valid: ")
    hub.shell.fails(4, "nodes", "invites", "--revoke", "zz", says="unknown invite 'zz'")
