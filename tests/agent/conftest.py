"""What the agent's tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder where syncs are fast, if the machine has a file system in memory: some tests sync thousands of times."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    mine = memory / f"edgectl-{os.getpid()}-{tmp_path.name}"
    mine.mkdir()
    yield mine
    shutil.rmtree(mine)
