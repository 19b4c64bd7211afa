"""The agent moves to another version and another agent.yaml on real machines, and back where it does not come up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.fleets import until
from tests.support.lab import Lab
from tests.support.machines import MachineFleet, other_agent, running, temporary_files, wheelhouse

pytestmark = pytest.mark.needs("lab", "system-python", "index")

NAMES = ("one", "two")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheelhouse(tmp_path_factory)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[MachineFleet]:
    with Lab(tmp_path_factory.mktemp("lab") / "nodes") as lab:
        for name in NAMES:
            lab.node(name)
        lab.boot()
        fleet = MachineFleet(tmp_path_factory.mktemp("mona") / "fleet", lab)
        fleet.write(*NAMES)
        fleet.shell.ok("nodes", "bootstrap", *NAMES, "--wheelhouse", str(wheels), "--yes", timeout_s=600)
        yield fleet


def versions(fleet: MachineFleet) -> set[str]:
    return {running(fleet.lab[name]).split("-")[0] for name in NAMES}


def configured(fleet: MachineFleet) -> dict[str, str]:
    return {name: fleet.lab[name].run("cat /etc/edgectl-agent/agent.yaml") for name in NAMES}


def states(rollout: Any) -> dict[str, str]:
    return {node["node"]: node["state"] for node in rollout["nodes"]}


def upgrade(wheel: Path, wheels: Path) -> tuple[str, ...]:
    return ("nodes", "upgrade", *NAMES, "--wheel", str(wheel), "--wheelhouse", str(wheels), "--yes")


def test_an_upgrade_whose_operator_was_killed_goes_on_where_it_was_and_keeps_the_former_environment(
    fleet: MachineFleet, wheels: Path
) -> None:
    former = {name: running(fleet.lab[name]) for name in NAMES}
    command = upgrade(other_agent(wheels, "0.1.1"), wheels)
    with fleet.shell.start(*command) as first:
        until(lambda: any(fleet.lab[n].console("ls /opt/edgectl-agent/switch/r-1/new").returncode == 0 for n in NAMES))
        first.kill()
    for name in NAMES:  # as a machine does that ran out of memory, or lost power
        fleet.lab[name].console("systemctl kill --signal=KILL 'edgectl-agent-switch-*'")
    given = [word for word in command if word not in NAMES]
    done = fleet.json(*given, "--resume", "r-1")
    assert done["state"] == "done"
    assert states(done) == dict.fromkeys(NAMES, "confirmed")
    assert versions(fleet) == {"0.1.1"}
    for name in NAMES:
        kept = fleet.lab[name].run("ls /opt/edgectl-agent/venvs").split()
        assert sorted(kept) == sorted({former[name], running(fleet.lab[name])})
        assert temporary_files(fleet.lab[name]) == []
    assert "nothing to do" in fleet.shell.run(*command).stderr
    assert "edgectl-agent" in fleet.shell.ok("status")


def test_a_full_disk_on_the_machines_leaves_the_agent_as_it_was(fleet: MachineFleet, wheels: Path) -> None:
    command = upgrade(other_agent(wheels, "0.1.3", lambda text: text + "\n# larger\n"), wheels)
    before = {name: running(fleet.lab[name]) for name in NAMES}
    for name in NAMES:
        fleet.lab[name].fill(leave=5_000_000)
    done = fleet.shell.run(*command, timeout_s=600)
    for name in NAMES:
        fleet.lab[name].run("rm /var/fill")
    assert done.returncode == 20, done.stdout + done.stderr
    assert "the environment of agent 0.1.3 does not fit: the disk that holds /opt/edgectl-agent is full" in done.stdout
    assert {name: running(fleet.lab[name]) for name in NAMES} == before
    assert all(temporary_files(fleet.lab[name]) == [] for name in NAMES)


def test_an_agent_that_does_not_come_up_reverts_by_itself_and_nobody_else_gets_it(
    fleet: MachineFleet, wheels: Path
) -> None:
    crash = "\nimport sys\nif 'run' in sys.argv:\n    raise SystemExit('the disk of dreams is missing')\n"
    broken = other_agent(wheels, "0.1.2", lambda text: text + crash)
    before = {name: running(fleet.lab[name]) for name in NAMES}
    done = fleet.shell.run(*upgrade(broken, wheels), timeout_s=600)
    assert done.returncode == 20, done.stdout + done.stderr
    assert "its log ends: stopped | the disk of dreams is missing\n" in done.stdout
    assert {name: running(fleet.lab[name]) for name in NAMES} == before
    installed = [n for n in NAMES if "0.1.2" in fleet.lab[n].run("ls /opt/edgectl-agent/venvs")]
    assert len(installed) == 1, "only the canary"


def test_a_new_agent_yaml_is_shown_checked_and_taken(fleet: MachineFleet) -> None:
    fleet.write(*NAMES, sources={"host": {"type": "host-metrics", "every": "2s"}})
    before = configured(fleet)
    shown = fleet.shell.ok("nodes", "configure", *NAMES, "--diff", "--dry-run")
    assert "+  host: {type: host-metrics, every: 2s}" in shown
    assert configured(fleet) == before
    done = fleet.json("nodes", "configure", *NAMES, "--yes")
    assert states(done) == dict.fromkeys(NAMES, "confirmed")
    assert all("every: 2s" in text for text in configured(fleet).values())
    assert "nothing to do" in fleet.shell.run("nodes", "configure", *NAMES, "--yes").stderr


def test_an_agent_yaml_with_which_the_agent_does_not_come_up_is_put_back(fleet: MachineFleet) -> None:
    before = configured(fleet)
    fleet.write(*NAMES, agent={"listen": "127.0.0.1:22"})
    done = fleet.shell.run("nodes", "configure", *NAMES, "--yes", timeout_s=600)
    assert done.returncode == 20, done.stdout + done.stderr
    assert configured(fleet) == before
    assert versions(fleet) == {"0.1.1"}
    fleet.write(*NAMES, agent={})


def test_what_cannot_be_moved_is_said_in_one_sentence(fleet: MachineFleet, wheels: Path) -> None:
    fleet.refused(2, "nodes", "upgrade", says="expected names of nodes, --select or --all, to upgrade")
    fleet.refused(4, "nodes", "upgrade", "three", says="unknown node 'three'")
    fleet.refused(4, "nodes", "upgrade", "one", "--to", "9.9.9", says="no wheel of agent 9.9.9 is here")
    fleet.refused(
        3, "nodes", "upgrade", "one", "--wheel", str(next(wheels.glob("numpy*"))), says="expected that of edge"
    )
    fleet.refused(2, "nodes", "configure", "--resume", "r-1", says="r-1 is no configure")
    fleet.refused(2, "deploy", "--resume", "r-1", says="r-1 moves no model → edgectl nodes upgrade --resume r-1")
