"""What the support matrix promises: facts about a machine → what is fine, and what is refused with which remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgectl.core.machines import Disk, Installed, MachineFacts, Needs, Python, check, worst
from edgectl.core.wheels import Manifest

NOW_S = 1_780_000_000.0
PYTHON = Python(path="/usr/bin/python3.11", version=(3, 11, 2), venv=True, pip=False)
GOOD = MachineFacts(
    machine="aarch64", bits=64, libc="glibc", glibc=(2, 36), pythons=(PYTHON,), user="root", clock_s=NOW_S,
    disks=(Disk(path="/opt/edgectl-agent", mount="/", free_bytes=10**10, read_only=False),
           Disk(path="/var/lib/edgectl-agent", mount="/", free_bytes=10**10, read_only=False)),
    memory_bytes=10**9, available_bytes=8 * 10**8, systemd=252, index=("1.32.0", "1.31.0"),
)  # fmt: skip
NEEDS = Needs(node="n1", now_s=NOW_S, memory_bytes=2 * 10**8, outbox_bytes=2 * 10**8, onnxruntime="1.32.0")
WHEELS = Manifest(agent="0.1.0", platform="aarch64", python="3.11", glibc="2.28", constraints="", files=())


def disks(free: int = 10**10, read_only: bool = False) -> dict[str, Any]:
    return {"disks": tuple(replace(disk, free_bytes=free, read_only=read_only) for disk in GOOD.disks)}


def test_a_machine_that_has_everything_is_fine() -> None:
    assert worst(check(GOOD, NEEDS)) == "ok"


@pytest.mark.parametrize(
    ("facts", "name", "verdict", "found", "fix"),
    [
        ({"machine": "armv7l", "bits": 32}, "architecture", "refuse", "armv7l", "32-bit ARM"),
        ({"machine": "i686", "bits": 32}, "architecture", "refuse", "i686", "32-bit x86"),
        ({"bits": 32}, "architecture", "refuse", "aarch64 with 32-bit programs", "install a 64-bit system"),
        ({"libc": "musl"}, "libc", "refuse", "musl", "use a system with glibc"),
        ({"glibc": (2, 27)}, "libc", "refuse", "glibc 2.27", "upgrade the system"),
        ({"glibc": (2, 28)}, "libc", "ok", "glibc 2.28", ""),
        ({"pythons": ()}, "python", "refuse", "none", "install Python 3.11"),
        ({"pythons": (replace(PYTHON, version=(3, 10, 9)),)}, "python", "refuse", "3.10.9", "install Python 3.11"),
        ({"pythons": (replace(PYTHON, shared=False),)}, "python", "refuse", "agent's user may not", "for all users"),
        ({"pythons": (replace(PYTHON, shared=False), PYTHON)}, "python", "ok", "/usr/bin/python3.11 3.11.2", ""),
        ({"pythons": (replace(PYTHON, venv=False),)}, "python", "refuse", "without venv", "install python3.11-venv"),
        ({"pythons": (replace(PYTHON, venv=False, pip=True),)}, "python", "warn", "without venv", "3.11-venv"),
        (disks(free=5 * 10**8), "disk /opt/edgectl-agent", "refuse", "500 MB free", "make room on /"),
        (disks(read_only=True), "writable", "refuse", "/ read-only", "mount -o remount,rw /"),
        ({"memory_bytes": 2 * 10**8}, "memory", "refuse", "of 200 MB", "lower limits.memory"),
        ({"available_bytes": 10**8}, "memory", "warn", "100 MB of 1,000 MB", "what else runs"),
        ({"clock_s": 3600.0}, "clock", "refuse", "never set", "set the clock"),
        ({"clock_s": NOW_S - 31}, "clock", "warn", "31 s behind", "time server"),
        ({"clock_s": NOW_S + 29}, "clock", "ok", "29 s ahead", ""),
        ({"no_root": "sudo refuses edge"}, "root", "refuse", "sudo refuses edge", "connect.sudo_password"),
        ({"systemd": 0}, "service", "warn", "no systemd", "supervise.sh"),
        ({"installed": Installed(traces=True)}, "agent", "warn", "half-finished", "bootstrap n1 completes it"),
        ({"installed": Installed(node="n2", traces=True)}, "agent", "refuse", "the agent of node n2", "replace n1"),
        (
            {"installed": Installed(node="n1", current="1.4.0-ab12", complete=True, traces=True)},
            "agent", "ok", "1.4.0", "",
        ),
        ({"index": ()}, "packages", "refuse", "none", "wheelhouse build --platform aarch64 --python 3.11"),
        ({"index": ("1.20.0",)}, "packages", "refuse", "onnxruntime 1.20.0", "wheelhouse build"),
    ],
)  # fmt: skip
def test_each_row_of_the_support_matrix(facts: dict[str, Any], name: str, verdict: str, found: str, fix: str) -> None:
    row = next(c for c in check(replace(GOOD, **facts), NEEDS) if c.name == name)
    assert row.verdict == verdict
    assert found in row.found
    assert fix in row.fix


def test_a_wheelhouse_that_fits_stands_in_for_an_index() -> None:
    offline = replace(GOOD, index=())
    for made, verdict in ((WHEELS, "ok"), (Manifest(**{**_plain(WHEELS), "python": "3.12"}), "refuse")):
        rows = check(offline, replace(NEEDS, wheelhouses=(made,)))
        assert next(c for c in rows if c.name == "packages").verdict == verdict


def _plain(made: Manifest) -> dict[str, Any]:
    return {name: getattr(made, name) for name in made.__struct_fields__}


def test_two_folders_on_one_disk_need_room_for_both() -> None:
    facts = replace(GOOD, **disks(free=640 * 10**6))
    assert {c.verdict for c in check(facts, NEEDS) if c.name.startswith("disk")} == {"refuse"}
    apart = replace(facts, disks=(facts.disks[0], replace(facts.disks[1], mount="/var")))
    assert {c.verdict for c in check(apart, NEEDS) if c.name.startswith("disk")} == {"ok"}
