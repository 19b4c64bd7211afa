"""`edgectl nodes check` over SSH: what a machine lacks is a row, and so is one that cannot be asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.cli import Shell
from tests.support.lab import Lab

pytestmark = pytest.mark.needs("lab")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab") / "nodes") as lab:
        lab.node("whole")
        lab.node("poor", machine="armv7l", sudo="none", disk="40m")
        lab.node("gone")
        lab.node("strange")
        lab.boot()
        lab["gone"].link(up=False)
        yield lab


@pytest.fixture(scope="module")
def shell(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    shell = Shell(tmp_path_factory.mktemp("work"))
    shell.ok("init", "--fleet", "acme")
    known = [f"{node.address} {node.host_key}\n" for node in lab.nodes if node.name != "strange"]
    (shell.folder / "known_hosts").write_text("".join(known))
    nodes: list[dict[str, Any]] = [{"name": node.name, "connect": {"host": node.address}} for node in lab.nodes]
    nodes += [
        {"name": "humble", "connect": {"host": lab["poor"].address}, "agent": {"folder": "/home/edge/agent"}},
        {"name": "sealed", "connect": {"via": "usb"}},
    ]
    connect = {"via": "ssh", "user": "edge", "key": str(lab.key)}
    fleet = {"version": 1, "fleet": "acme", "defaults": {"connect": connect}, "nodes": nodes}
    (shell.folder / "fleet.yaml").write_text(yaml.safe_dump(fleet))
    return shell


def test_every_need_of_a_node_is_a_row_with_its_remedy(shell: Shell) -> None:
    done = shell.run("nodes", "check", "whole", "poor", "-o", "json")
    assert done.returncode == 30
    poor, whole = json.loads(done.stdout)
    refused = {c["name"]: c["fix"] for c in whole["checks"] if c["verdict"] == "refuse"}
    assert refused == {"packages": "edgectl wheelhouse build --platform x86_64 --python 3.11"}
    refused = {c["name"]: c["found"] for c in poor["checks"] if c["verdict"] == "refuse"}
    assert {"architecture", "root", "disk /opt/edgectl-agent", "packages"} <= refused.keys()
    assert "sudo" in refused["root"]


def test_a_node_whose_agent_lives_in_its_users_folder_needs_room_there_and_no_root(shell: Shell) -> None:
    (humble,) = json.loads(shell.run("nodes", "check", "humble", "-o", "json").stdout)
    found = {check["name"]: check["verdict"] for check in humble["checks"]}
    assert found["root"] == "ok"
    assert "disk /home/edge/agent/agent" in found
    assert not [name for name in found if name.endswith("edgectl-agent")]


def test_a_machine_that_nobody_logs_in_to_is_left_out_and_its_owner_named(shell: Shell) -> None:
    done = shell.run("nodes", "check", "sealed")
    assert (done.returncode, done.stdout) == (0, "")
    assert "not checked" in done.stderr
    for verb in ("bootstrap", "upgrade", "configure"):
        shell.fails(2, "nodes", verb, "sealed", says="its owner's to manage (via usb) → edgectl repo export")


def test_an_unknown_host_key_is_a_row_that_says_how_to_pin_it(shell: Shell) -> None:
    done = shell.run("nodes", "check", "strange")
    assert done.returncode == 40
    assert "host key" in done.stdout
    assert "edgectl nodes pin strange" in done.stdout


def test_a_node_out_of_reach_does_not_hide_the_others(shell: Shell) -> None:
    assert shell.run("nodes", "check", "gone", "poor").returncode == 31
    done = shell.run("nodes", "check", "-o", "json")
    assert done.returncode == 40
    verdicts = {row["name"]: row["verdict"] for row in json.loads(done.stdout)}
    refused = dict.fromkeys(("humble", "poor", "strange", "whole"), "refuse")
    assert verdicts == {"gone": "unreachable", **refused}
    assert "Traceback" not in done.stderr
    shell.fails(4, "nodes", "check", "nobody", says="unknown node 'nobody'")
