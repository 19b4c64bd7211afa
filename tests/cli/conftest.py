"""Workspaces for the tests of the command line; made once, copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl.connectors.local import LocalConnector
from tests.support.cli import Shell


@pytest.fixture(scope="session")
def _initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operator")
    Shell(folder).ok("init", "--fleet", "acme")
    return folder


@pytest.fixture
def shell(_initialised: Path, tmp_path: Path) -> Iterator[Shell]:
    """An operator in a fresh workspace; the agents that the test started are gone afterwards."""
    folder = tmp_path / "work"
    shutil.copytree(_initialised, folder)
    yield Shell(folder)
    for base in (folder / ".edgectl" / "nodes").glob("*"):
        LocalConnector(base.name, base).stop(timeout_s=5)
