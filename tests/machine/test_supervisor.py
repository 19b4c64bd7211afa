"""supervise.sh as machines without systemd run it: real shells, the real agent, processes that are really killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from edgectl.machine import supervisor
from edgectl.machine.layout import Layout
from edgectl.machine.service import Supervised
from tests.support.agents import AgentProcess
from tests.support.this_host import ThisHost

SHELLS = [
    pytest.param(("dash",), id="dash", marks=pytest.mark.needs("dash")),
    pytest.param(("busybox", "sh"), id="busybox", marks=pytest.mark.needs("busybox")),
]


class Machine:
    """One layout below `folder`, its agent and its supervisor."""

    def __init__(self, folder: Path, shell: tuple[str, ...], user: str = "") -> None:
        self.shell = shell
        self.agent = AgentProcess(folder / "data", sources={}, models={}, data_dir=str(folder / "data"))
        self.agent.data_dir = folder / "data"
        self.layout = Layout(
            config=str(folder / "data"), data=str(folder / "data"), home=str(folder / "opt"), user=user, root=bool(user)
        )
        self.install(f'#!/bin/sh\nexec {sys.executable} -m edgectl_agent "$@"\n')
        self.write(supervisor.script(self.layout))
        self.started: list[subprocess.Popen[bytes]] = []

    def install(self, text: str) -> None:
        program = Path(self.layout.current, "bin/edgectl-agent")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)

    def write(self, text: str) -> None:
        Path(supervisor.script_file(self.layout)).write_text(text)

    def start(self) -> subprocess.Popen[bytes]:
        command = [*self.shell, supervisor.script_file(self.layout)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.started.append(process)
        return process

    @property
    def log(self) -> str:
        path = Path(supervisor.log_file(self.layout))
        return path.read_text() if path.exists() else ""

    def agent_pid(self, other_than: int = 0) -> int:
        """Of the agent that answers."""
        self.wait(lambda: self._answering() not in (0, other_than))
        return self._answering()

    def _answering(self) -> int:
        try:
            return int(self.agent.contact()["pid"]) if self.agent.call("GET", "/v1/live")[0] == 200 else 0
        except (OSError, ValueError):
            return 0

    def wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline, f"not within 60 s:\n{self.log}"
            time.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """All that belong to it."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            if str(self.layout.home) in " ".join(process.info["cmdline"] or []) or (
                str(self.layout.agent_yaml) in (process.info["cmdline"] or [])
            ):
                found.append(process)
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]

    def clean(self) -> None:
        for process in self.processes():
            process.kill()
        for started in self.started:
            started.kill()
            started.wait()
            assert started.stdout is not None
            started.stdout.close()


@pytest.fixture(params=SHELLS)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path, request.param)
    yield found
    found.clean()


def test_a_killed_agent_is_started_again_and_term_ends_both_in_order(machine: Machine) -> None:
    supervising = machine.start()
    first = machine.agent_pid()
    assert int(Path(supervisor.pid_file(machine.layout)).read_text()) == supervising.pid

    again = machine.start()
    assert again.wait(30) == 50
    assert f"process {supervising.pid} supervises".encode() in again.stdout.read()  # type: ignore[union-attr]

    os.kill(first, signal.SIGKILL)
    second = machine.agent_pid(other_than=first)
    assert "the agent ended with status 137 after" in machine.log
    assert "starts again in 1 s" in machine.log

    supervising.send_signal(signal.SIGTERM)
    assert supervising.wait(30) == 0
    assert not psutil.pid_exists(second)
    assert '"event":"stopped"' in machine.log
    assert not (machine.agent.data_dir / "api.json").exists()
    assert not Path(supervisor.pid_file(machine.layout)).exists()
    assert machine.processes() == []


def test_an_agent_that_cannot_start_is_tried_again_ever_more_rarely_and_a_stop_need_not_wait(machine: Machine) -> None:
    machine.agent.config.write_text("version: 7\n")
    supervising = machine.start()
    machine.wait(lambda: "starts again in 4 s" in machine.log)
    lines = [line.rpartition("starts again in ")[2] for line in machine.log.splitlines() if "starts again" in line]
    assert lines == ["1 s", "2 s", "4 s"]
    assert machine.log.count("agent.yaml: version: ") == 3

    began = time.monotonic()
    supervising.send_signal(signal.SIGINT)
    assert supervising.wait(30) == 0
    assert time.monotonic() - began < 3.5, "it sleeps for 4 s"
    assert machine.processes() == []


def test_an_agent_whose_supervisor_was_killed_goes_on_and_the_next_supervisor_replaces_it(machine: Machine) -> None:
    killed = machine.start()
    orphan = machine.agent_pid()
    killed.kill()
    killed.wait()
    assert machine.agent_pid() == orphan, "it detects on"

    machine.start()
    machine.agent_pid(other_than=orphan)
    assert f"ends agent {orphan}, which nobody supervises" in machine.log
    assert not psutil.pid_exists(orphan)


def test_an_agent_that_does_not_end_is_killed(machine: Machine) -> None:
    machine.write(supervisor.script(machine.layout).replace("patience=30", "patience=1"))
    supervising = machine.start()
    os.kill(machine.agent_pid(), signal.SIGSTOP)
    supervising.send_signal(signal.SIGTERM)
    assert supervising.wait(30) == 0
    assert machine.processes() == []


def test_the_log_is_bounded_while_the_agent_appends_to_it(machine: Machine) -> None:
    log = Path(supervisor.log_file(machine.layout))
    put_aside = log.with_name(f"{log.name}.1")
    log.write_bytes(b"x" * (supervisor.LOG_BYTES + 1))
    machine.start()
    machine.agent_pid()
    machine.wait(lambda: put_aside.exists() and log.stat().st_size < 10_000)
    assert put_aside.stat().st_size >= supervisor.LOG_BYTES


@pytest.mark.parametrize("shell", SHELLS[:1])
def test_the_service_starts_and_stops_it(shell: tuple[str, ...], tmp_path: Path) -> None:
    machine = Machine(tmp_path, shell)
    service = Supervised(ThisHost(), machine.layout)
    try:
        service.start()
        first = machine.agent_pid()
        service.start()
        os.kill(first, signal.SIGKILL)
        machine.agent_pid(other_than=first)
        assert service.running()
        service.stop()
        assert not service.running()
        assert machine.processes() == []
        assert '"event":"stopped"' in "".join(service.last_words(50))
    finally:
        machine.clean()


@pytest.mark.needs("root")
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("without_setpriv", [False, True])
def test_begun_by_root_it_runs_as_the_agents_user(shell: tuple[str, ...], without_setpriv: bool) -> None:
    folder = Path(f"/tmp/edgectl-test-{os.getpid()}")  # pytest's own folder is closed to others
    folder.mkdir(mode=0o755)
    machine = Machine(folder, shell, user="daemon")
    machine.install("#!/bin/sh\nid -un >>$4.who\nexec sleep 1000\n".replace("$4", f"{folder}/data/run"))
    if without_setpriv:
        machine.write(supervisor.script(machine.layout).replace("command -v setpriv", "false"))
    os.chmod(supervisor.script_file(machine.layout), 0o644)
    shutil.chown(folder / "data", "daemon", "daemon")
    try:
        machine.start()
        who = folder / "data/run.who"
        machine.wait(lambda: who.exists() and who.read_text() == "daemon\n")
        assert who.stat().st_mode & 0o777 == 0o640, "the group may read what it writes"
        pid = int(Path(supervisor.pid_file(machine.layout)).read_text())
        assert psutil.Process(pid).username() == "daemon"
        psutil.Process(pid).send_signal(signal.SIGTERM)
        machine.wait(lambda: not psutil.pid_exists(pid) or not Path(supervisor.pid_file(machine.layout)).exists())
    finally:
        machine.clean()
        shutil.rmtree(folder)


@pytest.mark.needs("root")
@pytest.mark.parametrize(("owner", "ours"), [("daemon", True), ("root", False), ("nobody", False)])
def test_root_ends_no_process_of_another_user_whose_pid_the_agents_user_wrote_down(
    owner: str, ours: bool, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    layout = Layout(config=str(tmp_path), data=str(data), home=str(tmp_path), user="daemon")
    command = ["tail", "-f", "/dev/null", layout.agent_yaml]  # as of somebody who looks at it
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, user=owner, cwd="/", start_new_session=True) as process:
        Path(supervisor.pid_file(layout)).write_text(f"{process.pid}\n")
        service = Supervised(ThisHost(), layout)
        seen = service.running()
        service.stop()
        ended = process.poll() is not None
        process.kill()
    assert (seen, ended) == (ours, ours)
