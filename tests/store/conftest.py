"""Each test of the store runs on a file of SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl.store.store import Store
from tests.support.postgresql import Server

BACKENDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql")))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest) -> str:
    """An empty database; that of SQLite is a file below the test's folder."""
    if request.param == "sqlite":
        return "sqlite:///deep/state.db"
    server: Server = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Store]:
    with Store(url, tmp_path) as opened:
        yield opened
