"""What every connector promises, run against each of them (`edgectl.connectors.interface`)."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import psutil
import pytest
from edgectl_agent.core.messages import UpdateResult

from edgectl.connectors import CONNECTORS
from edgectl.connectors.client import NodeClient
from edgectl.connectors.http import HttpConnector
from edgectl.connectors.interface import Connector
from edgectl.connectors.local import LocalConnector
from edgectl.connectors.ssh import SshConnector
from edgectl.connectors.ssh_pool import Pool
from edgectl.connectors.usb import UsbConnector
from edgectl.core.errors import NodeUnreachable, RemoteRefused, StorageError
from edgectl.inventory.types import Via
from edgectl.machine.layout import Layout
from edgectl.machine.service import Supervised
from tests.support.pulled import Receiver
from tests.support.sshd import Sshd, way
from tests.support.tls import Fleet, free_port, hang_up

DOUBLE = Path(__file__).parents[1] / "support" / "agent_double.py"

Make = Callable[[str], Connector]
COMMAND = (sys.executable, str(DOUBLE))


def _local(base: Path, request: pytest.FixtureRequest) -> Connector:
    return LocalConnector(base.name, base, COMMAND)


def _ssh(base: Path, request: pytest.FixtureRequest) -> Connector:
    server: Sshd = request.getfixturevalue("ssh_server")
    (base.parent / "known_hosts").write_text(server.pin)
    pool = Pool()
    request.addfinalizer(pool.close)
    layout = Layout.within(str(base))
    command = (*COMMAND, "run", "--config", layout.agent_yaml)
    reach = way(server, base.parent, base.name, pool)
    return SshConnector(reach, layout, lambda host: Supervised(host, layout, command))


def _http(base: Path, request: pytest.FixtureRequest) -> Connector:
    """Mutual TLS to a process on this machine, which the connector `local` manages."""
    fleet, port = Fleet(base.parent / "fleet", "acme"), free_port()
    machine = _local(base, request)
    files = {key: str(path) for key, path in fleet.node_files(base.name, "127.0.0.1").items()}
    machine.place({"tls.json": json.dumps(files | {"port": port}).encode()})
    request.addfinalizer(hang_up)
    return HttpConnector(base.name, f"https://127.0.0.1:{port}", fleet.wire, machine=machine)


def _pull(base: Path, request: pytest.FixtureRequest) -> Connector:
    """A process on this machine, which the connector `local` manages, and which reports to a receiver by itself."""
    receiver = Receiver(base.parent)
    request.addfinalizer(receiver.close)
    return receiver.node(_local(base, request), base.name)


MAKERS: dict[str, Callable[[Path, pytest.FixtureRequest], Connector]] = {
    "local": _local,
    "ssh": _ssh,
    "http": _http,
    "pull": _pull,
}
ABSENT = {"pull": "node pi-1: has never reported → edgectl nodes token pi-1"}
"""What is said of a node whose agent never ran, where it is not the usual."""
GONE = {"pull": r"last reported \d+ s ago \(expected every 1 s\)"}
"""What is said of one whose agent has ended."""
SPOOL = {"pull": "repo"}
"""Where uploads go, where that is not the node's own spool."""


UNREACHED = {"usb"}
"""By hand alone: there is nothing that such a connector could keep of the contract but to say so."""


@pytest.fixture(params=MAKERS)
def via(request: pytest.FixtureRequest) -> str:
    """How the node is reached."""
    return str(request.param)


@pytest.fixture
def make(via: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """A connector to a node with the given manners; its agent is gone when the test ends."""
    made: list[Connector] = []

    def build(manners: str = "") -> Connector:
        connector = MAKERS[via](tmp_path / "pi-1", request)
        connector.place({"agent.yaml": b"version: 1\n", "manners": manners.encode()})
        made.append(connector)
        return connector

    yield build
    for connector in made:
        connector.stop(timeout_s=0.2)
        connector.close()


def test_every_way_to_connect_has_a_connector_and_a_contract_test() -> None:
    assert set(get_args(Via)) == set(CONNECTORS) == set(MAKERS) | UNREACHED


def test_place_says_whether_anything_changed(make: Make) -> None:
    node = make("")
    assert node.place({"agent.yaml": b"version: 1\n"}) is False
    assert node.place({"agent.yaml": b"version: 1\n", "data/trust/root.json": b"{}"}) is True


def while_it_is_remembered(node: Connector) -> None:
    """Ask until there is no answer: what is known of a node that reports by itself is as old as its last report."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        node.request("GET", "/v1/status")
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_a_name_outside_the_nodes_folder_is_refused(make: Make, name: str) -> None:
    with pytest.raises(ValueError, match="not a name inside"):
        make("").place({name: b"x"})
    with pytest.raises(ValueError, match="not a name inside"):
        make("").upload({name: b"x"})


def test_start_waits_until_the_agent_answers_and_a_second_start_changes_nothing(make: Make) -> None:
    node = make("")
    node.start()
    first = NodeClient("pi-1", node).status()
    node.start()
    assert NodeClient("pi-1", node).status().boot == first.boot
    assert first.node == "pi-1"


def test_an_agent_that_ends_at_once_is_reported_with_its_last_words(make: Make) -> None:
    with pytest.raises(NodeUnreachable, match=r"the agent ended at once; its log ends: .*config is beyond me"):
        make("ends").start(timeout_s=20)


def test_an_agent_that_never_answers_is_given_up(make: Make) -> None:
    with pytest.raises(NodeUnreachable, match=r"did not answer within 0.5 s"):
        make("deaf").start(timeout_s=0.5)


def test_no_agent_is_unreachable_and_the_message_says_what_to_do(make: Make, via: str) -> None:
    node = make("")
    usual = r"node pi-1: the agent does not run → edgectl nodes start pi-1"
    with pytest.raises(NodeUnreachable, match=ABSENT.get(via, usual)):
        node.request("GET", "/v1/status")


def test_after_stop_it_is_unreachable_and_can_be_started_again(make: Make, via: str) -> None:
    node = make("")
    node.start()
    node.stop()
    node.stop()
    with pytest.raises(NodeUnreachable, match=GONE.get(via, "the agent does not run")):
        while_it_is_remembered(node)
    node.start()
    NodeClient("pi-1", node).status()


def test_an_agent_that_ignores_the_polite_request_is_ended_by_force(make: Make) -> None:
    node = make("stubborn")
    node.start()
    node.stop(timeout_s=0.2)
    with pytest.raises(NodeUnreachable):
        while_it_is_remembered(node)


def test_a_refusal_carries_status_and_message(make: Make) -> None:
    node = make("")
    node.start()
    with pytest.raises(RemoteRefused, match="node pi-1: no /v1/nothing") as caught:
        node.request("GET", "/v1/nothing")
    assert caught.value.status == 404


def test_upload_leaves_complete_files_and_no_litter(make: Make, via: str, tmp_path: Path) -> None:
    node = make("")
    node.start()
    (tmp_path / "big").write_bytes(b"b" * 100_000)
    node.upload({"metadata/1.root.json": b"{}", "targets/bundles/x.bundle": tmp_path / "big"})
    spool = tmp_path / SPOOL.get(via, "pi-1/data/spool")
    found = {str(p.relative_to(spool)): p.stat().st_size for p in spool.rglob("*") if p.is_file()}
    assert found == {"metadata/1.root.json": 2, "targets/bundles/x.bundle": 100_000}


def test_an_upload_that_fails_leaves_the_old_file(make: Make, via: str, tmp_path: Path) -> None:
    node = make("")
    node.start()
    node.upload({"metadata/timestamp.json": b"old"})
    with pytest.raises(StorageError, match=r"cannot put metadata/timestamp\.json into"):
        node.upload({"metadata/timestamp.json": tmp_path / "missing"})
    assert [p.read_bytes() for p in (tmp_path / SPOOL.get(via, "pi-1")).rglob("*timestamp*")] == [b"old"]


def test_remove_leaves_nothing_or_only_the_outbox(make: Make, tmp_path: Path) -> None:
    for keep_data, left in ((True, ["data", "data/outbox", "data/outbox/0.log"]), (False, [])):
        node = make("")
        node.place({"data/outbox/0.log": b"alerts", "data/slots/x": b"y"})
        node.start()
        node.remove(keep_data=keep_data)
        base = tmp_path / "pi-1"
        assert sorted(str(p.relative_to(base)) for p in base.rglob("*")) == left
    assert not base.exists()


# ── the typed client, over every connector ──────────────────────────────────────────────────────────────────────────


def test_the_client_reads_what_the_agent_says(make: Make) -> None:
    node = make("")
    node.start()
    client = NodeClient("pi-1", node)
    assert client.alerts(after=3, wait_s=0.1).records == ()
    assert client.have() == frozenset({"ab"})
    assert client.update().state == "unchanged"
    client.release(7)


def test_a_refused_order_is_a_result_with_its_reason(make: Make) -> None:
    node = make("refuses")
    node.start()
    refused = UpdateResult(state="refused", reason="old-epoch", message="node pi-1: epoch 3 is below 4", exit_code=42)
    assert NodeClient("pi-1", node).update() == refused
    assert NodeClient("pi-1", node).rollback("press", 3) == refused
    with pytest.raises(RemoteRefused, match="epoch 3 is below 4") as caught:
        NodeClient("pi-1", node).release(1)
    assert caught.value.exit_code == 42


def test_an_answer_of_the_wrong_form_is_a_refusal_that_says_so(make: Make) -> None:
    node = make("babbles")
    node.start()
    with pytest.raises(RemoteRefused, match="node pi-1: its answer is not a Report"):
        NodeClient("pi-1", node).status()


# ── what nobody reaches ─────────────────────────────────────────────────────────────────────────────────────────────


def test_every_call_to_a_node_that_is_reached_by_hand_says_what_to_carry() -> None:
    node = UsbConnector("press-9")
    calls: list[Callable[[], object]] = [
        lambda: node.place({}), node.start, node.stop, lambda: node.upload({}),
        lambda: node.request("GET", "/v1/status"), NodeClient("press-9", node).status,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(
            NodeUnreachable, match="node press-9: is reached by hand → edgectl repo export --node press-9"
        ):
            call()
    node.remove()  # out of fleet.yaml it must go all the same


# ── what only a local process can do ────────────────────────────────────────────────────────────────────────────────


def local(tmp_path: Path, manners: str = "") -> LocalConnector:
    node = LocalConnector("pi-1", tmp_path / "pi-1", (sys.executable, str(DOUBLE)))
    node.place({"agent.yaml": b"version: 1\n", "manners": manners.encode()})
    return node


def test_a_process_that_inherited_the_pid_is_never_killed(tmp_path: Path) -> None:
    node = local(tmp_path)
    node.place({"agent.pid": str(os.getpid()).encode()})
    node.place({"data/api.json": b'{"url": "http://127.0.0.1:9", "token": "x", "pid": %d}' % os.getppid()})
    node.stop()
    assert psutil.pid_exists(os.getppid())
    with pytest.raises(NodeUnreachable, match="the agent does not run"):
        node.request("GET", "/v1/status")
    node.close()


def test_a_killed_agent_is_unreachable_with_the_last_line_of_its_log(tmp_path: Path) -> None:
    node = local(tmp_path)
    node.start()
    pid = int((node.base / "agent.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(NodeUnreachable, match=r"does not run; its log ends: agent double starts → edgectl nodes start"):
        node.request("GET", "/v1/status")
    node.close()


def test_another_agent_on_the_old_port_is_not_taken_for_this_one(tmp_path: Path) -> None:
    other = LocalConnector("other", tmp_path / "other", (sys.executable, str(DOUBLE)))
    other.place({"agent.yaml": b"version: 1\n"})
    other.start()
    node = local(tmp_path)
    api = (other.data / "api.json").read_bytes().replace(b"secret", b"old-token")
    node.place({"data/api.json": api})
    with pytest.raises(NodeUnreachable, match="the agent does not run"):
        node.request("GET", "/v1/status")
    other.stop()
    node.close()
