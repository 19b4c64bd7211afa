"""Word of a file that somebody writes to, in place of looking at it."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from pathlib import Path

import pytest
from edgectl_agent.config import TailConfig
from edgectl_agent.sources.notices import _OWN, Notices, _file_system
from edgectl_agent.sources.tail import TailSource
from edgectl_agent.wake import Wake


def heard(descriptor: int | None) -> bool:
    assert descriptor is not None
    return bool(select.select([descriptor], [], [], 0)[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    if _file_system(tmp_path.stat().st_dev) not in _OWN:
        pytest.skip("the scratch folder's file system does not tell")
    path = tmp_path / "live.jsonl"
    path.write_bytes(b'{"ts":1,"a":1}\n')
    return path


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"ts":2,"a":1}\n')


@pytest.mark.parametrize(
    "change", [append, lambda path: os.truncate(path, 0), lambda path: path.rename(f"{path}.1"), Path.unlink]
)
def test_every_change_of_the_open_file_is_told_until_it_is_cleared(path: Path, change: Callable[[Path], None]) -> None:
    with path.open("rb") as file:
        notices = Notices(file.fileno())
        assert not heard(notices.descriptor)
        change(path)
        assert heard(notices.descriptor)
        notices.clear()
        assert not heard(notices.descriptor)
        notices.close()


def test_there_are_none_for_a_file_of_the_kernel() -> None:
    with open("/proc/self/status", "rb") as file, pytest.raises(OSError, match="tells"):
        Notices(file.fileno())


def tail(path: Path) -> TailSource:
    found = TailSource(TailConfig(path=str(path), stream="=s", time="ts", channels={"a": "a"}))
    found.open(None)
    return found


def test_a_tail_tells_while_its_file_has_the_name_and_must_be_asked_while_it_has_not(path: Path) -> None:
    source = tail(path)
    assert not source.tells
    for _ in range(2):
        assert len(source.poll(10, 0)) <= 1
        assert source.tells
        assert not heard(source.descriptor)
    append(path)
    assert heard(source.descriptor)
    assert len(source.poll(10, 0)) == 1
    path.rename(f"{path}.1")
    assert heard(source.descriptor)
    source.poll(10, 0)
    assert not source.tells, "another file will get the name"
    append(path)
    assert [len(source.poll(10, 0)) for _ in range(2)] == [1, 0]
    assert source.tells
    assert not heard(source.descriptor)
    source.close()
    assert source.descriptor is None
    assert not source.tells


def test_a_tail_does_not_tell_while_it_has_lines_ready(path: Path) -> None:
    append(path)
    source = tail(path)
    assert len(source.poll(1, 0)) == 1
    source.poll(0, 0)
    assert not source.tells
    source.close()


def test_a_wake_that_listens_ends_for_what_is_readable_and_for_what_is_set() -> None:
    wake, (reader, writer) = Wake(), os.pipe()
    assert not wake.listen(0.01, (reader,))
    os.write(writer, b"x")
    assert wake.listen(60, (reader,))
    assert wake.listen(60, (reader,)), "it stays readable"
    wake.set()
    assert wake.listen(60, (reader,))
    assert not wake.wait(0.01), "what was set is over"
    wake.set()
    assert not wake.listen(60, ())
    os.close(reader)
    os.close(writer)
    wake.close()
