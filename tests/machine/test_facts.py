"""One look at a real machine, by the shells that machines have; nothing is written there."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl.core.errors import RemoteRefused
from edgectl.machine.facts import gather, parse
from edgectl.machine.layout import Layout
from tests.support.lab import Lab, Node, changes
from tests.support.this_host import ThisHost


@pytest.mark.parametrize(
    "shell",
    [
        pytest.param(("dash",), marks=pytest.mark.needs("dash")),
        pytest.param(("busybox", "sh"), marks=pytest.mark.needs("busybox")),
    ],
)
def test_a_look_finds_what_this_machine_is(shell: tuple[str, ...], tmp_path: Path) -> None:
    layout = Layout(config=str(tmp_path / "etc"), data=str(tmp_path / "a/b/data"), home=str(tmp_path), root=False)
    facts, began = gather(ThisHost(shell=shell), layout, index=False)
    assert (facts.machine, facts.bits, facts.libc) == (os.uname().machine, 64, "glibc")
    assert facts.glibc == tuple(map(int, platform.libc_ver()[1].split(".")[:2]))
    assert facts.python is not None
    assert facts.python.version >= (3, 11)
    assert [disk.path for disk in facts.disks] == [layout.home, layout.data, layout.config]
    free = os.statvfs(tmp_path)
    assert abs(facts.disks[0].free_bytes - free.f_bavail * free.f_frsize) < 10**9
    assert facts.memory_bytes > facts.available_bytes > 0
    assert abs(facts.clock_s - began) < 30
    assert not facts.installed.complete


@pytest.mark.parametrize("text", ["", "Last login: today\n", "machine\tx86_64\nend\n"])
def test_what_is_no_answer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


def test_a_machine_without_a_posix_shell_is_said() -> None:
    with pytest.raises(RemoteRefused, match="a look at the machine ended"):
        gather(ThisHost(shell=("true",)), Layout(root=False))


# ── on nodes ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.node("whole")
        lab.node("poor", machine="armv7l", disk="40m", without=("venv",), read_only=True)
        lab.boot()
        yield lab


def console(node: Node) -> ThisHost:
    enter = ("nsenter", "-t", str(node.init), "-a", "-r", "-w", "env", "-i", "HOME=/root")
    return ThisHost(node.name, (*enter, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "sh"))


@pytest.mark.needs("lab")
def test_a_look_writes_nothing_on_a_node(lab: Lab) -> None:
    node = lab["whole"]
    before = node.snapshot()
    facts, _ = gather(console(node), Layout())
    assert {name for name in changes(before, node.snapshot()) if not name.startswith("var/log")} == set()
    assert facts.systemd > 200
    assert not facts.installed.traces
    assert facts.index == (), "it has no index"


@pytest.mark.needs("lab")
def test_a_look_sees_what_a_node_lacks(lab: Lab) -> None:
    facts, _ = gather(console(lab["poor"]), Layout(), index=False)
    assert facts.machine == "armv7l"
    assert all(disk.read_only for disk in facts.disks)
    assert all(disk.free_bytes < 50_000_000 for disk in facts.disks)
    assert facts.pythons
    assert not any(python.venv for python in facts.pythons)
    assert abs(facts.clock_s - time.time()) < 60


@pytest.mark.parametrize(
    "line", ["installed", "disk\t/", "python\t/usr/bin/python3", "python\tp\t1\t1\t1\t64\t1", "clock"]
)
def test_a_line_that_is_cut_short_is_no_answer(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(f"{line}\nend\n")
