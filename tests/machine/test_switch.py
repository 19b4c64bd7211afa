"""switch.sh on this machine: the real agent, real shells, and a script that something ends in its course."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from edgectl.core.errors import RemoteRefused
from edgectl.machine import supervisor, switch
from edgectl.machine.layout import AGENT, Layout
from edgectl.machine.switch import Change
from tests.scenarios.fleets import until
from tests.support.this_host import ThisHost

HOST = ThisHost("press-01")
VERSION = "0.1.0"


class Machine:
    """One layout below `folder`, without an agent; its environments wait for the file ``go`` before they run one."""

    def __init__(self, folder: Path) -> None:
        self.layout = dataclasses.replace(Layout.within(str(folder)), user="root")  # if the test runs as root
        self.go = folder / "go"
        self.service = switch.supervised(self.layout)
        document = {"version": 1, "node": "press-01", "data_dir": self.layout.data, "sources": {}, "models": {}}
        self.files = {
            self.layout.agent_yaml: yaml.safe_dump(document).encode(),
            supervisor.script_file(self.layout): supervisor.script(self.layout).encode(),
        }
        Path(self.layout.data, "trust").mkdir(parents=True)

    def change(self, name: str) -> Change:
        """The switch to an environment of that name, which is made."""
        program = Path(self.layout.home, "venvs", name, "bin", AGENT)
        program.parent.mkdir(parents=True)
        wait = f"[ \"$1\" != run ] || while [ ! -e '{self.go}' ]; do sleep 0.1; done"
        paths = os.environ.get("PYTHONPATH", "")
        run = f"PYTHONPATH='{paths}' exec '{sys.executable}' -P -m edgectl_agent \"$@\""
        program.write_text(f"#!/bin/sh\n{wait}\n{run}\n")
        program.chmod(0o755)
        files = switch.files(self.files, self.layout)
        return Change(id=f"to-{name}", environment=str(program.parents[1]), version=VERSION, files=files)

    def kill_script(self, id_: str) -> None:
        """As the kernel does it when memory is short, or a power cut: the script with all that it waits for."""
        script = f"{switch.folder(self.layout, id_)}/switch.sh"
        found = [p for p in psutil.process_iter(["cmdline"]) if script in (p.info["cmdline"] or [])]
        assert found, f"{script} does not run"
        for process in found:
            os.killpg(os.getpgid(process.pid), signal.SIGKILL)

    def clean(self) -> None:
        for process in psutil.process_iter(["cmdline"]):
            if any(str(Path(self.layout.home)) in word or self.layout.agent_yaml in word
                   for word in process.info["cmdline"] or []):  # fmt: skip
                process.kill()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(switch, "_LOOK_S", 1.0)
    made = Machine(tmp_path)
    yield made
    made.clean()


def test_a_script_that_was_killed_in_its_course_is_noticed_and_goes_on(machine: Machine) -> None:
    change = machine.change("one")
    switch.begin(HOST, machine.layout, change, machine.service)
    until(lambda: Path(machine.layout.current).is_symlink())
    machine.kill_script(change.id)
    assert switch.outcome(HOST, machine.layout, change.id) is None
    machine.go.touch()
    began = time.monotonic()
    found = switch.follow(HOST, machine.layout, change.id)
    assert found.state == "taken", found
    assert time.monotonic() - began < 60, "not when an agent's time is up"
    assert os.readlink(machine.layout.current) == change.environment


def test_a_script_that_never_comes_to_its_end_is_given_up_and_says_what_the_node_runs(machine: Machine) -> None:
    change = machine.change("one")
    machine.go.touch()
    switch.begin(HOST, machine.layout, change, machine.service)
    assert switch.follow(HOST, machine.layout, change.id).state == "taken"

    second = machine.change("two")
    here = Path(switch.folder(machine.layout, second.id))
    here.mkdir()
    (here / "switch.sh").write_text("exit 1\n")
    with pytest.raises(RemoteRefused, match="ended 3 times without an outcome; one is in place and runs") as refused:
        switch.follow(HOST, machine.layout, second.id, timeout_s=100)
    assert f"see what ends {here}/switch.sh there" in (refused.value.hint or "")
    switch.begin(HOST, machine.layout, second, machine.service)
    assert switch.follow(HOST, machine.layout, second.id).state == "taken", "the same command completes it"
