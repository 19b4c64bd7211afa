"""Nodes that nobody can reach: real agents poll a static web server and report to a real `edgectl serve`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.fleets import until
from tests.scenarios.pulling import PullFleet
from tests.support.webserver import endless, truncated

QUIET = [0.1, -0.2, 0.3, 0.0] * 50
START = 1_700_000_000.0


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., PullFleet]]:
    made: list[PullFleet] = []

    def build(*names: str, tls: bool = False) -> PullFleet:
        made.append(PullFleet(tmp_path, names, tls=tls))
        return made[0]

    yield build
    for fleet in made:
        fleet.close()


def running(fleet: PullFleet) -> PullFleet:
    """With the receiver and every agent up, and each node's first report in the store."""
    fleet.start_receiver()
    for name in fleet.names:
        fleet.start(name)
    for name in fleet.names:
        fleet.until_reported(name)
    return fleet


def spikes(fleet: PullFleet, name: str, streams: range) -> None:
    """One alert on each of `streams`, after enough quiet to score."""
    for i in streams:
        fleet.feed(name, [*QUIET, 60.0], START, f"m{i}")


def outbox(fleet: PullFleet, name: str) -> int:
    """Alerts that the node last reported as not yet released."""
    record = fleet.record(name)
    return record.report.outbox.records if record and record.report else -1


def test_from_the_first_deployment_to_a_rollback(make: Callable[..., PullFleet]) -> None:
    fleet = make("far-1", "far-2", tls=True)
    fleet.release("1.0.0", seed=1)
    running(fleet)
    shell = fleet.shell
    shell.ok("deploy", "press", "--yes")
    assert fleet.versions() == {"far-1": "1.0.0", "far-2": "1.0.0"}
    assert shell.ok("audit") == ""
    shell.fails(4, "collect", says="no node of fleet.yaml can be asked")

    for name in fleet.names:
        spikes(fleet, name, range(3))
    until(lambda: len(fleet.alerts()) == 6)
    until(lambda: all(outbox(fleet, name) == 0 for name in fleet.names))

    fleet.release("1.1.0", seed=2, kind="golden")
    halted = shell.run("deploy", "press", "--yes", "-o", "json")
    assert halted.returncode == 20, halted.stderr
    assert "golden vectors" in json.loads(halted.stdout)["reason"]
    assert fleet.versions() == {"far-1": "1.0.0", "far-2": "1.0.0"}

    fleet.release("1.2.0", seed=3)
    shell.ok("deploy", "press", "--yes")
    shell.ok("rollback", "press", "--yes")
    assert fleet.versions() == {"far-1": "1.0.0", "far-2": "1.0.0"}
    assert shell.ok("audit") == ""
    assert fleet.stop_receiver(signal.SIGINT) == 0


def test_whatever_dies_nothing_is_lost_and_nothing_is_doubled(make: Callable[..., PullFleet]) -> None:
    fleet = make("far-1")
    fleet.release("1.0.0", seed=1)
    running(fleet).shell.ok("deploy", "press", "--phases", "100%", "--yes")
    spikes(fleet, "far-1", range(3))
    until(lambda: len(fleet.alerts()) == 3)

    fleet.stop_receiver(signal.SIGKILL)
    spikes(fleet, "far-1", range(3, 6))
    log = fleet.node("far-1") / "data" / "agent.log"
    until(lambda: "cannot connect: Connection refused" in log.read_text())
    fleet.kill("far-1")
    fleet.start("far-1")
    spikes(fleet, "far-1", range(6, 9))
    assert len(fleet.alerts()) == 3
    fleet.start_receiver()
    until(lambda: len(fleet.alerts()) == 9)
    until(lambda: outbox(fleet, "far-1") == 0)
    assert len({*fleet.alerts()}) == 9
    assert fleet.shell.ok("audit") == ""


def test_a_silent_node_is_told_apart_and_what_it_took_meanwhile_ends_its_rollout(
    make: Callable[..., PullFleet],
) -> None:
    fleet = make("far-1")
    fleet.release("1.0.0", seed=1)
    running(fleet)
    fleet.web.faults[".bundle"] = truncated(700)
    going = fleet.shell.start("deploy", "press", "--yes")
    until(lambda: len(fleet.web.asked(".bundle")) >= 2)
    os.killpg(going.pid, signal.SIGINT)
    _, said = going.communicate(timeout=60)
    assert going.returncode == 130, said
    assert "edgectl deploy --resume r-1" in said
    fleet.web.faults[".bundle"] = endless
    before = len(fleet.web.asked(".bundle"))
    until(lambda: len(fleet.web.asked(".bundle")) > before)
    assert fleet.versions() == {}
    fleet.web.faults.clear()
    until(lambda: fleet.versions() == {"far-1": "1.0.0"})
    assert "r-1 press 1.0.0 · running" in fleet.shell.ok("status")
    again = fleet.shell.run("deploy", "press", "--yes")
    assert again.returncode == 0, again.stderr
    assert "nothing to do: press 1.0.0 runs on 1 node; r-1 ends with their proof\n" in again.stderr
    assert "r-1 press 1.0.0 · done · 1/1 confirmed" in fleet.shell.ok("status")

    fleet.release("1.1.0", seed=2)
    fleet.web.faults[".bundle"] = truncated(700)
    before = len(fleet.web.asked(".bundle"))
    going = fleet.shell.start("deploy", "press", "--yes")
    until(lambda: len(fleet.web.asked(".bundle")) > before)
    os.killpg(going.pid, signal.SIGINT)
    _, said = going.communicate(timeout=60)
    assert going.returncode == 130, said
    assert fleet.versions() == {"far-1": "1.0.0"}
    fleet.web.faults.clear()
    fleet.shell.ok("deploy", "--resume", "r-2")
    assert fleet.versions() == {"far-1": "1.1.0"}


def test_a_token_that_does_not_count_is_said_where_it_is_used(make: Callable[..., PullFleet]) -> None:
    fleet = running(make("far-1", "far-2"))
    shell, file = fleet.shell, fleet.node("far-1") / "uplink.token"
    log = fleet.node("far-1") / "data" / "agent.log"
    good = file.read_text()
    for token, says in (
        ("nonsense", "this is no token of node far-1 → edgectl nodes token far-1"),
        ((fleet.node("far-2") / "uplink.token").read_text(), "this is another node's token, not one of far-1"),
        (shell.ok("nodes", "token", "far-1", "--valid", "1ns"), "the token of node far-1 has expired"),
    ):
        file.write_text(token)
        until(lambda says=says: says in log.read_text())  # type: ignore[misc]
    file.write_text(good)
    record = fleet.record("far-1")
    assert record is not None
    fleet.until_reported("far-1", record.received_ns)

    assert "2 tokens of far-1 ended" in shell.run("nodes", "token", "far-1", "--replace").stderr
    until(lambda: "the token of node far-1 was revoked" in log.read_text())
    file.write_text(shell.ok("nodes", "token", "far-1"))
    fleet.until_reported("far-1", record.received_ns + 10**9)
    shell.fails(2, "nodes", "token", "far-1", "--valid", "soon", says="--valid: expected a duration")
    shell.fails(4, "nodes", "token", "far-9", says="unknown node 'far-9'")
    shell.fails(2, "serve", "--listen", "nowhere", says="--listen: expected HOST:PORT")
    shell.fails(75, "serve", "--listen", f"127.0.0.1:{fleet.port}", says="cannot listen on 127.0.0.1")
