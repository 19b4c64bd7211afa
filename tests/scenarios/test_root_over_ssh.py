"""Root over SSH on real nodes: sudo as owners set it up, files that root owns, the agent's unit under real systemd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl.connectors.ssh import SshConnector
from edgectl.connectors.ssh_host import SshHost
from edgectl.connectors.ssh_pool import Pool
from edgectl.connectors.ssh_reach import Reach
from edgectl.connectors.ssh_target import resolve
from edgectl.core.errors import NodeUnreachable, RemoteRefused, StorageError
from edgectl.inventory import editing
from edgectl.inventory.types import Connect, SecretRef
from edgectl.machine.layout import Layout
from edgectl.machine.service import Systemd
from edgectl.workspace import Workspace
from tests.support.cli import Shell
from tests.support.lab import PASSWORD, Lab, Node

pytestmark = pytest.mark.needs("lab")
BIG = os.urandom(1_000_000)
UNIT = """\
[Service]
ExecStart=/bin/sh -c 'trap "" TERM; echo up; while :; do sleep 1; done'
TimeoutStopSec=60
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab")) as made:
        made.node("free")
        made.node("asks", sudo="password")
        made.node("refuses", sudo="none")
        made.node("lacks", sudo="missing")
        made.boot()
        (made.folder / "known_hosts").write_text(made.known_hosts)
        yield made


def named(lab: Lab, name: str) -> Node:
    return next(node for node in lab.nodes if node.name == name)


@pytest.fixture
def host(lab: Lab) -> Iterator[type[SshHost]]:
    pool = Pool()

    class Made(SshHost):
        def __init__(self, name: str, password: str = "", user: str = "edge") -> None:
            ref = SecretRef(env="SUDO") if password else None
            connect = Connect(via="ssh", host=named(lab, name).address, user=user, key=str(lab.key), sudo_password=ref)
            target = resolve(name, connect, Workspace(lab.folder), lab.folder / "none")
            super().__init__(Reach(name, connect, lambda: target, lambda _: password, pool))

    yield Made
    pool.close()


@pytest.mark.parametrize(
    ("name", "password", "user"),
    [("free", "", "edge"), ("asks", PASSWORD, "edge"), ("free", "unused", "edge"), ("lacks", "", "root")],
    ids=["nopasswd", "password", "password that is not asked for", "login"],
)
@pytest.mark.parametrize("content", [b"small\n", BIG], ids=["small", "large"])
def test_root_runs_commands_and_owns_what_it_writes(
    host: type[SshHost], lab: Lab, name: str, password: str, user: str, content: bytes
) -> None:
    machine = host(name, password, user)
    assert machine.run("id -u; cat", stdin=b"input", root=True).text == "0\ninput"
    path = f"/etc/edge-test-{len(content)}/deep/file"
    machine.run(f"rm -rf {path.split('/deep')[0]}", root=True)
    assert machine.write(path, content, mode=0o600, root=True) is True
    assert machine.write(path, content, mode=0o600, root=True) is False
    assert named(lab, name).run(f"stat -c '%U %a %s' {path}") == f"root 600 {len(content)}\n"
    assert machine.read(path, root=True) == content
    assert named(lab, name).run(f"ls -A /home/edge | grep edgectl; ls -A {path.rpartition('/')[0]}") == "file\n"


def test_a_file_belongs_to_whom_its_folder_belongs_to(host: type[SshHost], lab: Lab) -> None:
    named(lab, "free").run("install -d -o edge -g games -m 750 /srv/owned")
    host("free").write("/srv/owned/below/file", b"x", root=True)
    assert named(lab, "free").run("stat -c '%U:%G' /srv/owned/below /srv/owned/below/file") == "edge:games\n" * 2


@pytest.mark.parametrize(
    ("name", "password", "says"),
    [
        ("asks", "", "sudo does not let edge be root without a password .* → set connect.sudo_password"),
        ("asks", "wrong", "sudo refuses edge: .*→ see connect.sudo_password"),
        ("refuses", "", "sudo does not let edge be root"),
        ("refuses", PASSWORD, "sudo refuses edge: edge is not in the sudoers file"),
        ("lacks", "", "edge is not root, and there is no sudo → log in as root: connect.user"),
    ],
)
def test_no_root_is_one_sentence_and_nothing_is_written(
    host: type[SshHost], lab: Lab, name: str, password: str, says: str
) -> None:
    with pytest.raises(RemoteRefused, match=f"node {name}: {says}"):
        host(name, password).write("/etc/edge-refused", b"x", root=True)
    assert named(lab, name).console("ls /etc/edge-refused").returncode
    with pytest.raises(StorageError, match="cannot write /etc/edge-refused: permission denied"):
        host(name, password).write("/etc/edge-refused", BIG)


def test_the_command_says_that_there_is_no_root(lab: Lab, tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"HOME": str(tmp_path), "SSH_AUTH_SOCK": ""})
    shell.ok("init", "--fleet", "acme")
    (tmp_path / "known_hosts").write_text(lab.known_hosts)
    file = tmp_path / "fleet.yaml"
    for name in ("asks", "refuses", "lacks"):
        connect = {"via": "ssh", "host": named(lab, name).address, "user": "edge", "key": str(lab.key)}
        file.write_text(editing.add(file.read_text(), {"name": name, "connect": connect}, tmp_path))
    shell.fails(30, "nodes", "stop", "asks", says="node asks: sudo does not let edge be root without a password")
    shell.fails(30, "nodes", "stop", "refuses", says="node refuses: sudo does not let edge be root without a password")
    shell.fails(30, "nodes", "stop", "lacks", says="node lacks: edge is not root, and there is no sudo")


def test_the_api_and_the_spool_are_reached_by_the_group_or_else_by_root(host: type[SshHost], lab: Lab) -> None:
    node, layout = named(lab, "free"), Layout()
    node.run("groupadd -f edgectl-agent; id edgectl-agent || useradd -r -g edgectl-agent edgectl-agent")
    node.run("install -d -o edgectl-agent -g edgectl-agent -m 750 /var/lib/edgectl-agent")
    node.run("install -d -o edgectl-agent -g edgectl-agent -m 2770 /var/lib/edgectl-agent/spool")
    machine = host("free")
    SshConnector(machine._reach, layout).upload({"metadata/by-root.json": b"{}"})
    SshConnector(host("free")._reach, layout).upload({"metadata/by-root.json": b"{}", "targets/big": BIG})
    found = node.run("cd /var/lib/edgectl-agent/spool; stat -c '%U:%G %n' metadata/by-root.json targets/big")
    assert found == "edgectl-agent:edgectl-agent metadata/by-root.json\nedgectl-agent:edgectl-agent targets/big\n"
    node.run("usermod -aG edgectl-agent edge; rm -rf /var/lib/edgectl-agent/spool/*; rm -f /etc/sudoers.d/edge")
    machine._reach.pool.close()
    try:
        SshConnector(machine._reach, layout).upload({"metadata/by-edge.json": b"{}", "targets/big": BIG})
        found = node.run("cd /var/lib/edgectl-agent/spool; stat -c '%U:%G %a %n' metadata metadata/by-edge.json")
        assert found == "edge:edgectl-agent 2770 metadata\nedge:edgectl-agent 640 metadata/by-edge.json\n"
        with pytest.raises(NodeUnreachable, match=r"the agent is not installed → edgectl nodes bootstrap free"):
            SshConnector(machine._reach, layout).request("GET", "/v1/status")
    finally:
        node.run("echo 'edge ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/edge")


def test_a_unit_is_started_once_and_ended_by_force_where_it_does_not_listen(host: type[SshHost], lab: Lab) -> None:
    machine = host("free")
    service = Systemd(machine, "edge-test")
    with pytest.raises(RemoteRefused, match=r"the agent is not installed: .* → edgectl nodes bootstrap free"):
        service.start()
    assert service.running() is False
    service.stop()
    machine.write("/etc/systemd/system/edge-test.service", UNIT.encode(), root=True)
    machine.run("systemctl daemon-reload", root=True)
    service.start()
    first = named(lab, "free").run("systemctl show -P MainPID edge-test")
    service.start()
    assert named(lab, "free").run("systemctl show -P MainPID edge-test") == first
    assert service.running() is True
    assert service.last_words(1)[-1:] != []
    service.stop(timeout_s=1)
    assert service.running() is False


def test_a_cable_that_is_pulled_is_noticed_and_the_node_comes_back(
    host: type[SshHost], lab: Lab, tmp_path: Path
) -> None:
    machine, node = host("free"), named(lab, "free")
    machine.run("true")
    node.link(up=False)
    with pytest.raises(NodeUnreachable, match="node free: "):
        machine.run("true", timeout_s=2)
    node.link(up=True)
    assert machine.run("echo back").text == "back"
