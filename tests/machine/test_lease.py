"""One operator at a time at a machine, by real files and real processes of this one."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from edgectl.core.errors import LockHeld
from edgectl.machine import lease
from edgectl.machine.layout import Layout
from edgectl.workspace import operator
from tests.scenarios.fleets import until
from tests.support.this_host import ThisHost

HOST = ThisHost()


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    made = Layout.within(str(tmp_path))
    yield made
    Path(lease.file(made)).unlink(missing_ok=True)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process on this machine."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def token(process: subprocess.Popen[bytes]) -> str:
    return f"{operator()} (pid {process.pid}, since {psutil.Process(process.pid).create_time():.2f})"


def leave(layout: Layout, who: str) -> None:
    """As a process whose link was cut leaves it."""
    note = '{"who": "mona@desk", "command": "nodes bootstrap press-01", "since": "2026-01-01T00:00:00"}'
    lease._take(HOST, layout, who, note, dead="")


def opened() -> list[str]:
    """What the scripts that this process runs have open."""
    found = []
    for process in psutil.Process().children(recursive=True):
        for link in Path(f"/proc/{process.pid}/fd").glob("*"):
            with suppress(OSError):
                found.append(os.readlink(link))
    return found


def traces(layout: Layout) -> list[str]:
    path = Path(lease.file(layout))
    return [found.name for found in path.parent.glob(f"{path.name}*")]


def test_who_is_at_work_is_told_and_the_machine_is_free_afterwards(
    layout: Layout, other: subprocess.Popen[bytes]
) -> None:
    with lease.held(HOST, layout, "nodes remove press-01", "2026-01-01T00:00:00", token(other)) as mine:
        mine.renew()
        said = r"has been at work on it since 2026-01-01T00:00:00 with `edgectl nodes remove press-01`"
        with pytest.raises(LockHeld, match=said), lease.held(HOST, layout, "nodes bootstrap press-01", ""):
            pass
    assert traces(layout) == []


def test_what_a_process_of_this_machine_left_when_it_died_is_taken_over(
    layout: Layout, other: subprocess.Popen[bytes]
) -> None:
    leave(layout, token(other))
    other.kill()
    other.wait()
    with lease.held(HOST, layout, "nodes bootstrap press-01", ""):
        pass
    assert traces(layout) == []


def test_who_waits_while_another_gives_the_machine_back_does_not_share_it_with_a_third(
    layout: Layout, other: subprocess.Popen[bytes]
) -> None:
    guard = Path(f"{lease.file(layout)}.guard")
    with guard.open("w") as held, ThreadPoolExecutor() as threads:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threads.submit(lease._take, HOST, layout, token(other), "{}", "")
        until(lambda: str(guard) in opened())
        guard.unlink()  # as who gives a machine back does
        with guard.open("w") as third:
            fcntl.flock(third, fcntl.LOCK_EX)
            fcntl.flock(held, fcntl.LOCK_UN)
            until(lambda: f"{guard} (deleted)" not in opened() and str(guard) in opened())
            assert not Path(lease.file(layout)).exists(), "the third is at it"
        waiting.result(60)
    assert Path(lease.file(layout)).exists()
    guard.unlink()


def test_a_rerun_that_finds_the_work_done_gives_back_what_a_dead_process_left_and_nothing_else(
    layout: Layout, other: subprocess.Popen[bytes]
) -> None:
    lease.clear(HOST, layout)
    leave(layout, f"mona@{os.uname().nodename}.elsewhere (pid 1, since 0.00)")
    lease.clear(HOST, layout)
    assert traces(layout), "nobody knows whether a process elsewhere has ended"
    Path(lease.file(layout)).unlink()

    who = token(other)
    leave(layout, who)
    lease.clear(HOST, layout)
    assert traces(layout), "it is at work"
    other.kill()
    other.wait()
    lease.clear(HOST, layout)
    assert traces(layout) == []
