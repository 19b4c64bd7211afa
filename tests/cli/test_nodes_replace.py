"""`edgectl nodes replace`: a dead machine's name goes to a new one, and the old one is not accepted again."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest
from edgectl_agent.core.messages import Alert, OutboxStatus, Report

from edgectl.connectors import known_hosts
from edgectl.inventory.reading import load
from edgectl.store.alerts import Position
from edgectl.store.store import Store
from tests.support.cli import Shell

FLEET = """
nodes:
  - {name: pi-1, site: lyon, labels: {line: press}, connect: {via: ssh, host: 10.0.0.1}}
  - {name: 'gw-[1-3]', connect: {via: ssh, host: '10.0.1.[1-3]'}}
  - name: pi-9
    connect: {via: ssh, host: 10.0.0.9}  # in the attic
  - {name: here}
"""
OLD = b"\0\0\0\x0bssh-ed25519\0\0\0\x04dead"


def report(log_id: str) -> Report:
    outbox = OutboxStatus(records=1, bytes=1, limit_bytes=10**6, head_seq=7, log_id=log_id)
    return Report(
        node="pi-1", agent="0.1.0", boot="b", clock_ns=time.time_ns(), uptime_s=1, state="healthy", outbox=outbox
    )


def alert() -> Alert:
    return Alert(
        id="a-1", node="pi-1", stream="s", recipe="press", version="1", bundle="b" * 64, variant="fp32",
        severity="warning", state="open", onset_ns=1, changed_ns=1, score=1, threshold=1, surprise=1,
    )  # fmt: skip


@pytest.fixture
def plant(shell: Shell) -> Shell:
    """A fleet in which pi-1 has reported, raised an alert, fetched orders and has its host key pinned."""
    path = shell.folder / "fleet.yaml"
    path.write_text(path.read_text().replace("sites: {}", "sites: {lyon: }").replace("nodes: []", FLEET.strip()))
    line = f"10.0.0.1 ssh-ed25519 {base64.b64encode(OLD).decode()}\n"
    (shell.folder / "known_hosts").write_text(line + line.replace("10.0.0.1", "10.0.1.2"))
    with store(shell) as opened:
        opened.nodes.save(report("old-log"), time.time_ns())
        opened.alerts.save([alert()], [Position(node="pi-1", after=7, log_id="old-log")], time.time_ns())
        opened.credentials.issue("pi-1", time.time_ns())
    shell.env["EDGECTL_SSH_CONFIG"] = "/dev/null"
    return shell


def store(shell: Shell) -> Store:
    return Store("sqlite:///.edgectl/state.db", shell.folder)


def verdict(shell: Shell, name: str, key: bytes) -> str:
    entries = known_hosts.parse((shell.folder / "known_hosts").read_text())
    return known_hosts.judge([entries], [name], key).answer


def test_what_was_true_of_the_old_machine_is_forgotten_and_the_rest_stays(plant: Shell) -> None:
    said = plant.run("nodes", "replace", "pi-1", "--host", "10.0.0.2", "--yes")
    assert said.returncode == 0
    assert said.stdout.splitlines() == ["edgectl nodes pin pi-1", "edgectl nodes bootstrap pi-1"]
    assert "pi-1 at 10.0.0.2 waits for its new machine" in said.stderr
    node = load(plant.folder / "fleet.yaml").node("pi-1")
    assert (node.connect.host, node.site, dict(node.labels)) == ("10.0.0.2", "lyon", {"line": "press"})
    with store(plant) as opened:
        assert opened.nodes.get("pi-1") is None
        assert opened.alerts.position("pi-1") == Position(node="pi-1")
        assert [record.alert.id for record in opened.alerts.find(node="pi-1")] == ["a-1"]
        assert all(credential.revoked_ns for credential in opened.credentials.of("pi-1"))
    assert json.loads(plant.ok("nodes", "list", "-o", "json"))[0]["state"] == "unknown"


def test_the_old_machine_is_refused_by_its_key_and_noticed_by_its_outbox(plant: Shell) -> None:
    plant.ok("nodes", "replace", "pi-1", "--yes")
    assert verdict(plant, "10.0.0.1", OLD) == "revoked"
    assert verdict(plant, "10.0.0.1", OLD[:-4] + b"live") == "unknown"
    assert verdict(plant, "10.0.1.2", OLD) == "trusted"
    with store(plant) as opened:
        opened.nodes.save(report("new-log"), time.time_ns())
    assert "replaced-machine" not in plant.run("audit", "--offline").stdout
    with store(plant) as opened:
        opened.nodes.save(report("old-log"), time.time_ns())
    assert "pi-1: the machine that was replaced answers under its old name" in plant.run("audit", "--offline").stdout


def test_a_moved_disk_keeps_its_host_key(plant: Shell) -> None:
    plant.ok("nodes", "replace", "pi-1", "--keep-host-key", "--yes")
    assert verdict(plant, "10.0.0.1", OLD) == "trusted"


def test_one_of_many_gets_an_entry_of_its_own_and_twice_is_as_once(plant: Shell) -> None:
    for _ in range(2):
        plant.ok("nodes", "replace", "gw-2", "--host", "10.0.1.77", "--yes")
    fleet = load(plant.folder / "fleet.yaml")
    assert [fleet.node(f"gw-{i}").connect.host for i in (1, 2, 3)] == ["10.0.1.1", "10.0.1.77", "10.0.1.3"]
    assert Path(plant.folder / "known_hosts").read_text().count("@revoked") == 1


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("pi-2", "--yes"), 4, "unknown node 'pi-2' → did you mean"),
        (("pi-1",), 2, "Give the name pi-1 to a new machine?"),
        (("here", "--yes"), 2, "here is a process on this machine and no hardware → edgectl nodes remove here"),
        (("pi-9", "--host", "10.0.0.8", "--yes"), 3, "the entry of pi-9 holds comments, which changing it would lose"),
    ],
)
def test_what_cannot_be_replaced_is_left_as_it_is(plant: Shell, args: tuple[str, ...], code: int, says: str) -> None:
    before = [(plant.folder / name).read_bytes() for name in ("fleet.yaml", "known_hosts")]
    plant.fails(code, "nodes", "replace", *args, says=says)
    assert [(plant.folder / name).read_bytes() for name in ("fleet.yaml", "known_hosts")] == before
