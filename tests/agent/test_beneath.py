"""A login puts links into the spool, before and while the agent reads or writes: nothing outside is touched."""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edgectl_agent.beneath import Beneath, UnsafePath
from edgectl_agent.core.errors import UsageError
from edgectl_agent.deposit import Deposit, sweep
from edgectl_agent.spool import SpoolFetcher, UnsafeSpool
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.exceptions import DownloadError

NAME = "targets/bundles/1.bundle"
FOLDERS = ["targets", "targets/bundles"]
UPLOAD, PRIVATE = b"what was uploaded", b"what nobody may read or replace"


class World:
    """A spool with one file, and beside it a folder that looks alike and is none of the spool's business."""

    def __init__(self, folder: Path) -> None:
        self.spool, self.outside = folder / "data" / "spool", folder / "data" / "slots"
        self.aside = folder / "aside"
        for tree, raw in ((self.spool, b"old"), (self.outside, PRIVATE)):
            for name in (NAME, "bundles/1.bundle", "1.bundle", "bundles/.put-1", ".put-1"):
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (tree / name).write_bytes(raw)
        self.before = self.state()

    def swap(self, name: str) -> None:
        """The name becomes a link to what lies outside."""
        (self.spool / name).rename(self.aside)
        (self.spool / name).symlink_to(self.outside / "1.bundle" if name == NAME else self.outside)

    def back(self, name: str) -> None:
        (self.spool / name).unlink()
        self.aside.rename(self.spool / name)

    def state(self) -> dict[str, tuple[bytes, int]]:
        """Every file outside: content and inode."""
        return {
            str(p.relative_to(self.outside)): (p.read_bytes(), p.stat().st_ino)
            for p in self.outside.rglob("*") if p.is_file()
        }  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    assert made.state() == made.before


def put(world: World) -> None:
    deposit = Deposit(world.spool, NAME)
    try:
        deposit.write(UPLOAD)
        deposit.finish(hashlib.sha256(UPLOAD).digest())
    finally:
        deposit.close()


def replaced(world: World) -> None:
    with Beneath(world.spool).replacing(NAME) as file:
        file.write(UPLOAD)


def fetched(world: World) -> bytes:
    return b"".join(SpoolFetcher(world.spool).fetch(f"spool:///{NAME}"))


def exchange(one: Path, other: Path) -> None:
    """The two names change places in one step, so that both are there at any time."""
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    assert ctypes.CDLL(None, use_errno=True).renameat2(here, bytes(one), here, bytes(other), swap) == 0


def before_opening(monkeypatch: pytest.MonkeyPatch, last: str, act: Callable[[], None]) -> list[str]:
    """Do `act` once, between whatever was looked at before and the opening of the path that ends in `last`."""
    real, done = os.open, []

    def opens(path: str, *args: int, **kwargs: int) -> int:
        if os.path.basename(path) == last and not done:
            done.append(last)
            act()
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", opens)
    return done


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("between", [False, True])
def test_a_folder_that_is_a_link_is_not_written_through(
    world: World, name: str, between: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = before_opening(monkeypatch, name.split("/")[-1], lambda: world.swap(name)) if between else [name]
    if not between:
        world.swap(name)
    with pytest.raises(
        UsageError, match=rf"{NAME} cannot be put .*: {name.split('/')[-1]} is a link, expected a folder"
    ):
        put(world)
    assert done
    with pytest.raises(UnsafePath, match="is a link, expected a folder"):
        replaced(world)


@pytest.mark.parametrize("name", [*FOLDERS, NAME])
@pytest.mark.parametrize("between", [False, True])
def test_nothing_is_read_through_a_link(
    world: World, name: str, between: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetched(world) == b"old"
    done = before_opening(monkeypatch, name.split("/")[-1], lambda: world.swap(name)) if between else [name]
    if not between:
        world.swap(name)
    with pytest.raises(DownloadError, match=f"{NAME} is not read from the spool: .* is a link, expected a f"):
        fetched(world)
    assert done
    assert not Beneath(world.spool).exists(NAME)


@pytest.mark.parametrize("name", [*FOLDERS, NAME])
def test_what_was_a_link_only_when_it_was_opened_is_refused_as_one(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, last = os.stat, name.split("/")[-1]
    before_opening(monkeypatch, last, lambda: world.swap(name))

    def stats(path: str, **kwargs: Any) -> os.stat_result:
        if path == last and (world.spool / name).is_symlink():
            world.back(name)
        return real(path, **kwargs)

    monkeypatch.setattr(os, "stat", stats)
    with pytest.raises(DownloadError, match=f"{NAME} is not read from the spool: {last} was a link when it was opened"):
        fetched(world)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_becomes_a_link_while_a_file_comes_gets_nothing_outside(world: World, name: str) -> None:
    deposit = Deposit(world.spool, NAME)
    world.swap(name)
    deposit.write(UPLOAD)
    deposit.finish(hashlib.sha256(UPLOAD).digest())
    deposit.close()
    world.back(name)
    assert fetched(world) == UPLOAD, "it is in the folder that it was begun in"


@pytest.mark.parametrize("write", [put, replaced])
def test_a_file_that_is_a_link_is_replaced_and_not_written_through(
    world: World, write: Callable[[World], None]
) -> None:
    world.swap(NAME)
    write(world)
    assert fetched(world) == UPLOAD
    assert not (world.spool / NAME).is_symlink()


def test_while_somebody_swaps_a_folder_all_the_time_only_the_spool_is_used(world: World) -> None:
    ends = threading.Event()

    (world.spool / "link").symlink_to(world.outside)

    def mallory() -> None:
        while not ends.is_set():
            exchange(world.spool / "targets/bundles", world.spool / "link")

    thread = threading.Thread(target=mallory)
    thread.start()
    outcomes: set[str] = set()
    try:
        for _ in range(300):
            for act in (put, fetched, replaced):
                try:
                    assert act(world) != PRIVATE
                    outcomes.add("done")
                except (UsageError, UnsafeSpool, UnsafePath):
                    outcomes.add("refused")
            sweep(world.spool)
    finally:
        ends.set()
        thread.join()
    assert outcomes == {"done", "refused"}


def test_remains_are_swept_in_the_spool_and_not_behind_a_link(world: World) -> None:
    (world.spool / "elsewhere").symlink_to(world.outside)
    (world.spool / ".put-2").symlink_to(world.outside / "1.bundle")
    sweep(world.spool)
    assert not [p for p in world.spool.rglob(".put-*") if not p.is_relative_to(world.spool / "elsewhere")]
    assert fetched(world) == b"old"


def test_a_file_that_has_another_name_elsewhere_is_not_written_to(world: World) -> None:
    from edgectl_agent.core.listing import Wanted
    from edgectl_agent.uplink.download import fetch
    from edgectl_agent.uplink.interface import UplinkError
    from edgectl_agent.uplink.web import Web

    wanted = Wanted(name=NAME, sha256="0" * 64, length=5)
    part, web = world.spool / "targets/bundles/.1.bundle.part", Web()
    for place, says in (
        (part.symlink_to, "is a link, expected a file"),
        (part.hardlink_to, "has another name elsewhere"),
    ):
        place(world.outside / "1.bundle")
        part.with_name(part.name + ".etag").write_text("")
        with pytest.raises(UplinkError, match=says):
            fetch(web, "http://127.0.0.1:1/", Beneath(world.spool), wanted)
        part.unlink()
    web.close()


@given(st.lists(st.sampled_from(["", ".", "..", "a", "\0", "a" * 256]), min_size=1, max_size=4))
def test_only_a_plain_name_is_looked_up(parts: list[str]) -> None:
    name = "/".join(parts)
    if set(parts) == {"a"}:
        return
    with pytest.raises(UnsafePath, match="is not a name inside"), Beneath(Path("/")).folder(name):
        pass


def test_the_spool_itself_may_lie_on_another_disk(world: World, tmp_path: Path) -> None:
    (tmp_path / "spool").symlink_to(world.spool)
    assert Beneath(tmp_path / "spool").read(NAME) == b"old"
    sweep(tmp_path / "spool")
    assert not list(world.spool.rglob(".put-*"))
