"""Root over SSH on real nodes: sudo as owners set it up, files that root owns, the agent's unit under real systemd."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl.connectors.sftp import Upload, part
from edgectl.connectors.ssh import SshConnector
from edgectl.connectors.ssh_host import SshHost
from edgectl.connectors.ssh_pool import Pool
from edgectl.connectors.ssh_reach import Reach
from edgectl.connectors.ssh_target import resolve
from edgectl.core.errors import NodeUnreachable, RemoteRefused, StorageError
from edgectl.inventory import editing
from edgectl.inventory.types import Connect, SecretRef
from edgectl.machine import installer, invitation
from edgectl.machine.layout import Layout
from edgectl.machine.service import Systemd
from edgectl.machine.setup import make_folders
from edgectl.workspace import Workspace
from tests.support.cli import Shell
from tests.support.lab import PASSWORD, Lab, Node

pytestmark = pytest.mark.needs("lab")
BIG = os.urandom(1_000_000)
OF_ROOT = "stat -c '%n %u %g %a %s %F' /etc/of-root /etc/of-root.d; ls -A /etc/of-root.d; cat /etc/of-root"
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


@pytest.fixture
def guarded(lab: Lab) -> Iterator[tuple[Node, str]]:
    """A node whose agent owns a data folder, and a file of root's that its agent wants to change."""
    node, victim = named(lab, "lacks"), "/etc/of-root"
    node.run("groupadd -f edgectl-agent; id edgectl-agent || useradd -r -g edgectl-agent edgectl-agent")
    node.run("rm -rf /var/lib/edgectl-agent /etc/of-root*; echo kept > /etc/of-root; mkdir /etc/of-root.d")
    for mode, folder in ((750, ""), (750, "trust"), (2770, "spool")):
        node.run(f"install -d -o edgectl-agent -g edgectl-agent -m {mode} /var/lib/edgectl-agent/{folder}")
    before = node.run(OF_ROOT)
    yield node, victim
    assert node.run(OF_ROOT) == before


@pytest.mark.parametrize("tool", ["setpriv", "su"])
@pytest.mark.parametrize("content", [b"small\n", BIG], ids=["small", "large"])
def test_root_follows_no_link_that_the_agent_has_put_where_root_writes(
    host: type[SshHost], guarded: tuple[Node, str], tool: str, content: bytes
) -> None:
    node, victim = guarded
    machine, layout, upload = host("lacks", user="root"), Layout(), Upload.of(content)
    spool, root_json = f"{layout.spool}/targets/bundle", layout.path("data/trust/root.json")
    planted = [part(spool, upload), spool, root_json, f"{posixpath.dirname(root_json)}/.root.json.{upload.sha256}.tmp"]
    node.run(f"mkdir -p {layout.spool}/targets", user="edgectl-agent")
    node.run("".join(f"ln -s {victim} {path};" for path in planted), user="edgectl-agent")
    if tool == "su":
        node.run("mv /usr/bin/setpriv /usr/bin/setpriv.away")
    try:
        SshConnector(machine._reach, layout).upload({"targets/bundle": content, "deep/er/bundle": content})
        assert SshConnector(machine._reach, layout).place({"data/trust/root.json": content}) is True
        assert machine.read(spool) == machine.read(root_json) == content
        assert SshConnector(machine._reach, layout).place({"data/trust/root.json": content}) is False
    finally:
        if tool == "su":
            node.run("mv /usr/bin/setpriv.away /usr/bin/setpriv")
    found = node.run(f"cd {layout.data}; stat -c '%U:%G %a %F' spool/deep/er spool/deep/er/bundle trust/root.json")
    folder, file = "edgectl-agent:edgectl-agent 2770 directory", "edgectl-agent:edgectl-agent 640 regular file"
    assert found.splitlines() == [folder, file, file]
    assert node.run(f"find {layout.data} -name '.*'; ls -A /root | grep edgectl || :").split() == planted[:1]


@pytest.mark.parametrize("content", [b"small\n", BIG], ids=["small", "large"])
def test_a_folder_of_the_agents_that_is_a_link_to_one_of_roots_is_one_sentence(
    host: type[SshHost], guarded: tuple[Node, str], content: bytes
) -> None:
    node, victim = guarded
    node.run("cd /var/lib/edgectl-agent; rmdir trust spool", user="edgectl-agent")
    node.run(f"cd /var/lib/edgectl-agent; ln -s {victim}.d trust; ln -s {victim}.d spool", user="edgectl-agent")
    connector = SshConnector(host("lacks", user="root")._reach, Layout())
    with pytest.raises(StorageError, match=r"node lacks: cannot put targets/b into its spool: .*: permission denied"):
        connector.upload({"targets/b": content})
    with pytest.raises(StorageError, match=r"node lacks: cannot write .*/trust/root.json: permission denied"):
        connector.place({"data/trust/root.json": content})
    done = connector.host.run(make_folders(Layout(), "root"), root=True)
    assert (done.status, "Operation not permitted" in done.complaint) == (1, True)


def test_the_install_script_of_an_invite_follows_no_link_of_the_agents_either(
    host: type[SshHost], guarded: tuple[Node, str]
) -> None:
    node, victim = guarded
    machine, root_json, yaml = host("lacks", user="root"), Layout().path("data/trust/root.json"), Layout().agent_yaml
    trust, raw = posixpath.dirname(root_json), b"{}\n"
    for name in (".root.json.part", f".root.json.{hashlib.sha256(raw).hexdigest()}.tmp"):
        node.run(f"ln -s {victim} {trust}/{name}", user="edgectl-agent")
    files = [
        {"path": path, "text": raw.decode(), "mode": "640", "keep": path == root_json} for path in (root_json, yaml)
    ]
    settings = {"url": "https://127.0.0.1:1", "ca": "", "fleet": "acme", **invitation.steps()}
    program = Path(installer.__file__).read_text() + f"\nInstallation({settings!r}, '', '').place({files!r})\n"
    try:
        done = machine.run("python3 -I -", stdin=program.encode(), root=True)
        assert done.status == 0, done.complaint
        found = node.run(f"stat -c '%U:%G %a %F' {Layout().spool} {root_json} {yaml}; cat {root_json} {yaml}")
        assert found.splitlines() == [
            "edgectl-agent:edgectl-agent 2770 directory", "edgectl-agent:edgectl-agent 640 regular file",
            "root:edgectl-agent 640 regular file", "{}", "{}",
        ]  # fmt: skip
        node.run(f"ln -sf {victim} {root_json}", user="edgectl-agent")
        assert machine.run("python3 -I -", stdin=program.encode(), root=True).status == 0
        node.run(f"rmdir {Layout().spool}; ln -s {victim}.d {Layout().spool}", user="edgectl-agent")
        done = machine.run("python3 -I -", stdin=program.encode(), root=True)
        assert (done.status, "the folders cannot be made: chmod: " in done.complaint) == (1, True)
    finally:
        node.run("rm -rf /etc/edgectl-agent")


def test_what_root_puts_into_the_agents_folders_goes_on_where_it_was_cut(
    host: type[SshHost], guarded: tuple[Node, str]
) -> None:
    node, told = guarded[0], list[int]()
    machine, upload, path = host("lacks", user="root"), Upload.of(BIG), f"{Layout().spool}/bundle"
    machine.write(part(f"/root/.edgectl-{upload.sha256}", upload), BIG[:600_000], root=True)
    assert machine.write(path, BIG, mode=0o640, root=True, told=told.append) is True
    assert (told[0], sum(told)) == (600_000, len(BIG))
    assert node.run(f"stat -c '%U %a' {path}; ls -A /root | grep edgectl || :") == "edgectl-agent 640\n"


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
