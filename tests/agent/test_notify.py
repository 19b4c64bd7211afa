"""The service manager hears READY, STOPPING and signs of life, and a worker that hangs falls silent."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from edgectl_agent.notify import Notifier

from tests.support.agents import AgentProcess


class Manager:
    """Listens where systemd would."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(60)

    def hear(self) -> list[str]:
        return self._socket.recv(4096).decode().splitlines()

    def hear_until(self, line: str) -> list[list[str]]:
        """Everything up to the first datagram that holds `line`."""
        heard = [self.hear()]
        while line not in heard[-1]:
            heard.append(self.hear())
        return heard

    def silent_for(self, seconds: float) -> bool:
        self._socket.settimeout(seconds)
        try:
            self.hear()
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(60)
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    found = Manager(str(tmp_path / "notify") if request.param == "path" else f"@edgectl-test-{os.getpid()}")
    yield found
    found.close()


def test_messages_arrive_at_both_kinds_of_socket(manager: Manager) -> None:
    Notifier({"NOTIFY_SOCKET": manager.address}, 1).say("READY=1", "STATUS=healthy")
    assert manager.hear() == ["READY=1", "STATUS=healthy"]


def test_without_a_manager_nothing_is_said_and_nothing_fails(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}):
        Notifier(environ, 1).say("READY=1")
        Notifier(environ, 1).alive(lambda: "healthy", 0.0)


def test_signs_of_life_come_three_times_in_a_watchdogs_period(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 7)
    for now_s in (0.0, 0.5, 0.9, 1.0, 1.5, 2.1):
        notifier.alive(lambda at=now_s: f"at {at}", now_s)  # type: ignore[misc]
    assert [manager.hear()[1] for _ in range(3)] == ["STATUS=at 0.0", "STATUS=at 1.0", "STATUS=at 2.1"]


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "8"}]
)
def test_a_watchdog_for_another_process_is_not_ours(environ: dict[str, str]) -> None:
    assert Notifier(environ, 7).period_s is None


def test_a_running_agent_is_ready_alive_silent_when_it_hangs_and_says_that_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    agent = AgentProcess(tmp_path / "node", sources={}, models={})
    agent.start(HANGING)
    try:
        assert manager.hear() == ["READY=1", "STATUS=healthy"]
        assert agent.call("GET", "/v1/live")[0] == 200, "READY means that it answers"
        assert manager.hear() == ["WATCHDOG=1", "STATUS=healthy"]
        assert manager.hear() == ["WATCHDOG=1", "STATUS=healthy"]
        (tmp_path / "node" / "hang").touch()
        while not manager.silent_for(1.0):
            pass
        assert agent.call("GET", "/v1/live")[0] == 200, "only the worker hangs"
        (tmp_path / "node" / "hang").unlink()
        manager.hear_until("WATCHDOG=1")
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)
        manager.hear_until("STOPPING=1")
        assert agent.process.wait(60) == 0
    finally:
        agent.kill()
        manager.close()


HANGING = """
import pathlib, sys, time
from edgectl_agent import __main__, runtime
turn = runtime.Runtime._turn
def hanging(self):
    while (self._config.folder.parent / "hang").exists():
        time.sleep(0.05)
    return turn(self)
runtime.Runtime._turn = hanging
sys.argv[0] = "edgectl-agent"
__main__.main()
"""
