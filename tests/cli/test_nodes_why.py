"""`edgectl nodes why`: from the store, and by going the way to the node."""

from __future__ import annotations

import json
import socket

from tests.support.cli import Shell


def test_a_node_that_was_never_heard_of_is_asked_and_the_stage_that_fails_is_named(shell: Shell) -> None:
    with socket.socket() as closed:  # bound and not listening: nobody else takes the port
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        path = shell.folder / "fleet.yaml"
        node = f"[{{name: pi-1, connect: {{via: ssh, host: 127.0.0.1, port: {port}}}}}, {{name: here}}]"
        path.write_text(path.read_text().replace("nodes: []", f"nodes: {node}"))
        shell.env["EDGECTL_SSH_CONFIG"] = "/dev/null"
        assert "1. nothing was heard of it yet → edgectl nodes why pi-1 --ask" in shell.ok("nodes", "why", "pi-1")
        asked = shell.run("nodes", "why", "pi-1", "--ask", "-o", "json")
        found = json.loads(asked.stdout)
    assert asked.returncode == 31
    skipped = [(stage, "skipped") for stage in ("login", "agent", "answers", "report")]
    seen = [(step["stage"], step["state"]) for step in found["steps"]]
    assert seen == [("name", "ok"), ("tcp", "failed"), *skipped]
    assert found["reasons"][0]["text"] == f"tcp: 127.0.0.1:{port}: connection refused"
    assert "connection refused" in shell.ok("nodes", "why", "pi-1")  # the store remembers the attempt
    shell.fails(4, "nodes", "why", "pi-2", says="unknown node 'pi-2'")


def test_a_node_that_answers_is_judged_by_what_it_says_now(shell: Shell) -> None:
    shell.ok("nodes", "add", "pi-1", "--source", "host=host-metrics:1s")
    said = shell.ok("nodes", "why", "pi-1", "--ask")
    assert said.startswith("pi-1 is healthy\n")
    assert "nothing is wrong with it" in said
    shell.ok("nodes", "stop", "pi-1")
    done = shell.run("nodes", "why", "pi-1", "--ask")
    assert "1. answers: the agent does not run" in done.stdout
    assert done.returncode == 31
