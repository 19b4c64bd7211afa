"""The agent comes onto real machines over SSH, and leaves them as they were, by the real command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.fleets import until
from tests.support.lab import Lab, changes
from tests.support.machines import LOGS, MachineFleet, left, running, temporary_files, wheelhouse

pytestmark = pytest.mark.needs("lab", "system-python", "index")

NAMES = ("uploaded", "behind", "indexed")
SLOW_TO_IMPORT = """
import contextlib, os, pkgutil, sys
import edgectl_agent
for module in pkgutil.walk_packages(edgectl_agent.__path__, "edgectl_agent."):
    if not module.name.endswith("__main__"):
        with contextlib.suppress(ModuleNotFoundError):  # of an extra that is not installed
            __import__(module.name)
cached = [module.__cached__ for module in sys.modules.values() if getattr(module, "__cached__", None)]
print(*[path for path in cached if "site-packages" in path and not os.path.exists(path)])
"""
"""Prints files of its environment that the agent imports and that are compiled anew each time."""

PRIVATE = "cp /usr/bin/python3 /root/python3; ln -sf /root/python3 /usr/local/bin/python3"
"""The first Python on the way is the administrator's own, in a home that nobody else may enter."""
OUTDATED = """\
cat > /usr/local/bin/python3 <<'PROGRAM'
#!/bin/sh
probe=$4; shift 4
exec /root/python3 -I -B -c "import sys; sys.version_info = (3, 9, 2, 'final', 0); exec(sys.argv.pop(1))" "$probe" "$@"
PROGRAM
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheelhouse(tmp_path_factory)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab") / "nodes") as lab:
        index = lab.index(wheels)
        bastion = lab.node("uploaded")
        lab.node("behind", jump=bastion)
        lab.node("indexed", index=index, also=PRIVATE)
        lab.node("tiny", disk="60m")
        lab.node("humble", sudo="none")
        lab.node("cut")
        lab.node("old", machine="armv7l")
        lab.node("bare", also=f"{PRIVATE}; rm -f /usr/bin/python3*")
        lab.node("frozen", read_only=True)
        lab.boot()
        yield lab


@pytest.fixture(scope="module")
def fleet(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> MachineFleet:
    fleet = MachineFleet(tmp_path_factory.mktemp("mona") / "fleet", lab)
    fleet.write(*(node.name for node in lab.nodes))
    fleet.write("indexed", agent={"packages": "index"})
    return fleet


@pytest.fixture(scope="module")
def john(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> MachineFleet:
    """An operator of another fleet, who takes one of the machines for his."""
    john = MachineFleet(tmp_path_factory.mktemp("john") / "fleet", lab)
    john.write("uploaded")
    return john


@pytest.fixture(scope="module")
def before(lab: Lab) -> dict[str, Any]:
    """What is on the machines that are installed, before they are."""
    return {name: lab[name].snapshot(LOGS) for name in NAMES}


def test_a_dry_run_shows_every_step_and_file_and_changes_nothing(fleet: MachineFleet, lab: Lab, wheels: Path) -> None:
    before = lab["uploaded"].snapshot(LOGS)
    shown = fleet.shell.ok("nodes", "bootstrap", "uploaded", "--wheelhouse", str(wheels), "--dry-run", "--diff")
    assert "+node: uploaded" in shown
    assert "+Type=notify" in shown
    assert "add user and group edgectl-agent" in shown
    assert changes(before, lab["uploaded"].snapshot(LOGS)) == {}


def test_machines_are_installed_at_once_and_kept_by_a_rerun(
    fleet: MachineFleet, lab: Lab, wheels: Path, john: MachineFleet, before: dict[str, Any]
) -> None:
    command = ("nodes", "bootstrap", *NAMES, "--wheelhouse", str(wheels), "--yes")
    his = ("nodes", "bootstrap", "uploaded", "--wheelhouse", str(wheels))

    with fleet.shell.start(*command, "-o", "json") as first:
        assert first.stderr is not None
        assert any("uploaded: install agent" in line for line in first.stderr)
        said = john.refused(50, *his, says="has been at work on it since")
        assert "`edgectl nodes bootstrap uploaded`" in said
        shown, noted = first.communicate()
    assert first.returncode == 0, noted

    rows = {row["node"]: row for row in json.loads(shown)}
    assert {row["state"] for row in rows.values()} == {"installed"}
    for name in NAMES:
        assert running(lab[name]) == rows[name]["environment"]
        assert temporary_files(lab[name]) == []
        assert lab[name].ssh("cat /var/lib/edgectl-agent/api.json").returncode == 0, "the SSH user is in its group"
        asked = f"HOME=/run TMPDIR=/run /opt/edgectl-agent/current/bin/python -I -B -c '{SLOW_TO_IMPORT}'"
        assert lab[name].run(asked).strip() == ""
    assert rows["indexed"]["environment"] != rows["uploaded"]["environment"]
    python = lab["indexed"].run("readlink -f /opt/edgectl-agent/current/bin/python")
    assert python.startswith("/usr/bin/"), "not the one that the agent's user may not run"

    known = {row["name"]: row["state"] for row in fleet.json("nodes", "list") if row["name"] in NAMES}
    assert known == dict.fromkeys(NAMES, "healthy"), "what they said when they came up is known without collecting"

    assert {row["state"] for row in fleet.json(*command)} == {"unchanged"}


def test_a_taken_machine_and_a_taken_name_are_refused_and_left_alone(
    fleet: MachineFleet, lab: Lab, wheels: Path, john: MachineFleet
) -> None:
    given = ("--wheelhouse", str(wheels))
    environment = running(lab["uploaded"])
    john.refused(40, "nodes", "bootstrap", "uploaded", *given, says="belongs to another fleet")
    own = dict(fleet.nodes["uploaded"]["connect"])
    fleet.write("uploaded", connect=dict(fleet.nodes["cut"]["connect"]))
    fleet.refused(3, "nodes", "bootstrap", "uploaded", *given, says="another machine reports under this name, ")
    assert lab["cut"].console("ls -d /opt/edgectl-agent /etc/edgectl-agent").stdout == ""
    fleet.write("uploaded", connect=own)
    fleet.write("cut", connect=dict(fleet.nodes["uploaded"]["connect"]))
    fleet.refused(3, "nodes", "bootstrap", "cut", *given, says="this machine is node uploaded already")
    fleet.nodes.pop("cut")
    fleet.write("cut")
    assert running(lab["uploaded"]) == environment


def test_what_is_removed_leaves_nothing_but_logs_and_what_was_to_be_kept(
    fleet: MachineFleet, lab: Lab, before: dict[str, Any]
) -> None:
    fleet.shell.ok("nodes", "remove", "behind", "--yes", "--keep-data")
    kept = left(before["behind"], lab["behind"])
    assert {Path(path).parts[:3] for path in kept} == {("var", "lib", "edgectl-agent")}
    assert any(path.startswith("var/lib/edgectl-agent/outbox/") for path in kept)
    for name in ("uploaded", "indexed"):
        fleet.shell.ok("nodes", "remove", name, "--yes")
        assert left(before[name], lab[name]) == []


def test_a_bootstrap_that_was_killed_while_it_installed_is_completed_by_the_next(
    fleet: MachineFleet, lab: Lab, wheels: Path
) -> None:
    command = ("nodes", "bootstrap", "cut", "--wheelhouse", str(wheels))
    with fleet.shell.start(*command) as first:
        assert first.stderr is not None
        assert any("install agent" in line for line in first.stderr)
        until(lambda: lab["cut"].console("ls -d /opt/edgectl-agent/venvs/*.part").returncode == 0)
        first.kill()
    assert lab["cut"].console("ls /opt/edgectl-agent/current").returncode != 0, "it was killed too late to prove much"
    fleet.shell.ok(*command, timeout_s=600)
    assert running(lab["cut"])
    assert temporary_files(lab["cut"]) == []


def test_machines_that_cannot_run_the_agent_are_refused_in_one_sentence_and_left_alone(
    fleet: MachineFleet, lab: Lab, wheels: Path
) -> None:
    given = ("--wheelhouse", str(wheels))
    fleet.refused(75, "nodes", "bootstrap", "tiny", *given, says="disk /opt/edgectl-agent: ")
    fleet.refused(30, "nodes", "bootstrap", "humble", *given, says="sudo does not let edge be root")
    fleet.refused(30, "nodes", "bootstrap", "old", *given, says="architecture: armv7l")
    fleet.refused(30, "nodes", "bootstrap", "bare", *given, says="which the agent's user may not run, expected")
    lab["bare"].run(f"rm /usr/local/bin/python3; {OUTDATED}")
    lab["bare"].run("chmod 755 /usr/local/bin/python3")
    fleet.refused(30, "nodes", "bootstrap", "bare", *given, says="3.9.2, expected ≥ 3.11 with venv → install Python 3")
    lab["bare"].run("rm /usr/local/bin/python3")
    fleet.refused(30, "nodes", "bootstrap", "bare", *given, says="python: none, expected ≥ 3.11 with venv")
    fleet.refused(75, "nodes", "bootstrap", "frozen", *given, says="writable: / read-only")
    for name in ("tiny", "humble", "old", "bare", "frozen"):
        assert lab[name].console("ls -d /opt/edgectl-agent /etc/edgectl-agent").stdout == "", "nothing was begun"


def test_a_machine_that_is_gone_is_forgotten_only_when_that_is_said(fleet: MachineFleet, lab: Lab) -> None:
    lab["tiny"].link(up=False)
    fleet.refused(31, "nodes", "remove", "tiny", "--yes", says="--forget")
    assert "tiny" in fleet.shell.ok("nodes", "list", "-o", "name").split()
    fleet.shell.ok("nodes", "remove", "tiny", "--yes", "--forget")
    assert "tiny" not in fleet.shell.ok("nodes", "list", "-o", "name").split()
