"""`edgectl nodes check` over SSH: what a machine lacks is a row, and so is one that cannot be asked."""

from __future__ import annotations

import json
from collections.abc import Iterator

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
    nodes = [{"name": node.name, "connect": {"host": node.address}} for node in lab.nodes]
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


def test_an_unknown_host_key_is_a_row_that_says_how_to_pin_it(shell: Shell) -> None:
    done = shell.run("nodes", "check", "strange")
    assert done.returncode == 30
    assert "host key" in done.stdout
    assert "edgectl nodes pin strange" in done.stdout


def test_a_node_out_of_reach_does_not_hide_the_others(shell: Shell) -> None:
    done = shell.run("nodes", "check", "-o", "json")
    assert done.returncode == 31
    verdicts = {row["name"]: row["verdict"] for row in json.loads(done.stdout)}
    assert verdicts == {"gone": "unreachable", "poor": "refuse", "strange": "refuse", "whole": "refuse"}
    assert "Traceback" not in done.stderr
    shell.fails(4, "nodes", "check", "nobody", says="unknown node 'nobody'")
