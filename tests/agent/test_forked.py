"""The child that is a copy of this process: what it has, what it may use, and how its end is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from edgectl_agent import forked
from edgectl_agent.confinement import PROGRAM_BYTES, Limits, MiB
from edgectl_agent.forked import Ended, Write


def run(work: Callable[[Write], None], limits: Limits | None = None) -> Ended:
    return forked.run(work, limits or Limits(), at_rest=lambda fork: fork())


def looked_around(write: Write) -> None:
    found = {
        "descriptors": [int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")],
        "session": os.getsid(0) == os.getpid(),
        "handled": [s.name for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) if callable(signal.getsignal(s))],
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "threads": threading.active_count(),
        "input": os.read(0, 1).decode(),
    }
    write(json.dumps(found).encode())


def test_it_has_three_descriptors_one_thread_and_no_handler_of_ours(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with (tmp_path / "secret").open("w") as file, socket.create_server(("127.0.0.1", 0)) as server:
            os.set_inheritable(file.fileno(), True)
            os.set_inheritable(server.fileno(), True)
            ended = run(looked_around)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (ended.status, ended.err) == (0, b"")
    assert json.loads(ended.out) == {
        "descriptors": [0, 1, 2], "session": True, "handled": [], "blocked": 0, "threads": 1, "input": "",
    }  # fmt: skip


def test_nothing_of_it_is_left_here() -> None:
    descriptors, blocked = os.listdir("/proc/self/fd"), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    children = psutil.Process().children()
    assert run(lambda write: write(b"x" * 300_000)).out == b"x" * 300_000
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked
    assert psutil.Process().children() == children


def test_its_exception_is_its_last_line() -> None:
    def fail(write: Write) -> None:
        write(b"# at work\n")
        raise SystemExit("no reason")

    assert run(fail) == Ended(1, b"# at work\n", b"SystemExit: no reason\n")


def test_it_gets_no_more_memory_than_it_may() -> None:
    def hoard(write: Write) -> None:
        room = bytearray(20 * MiB)
        write(f"{len(room)}\n".encode())
        bytearray(200 * MiB)

    ended = run(hoard, Limits(memory_bytes=PROGRAM_BYTES + 100 * MiB))
    assert (ended.status, ended.out) == (1, b"%d\n" % (20 * MiB))
    assert ended.err.startswith(b"MemoryError")


def test_processor_time_ends_it() -> None:
    def spin(write: Write) -> None:
        write(b"# spinning\n")
        while True:
            pass

    assert run(spin, Limits(cpu_s=1)).status == -signal.SIGXCPU


def test_it_is_killed_when_its_time_is_up() -> None:
    def hang(write: Write) -> None:
        write(b"# hanging\n")
        signal.pause()

    assert run(hang, Limits(wall_s=0.5)) == Ended(None, b"# hanging\n", b"")


def test_it_is_given_up_early_if_it_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "FIRST_WORD_S", 0.3)
    lock = threading.Lock()
    with lock:
        assert run(lambda _: lock.acquire() and None) == Ended(None, b"", b"")


def test_one_that_closes_its_pipes_and_stays_is_ended() -> None:
    def hide(write: Write) -> None:
        write(b"# hidden\n")
        os.close(1)
        os.close(2)
        signal.pause()

    assert run(hide).status == -signal.SIGKILL


PARENT = """\
import os, signal, sys
from edgectl_agent import forked
from edgectl_agent.confinement import Limits
def work(write):
    print(os.getpid(), file=open(sys.argv[1], "w"), flush=True)
    write(b"#\\n")
    signal.pause()
forked.run(work, Limits(), lambda fork: fork())
"""


def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    said = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(said)])
    try:
        while not (said.exists() and said.read_text().endswith("\n")):
            assert parent.poll() is None
        child = psutil.Process(int(said.read_text()))
    finally:
        parent.kill()
        parent.wait()
    assert psutil.wait_procs([child], timeout=60)[0] == [child]
