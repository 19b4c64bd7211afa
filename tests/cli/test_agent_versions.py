"""A real agent of another version and the real command: two minor versions apart they work together, further they do
not, and reading goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgectl import __version__
from edgectl.connectors.client import NodeClient
from edgectl.connectors.local import LocalConnector
from edgectl.core.errors import RemoteRefused
from tests.support.cli import Shell

PATCH = """\
import os
if os.environ.get("AGENT_VERSION"):
    import edgectl_agent
    edgectl_agent.__version__ = os.environ["AGENT_VERSION"]
"""


def away(minors: int) -> str:
    major, minor, _ = __version__.split(".")
    return f"{major}.{int(minor) + minors}.0"


@pytest.fixture
def patched(shell: Shell, tmp_path: Path) -> Shell:
    """A workspace whose agents say that they are of the version in AGENT_VERSION."""
    folder = tmp_path / "patch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(PATCH)
    shell.env["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return shell


@contextmanager
def client(shell: Shell) -> Iterator[NodeClient]:
    node = NodeClient("pi-1", LocalConnector("pi-1", shell.folder / ".edgectl" / "nodes" / "pi-1"))
    yield node
    node.close()


def test_an_agent_two_minor_versions_on_is_read_and_commanded(patched: Shell) -> None:
    patched.env["AGENT_VERSION"] = away(2)
    patched.ok("nodes", "add", "pi-1", "--source", "host=host-metrics:1s")
    assert patched.run("collect").stderr == ""
    assert "agent-version" not in patched.run("audit").stdout
    with client(patched) as node:
        assert node.status().agent == away(2)
        assert node.update().reason != "agent-version"


def test_an_agent_three_minor_versions_on_is_read_and_not_commanded(patched: Shell) -> None:
    patched.env["AGENT_VERSION"] = away(3)
    patched.ok("nodes", "add", "pi-1", "--source", "host=host-metrics:1s")
    said = patched.run("collect")
    assert said.returncode == 0
    assert f"pi-1: agent {away(3)} is more than 2 minor versions from edgectl {__version__}" in said.stderr
    assert json.loads(patched.ok("nodes", "list", "-o", "json"))[0]["state"] == "healthy"
    audit = patched.run("audit")
    assert audit.returncode == 10
    assert "agent-version" in audit.stdout
    with client(patched) as node:
        for command in (lambda: node.push({}), node.update, lambda: node.rollback("press", 1)):
            with pytest.raises(RemoteRefused, match="more than 2 minor versions from edgectl"):
                command()
