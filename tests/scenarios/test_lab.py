"""The laboratory itself: its nodes are what the tests of real machines take them for, and nothing of them stays."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import CGROUPS, PASSWORD, Lab, changes, clear_away

pytestmark = pytest.mark.needs("lab")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab") / "nodes") as lab:
        bastion = lab.node("bastion")
        lab.node("behind", jump=bastion)
        lab.node("asking", sudo="password", disk="40m")
        lab.node("frozen", sudo="none", read_only=True, machine="armv7l")
        lab.node("bare", sudo="missing", without=("python",))
        lab.boot()
        yield lab


def test_every_node_is_a_systemd_that_answers_over_ssh_with_strict_host_keys(lab: Lab) -> None:
    for node in lab.nodes:
        done = node.ssh("hostname && cat /proc/1/comm && systemctl is-system-running")
        assert done.stdout.split() == [node.name, "systemd", "running"], done.stderr


def test_only_the_bastion_has_a_way_to_the_node_behind_it(lab: Lab) -> None:
    behind = lab["behind"]
    here = subprocess.run(
        ["ssh", "-F", "none", "-oConnectTimeout=1", "-oBatchMode=yes", behind.address], capture_output=True
    )
    assert here.returncode == 255
    assert b"Host key" not in here.stderr
    assert behind.ssh("true").returncode == 0


def test_nodes_differ_as_their_owners_machines_do(lab: Lab) -> None:
    assert lab["bastion"].ssh("sudo -n id -u").stdout == "0\n"
    assert lab["asking"].ssh("sudo -n id -u").returncode != 0
    assert lab["asking"].ssh(f"echo {PASSWORD} | sudo -S id -u").stdout == "0\n"
    assert "No space" in lab["asking"].ssh("head -c 60m /dev/zero > ~/big").stderr
    assert lab["frozen"].ssh("sudo -n true").returncode != 0
    assert "Read-only" in lab["frozen"].ssh("touch ~/new").stderr
    assert lab["frozen"].ssh("uname -m").stdout == "armv7l\n"
    assert lab["bare"].ssh("command -v python3 sudo").stdout == ""


def test_a_cut_cable_stops_every_byte_until_it_is_plugged_in_again(lab: Lab) -> None:
    node = lab["bastion"]
    node.link(up=False)
    with pytest.raises(OSError, match=r"timed out|No route"):
        socket.create_connection((node.address, 22), timeout=0.5)
    node.link(up=True)
    assert node.ssh("true").returncode == 0


def test_a_snapshot_sees_what_was_made_changed_and_removed(lab: Lab) -> None:
    node = lab["bastion"]
    before = node.snapshot()
    assert changes(before, node.snapshot()) == {}
    node.run("mkdir /opt/x; echo 1 > /opt/x/y; chmod 600 /etc/fstab; cp -p /etc/group /etc/g && mv /etc/g /etc/group")
    node.run("rm /etc/passwd-; rm -r /etc/skel; mkdir /etc/skel; ln -s x /opt/l; echo 1 > /tmp/t; date > /var/log/l")
    found = changes(before, node.snapshot(skip=("run", "dev", "var/log")))
    assert [name for name in found if not name.startswith("etc/skel/")] == [
        "etc/fstab", "etc/passwd-", "opt/l", "opt/x", "opt/x/y", "tmp/t",
    ]  # fmt: skip
    assert found["opt/l"][1] is not None
    assert found["opt/l"][1].content == "x"
    assert found["etc/passwd-"][1] is None
    assert "etc/skel/.profile" in found


def test_a_unit_that_a_test_installs_is_started_limited_and_restarted(lab: Lab) -> None:
    node = lab["bastion"]
    unit = (
        "[Service]\\nExecStart=sleep 1000\\nRestart=always\\nMemoryMax=50M\\n[Install]\\nWantedBy=multi-user.target\\n"
    )
    node.run(f"printf '{unit}' > /etc/systemd/system/nap.service; systemctl daemon-reload; systemctl enable --now nap")
    first = node.run("systemctl show -P MainPID nap").strip()
    node.run(f"kill -9 {first}; until systemctl is-active -q nap && [ $(systemctl show -P MainPID nap) != {first} ]; "
             "do sleep 0.1; done; systemctl disable --now nap")  # fmt: skip


CHILD = """
import os, pathlib, sys
from tests.support.lab import Lab
lab = Lab(pathlib.Path(sys.argv[1])).__enter__()
lab.node("a")
lab.boot()
print(lab.name, lab.nodes[0].init, flush=True)
os.kill(os.getpid(), 9)
"""


def command_line(pid: int) -> bytes:
    """Empty for a process that is gone, or dead and not waited for."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def left(name: str) -> list[str]:
    """Whatever on this machine bears a lab's name."""
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True).stdout
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    folders = [str(path) for path in (*Path("/tmp").glob(f"{name}-*"), *CGROUPS.glob(f"*/{name}-*"))]
    return [line for line in (links + namespaces).splitlines() if line.startswith(name)] + folders


def test_nothing_of_a_lab_stays_not_even_of_one_that_was_killed(tmp_path: Path) -> None:
    with Lab(tmp_path / "ended") as lab:
        lab.node("a")
        lab.boot()
        assert left(lab.name)
    assert left(lab.name) == []
    done = subprocess.run([sys.executable, "-c", CHILD, tmp_path / "killed"], capture_output=True, text=True)
    name, init = done.stdout.split()
    clear_away()
    assert left(name) == []
    assert not command_line(int(init))
