"""What is published is replaced when it differs, and only then."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from edgectl.connectors.pull import PullConnector

SIZE = 8_000_000


def connector(repository: Path) -> PullConnector:
    return PullConnector("n1", store=None, repository=repository, every_s=1.0, silent_after_s=3.0)


def test_a_file_that_is_there_stays_and_one_that_differs_in_its_last_byte_is_replaced(tmp_path: Path) -> None:
    node, new, there = connector(tmp_path / "repo"), tmp_path / "new", tmp_path / "repo" / "x.bundle"
    new.write_bytes(bytes(SIZE))
    node.upload({"x.bundle": new})
    before = there.stat().st_ino
    node.upload({"x.bundle": new})
    node.upload({"x.bundle": bytes(SIZE)})
    assert there.stat().st_ino == before
    new.write_bytes(bytes(SIZE - 1) + b"1")
    node.upload({"x.bundle": new})
    assert there.read_bytes() == new.read_bytes()


def test_two_files_are_compared_in_little_memory(tmp_path: Path) -> None:
    node, new = connector(tmp_path / "repo"), tmp_path / "new"
    new.write_bytes(bytes(SIZE))
    node.upload({"x.bundle": new})
    tracemalloc.start()
    node.upload({"x.bundle": new})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < SIZE / 10
