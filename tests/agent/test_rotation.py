"""A file that is rotated, copied away, truncated or compressed is read whole, once and in order; also over restarts."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from edgectl_agent.config import TailConfig
from edgectl_agent.sources.interface import Position
from edgectl_agent.sources.rotation import generations
from edgectl_agent.sources.tail import TailSource
from hypothesis import given, settings
from hypothesis import strategies as st


def record(i: int) -> bytes:
    return b'{"ts":%d,"m":"a","v":%d}\n' % (1_000_000 + i, i)


class Log:
    """A file with numbered records, and a source that follows it."""

    def __init__(self, folder: Path, **more: object) -> None:
        self.path = folder / "plant.log"
        config = {"path": str(self.path), "stream": "m", "time": "ts", "channels": {"v": "v"}} | more
        self._config = TailConfig(**config)  # type: ignore[arg-type]
        self.written = 0
        self.seen: list[float] = []
        self.rejected: dict[str, int] = {}
        self._source = TailSource(self._config)
        self.position: Position = {}
        _logs.append(self)

    def write(self, count: int) -> None:
        with self.path.open("ab") as out:
            for _ in range(count):
                out.write(record(self.written))
                self.written += 1

    def start(self) -> None:
        self._source = TailSource(self._config)
        self._source.open(self.position)

    def stop(self) -> None:
        self._source.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def look(self, limit: int = 100) -> None:
        chunk = self._source.poll(limit, 0)
        self.seen += chunk.values[:, 0].tolist()
        self.position = chunk.position
        for reason, count in chunk.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count

    def drain(self) -> list[float]:
        """Look until nothing comes; what came since it was asked last."""
        before = len(self.seen)
        idle = 0
        while idle < 12:  # a look goes on by one file at most
            had = len(self.seen), dict(self.rejected)
            self.look()
            idle = idle + 1 if had == (len(self.seen), self.rejected) else 0
        return self.seen[before:]

    @property
    def all(self) -> list[float]:
        return list(map(float, range(self.written)))


_logs: list[Log] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while _logs:
        _logs.pop().stop()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def shift(path: Path) -> None:
    """Give each rotated file the next number."""
    for number in range(15, 0, -1):
        for suffix in ("", ".gz"):
            old = path.with_name(f"{path.name}.{number}{suffix}")
            if old.exists():
                old.rename(path.with_name(f"{path.name}.{number + 1}{suffix}"))


def rename(path: Path) -> None:
    if path.exists():
        shift(path)
        path.rename(f"{path}.1")
        path.touch()


def copytruncate(path: Path) -> None:
    if path.exists():
        shift(path)
        shutil.copy(path, f"{path}.1")
        os.truncate(path, 0)


def compress(path: Path) -> None:
    """Pack the newest rotated file as gzip does: the time of the content stays."""
    plain = Path(f"{path}.1")
    if plain.exists():
        subprocess.run(["gzip", plain], check=True)


# ── by the real logrotate ───────────────────────────────────────────────────────────────────────────────────────────


class Logrotate:
    def __init__(self, log: Log, *directives: str) -> None:
        self._conf, self._state = log.path.with_name("rotate.conf"), log.path.with_name("rotate.state")
        lines = "\n  ".join(("rotate 9", "missingok", *directives))
        self._conf.write_text(f"{log.path} {{\n  {lines}\n}}\n")
        self._conf.chmod(0o644)

    def __call__(self) -> None:
        program = shutil.which("logrotate", path="/usr/sbin:/usr/bin:/sbin")
        assert program
        command = [program, "--force", "--state", str(self._state), str(self._conf)]
        deadline = time.monotonic() + 60
        while subprocess.run(command, capture_output=True, timeout=60).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.2)  # by a date in seconds it rotates once a second


METHODS = {
    "create": ["create"],
    "create, packed": ["create", "compress"],
    "create, packed later": ["create", "compress", "delaycompress"],
    "create, dated": ["create", "dateext", "dateformat -%Y%m%d-%s"],
    "copytruncate": ["copytruncate"],
    "copytruncate, packed": ["copytruncate", "compress"],
    "name keeps its suffix": ["create", "compress", "extension .log"],
}


@pytest.mark.needs("logrotate")
@pytest.mark.parametrize("directives", METHODS.values(), ids=METHODS)
def test_what_logrotate_does_costs_nothing_and_doubles_nothing(log: Log, directives: list[str]) -> None:
    rotate = Logrotate(log, *directives)
    log.write(50)
    log.start()
    log.look(20)
    rotate()  # within a file
    log.write(30)
    assert log.drain() == log.all[20:]
    log.write(10)
    log.look(5)
    log.stop()
    rotate()  # while the agent is away
    log.write(10)
    log.start()
    assert log.drain() == log.all[85:]
    assert log.rejected == {}


@pytest.mark.needs("logrotate")
@pytest.mark.parametrize("directives", [["create", "compress"], ["copytruncate", "compress"]], ids=" ".join)
def test_three_rotations_between_two_looks_leave_nothing_out(log: Log, directives: list[str]) -> None:
    rotate = Logrotate(log, *directives)
    log.write(10)
    log.start()
    log.look(5)
    for away in (False, True):
        if away:
            log.stop()
        for _ in range(3):
            log.write(10)
            rotate()
        if away:
            log.start()
        log.write(3)
        log.look(4)
    log.drain()
    assert (log.seen, log.rejected) == (log.all, {})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_rotations_looks_and_restarts_give_every_record_once_and_in_order(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder))
        log.write(1)
        log.start()
        log.look(1)
        steps = data.draw(st.lists(st.sampled_from("wwllrcdgs"), max_size=25))
        if steps.count("r") + steps.count("c") > 9:
            return
        turn = rename if data.draw(st.booleans()) else copytruncate
        for step in steps:
            match step:
                case "w":
                    log.write(data.draw(st.integers(1, 40)))
                case "l":
                    log.look(data.draw(st.integers(1, 30)))
                case "r" | "c":
                    turn(log.path)
                case "g":
                    compress(log.path)
                case "d":
                    log.drain()
                case _:
                    log.restart()
        log.write(1)
        log.drain()
        log.stop()
        assert (log.seen, log.rejected) == (log.all, {})


# ── what is told apart ──────────────────────────────────────────────────────────────────────────────────────────────


def test_history_is_read_from_the_oldest_on_if_asked_for_and_else_not(tmp_path: Path) -> None:
    for asked in (True, False):
        folder = tmp_path / str(asked)
        folder.mkdir()
        log = Log(folder, history=asked)
        for _ in range(12):
            log.write(5)
            rename(log.path)
            compress(log.path)
        log.write(5)
        log.start()
        assert log.drain() == (log.all if asked else log.all[-5:])


def test_a_position_deep_in_a_compressed_file_is_found_again(log: Log) -> None:
    log.write(30_000)
    log.start()
    for _ in range(25):
        log.look(1000)
    log.stop()
    rename(log.path)
    compress(log.path)
    log.write(1)
    log.start()
    assert log.drain() == log.all[25_000:]


def test_a_file_that_was_truncated_and_outgrew_the_position_between_two_looks_is_read_anew(log: Log) -> None:
    log.write(10)
    log.start()
    assert len(log.drain()) == 10
    for away in (False, True):
        if away:
            log.stop()
        os.truncate(log.path, 0)
        log.write(30)
        if away:
            log.start()
        assert log.drain() == log.all[-30:]
    assert log.rejected == {"file-gone": 1}  # while the agent was away; nobody knows what else was in it


def test_an_equal_looking_file_in_its_place_is_another_file(log: Log) -> None:
    log.write(10)
    log.start()
    log.look(6)
    twin = log.path.with_name("twin")
    shutil.copy(log.path, twin)
    twin.replace(log.path)
    assert log.drain() == [*log.all[6:], *log.all]


def test_a_new_file_with_an_old_inode_is_another_file(log: Log) -> None:
    log.write(10)
    log.start()
    log.drain()
    log.stop()
    log.position["inode"] = int(log.position["inode"])
    log.path.write_bytes(b"".join(record(i) for i in range(100, 140)))  # the same inode, and longer
    assert log.path.stat().st_ino == log.position["inode"]
    log.start()
    assert log.drain() == list(range(100, 140))


def test_a_renamed_file_is_read_on_while_its_writer_still_has_it(log: Log) -> None:
    log.write(3)
    log.start()
    log.drain()
    with log.path.open("ab") as writer:
        rename(log.path)
        log.drain()
        writer.write(record(3))
        writer.flush()
        assert log.drain() == [3]
    log.path.write_bytes(record(4))
    assert log.drain() == [4]


def test_a_file_that_was_deleted_with_what_followed_is_counted_and_the_later_ones_are_read(log: Log) -> None:
    log.write(10)
    rename(log.path)  # older than the position: not read now
    log.write(10)
    log.start()
    log.look(5)
    log.stop()
    os.utime(log.path)
    rename(log.path)
    Path(f"{log.path}.1").unlink()
    log.write(5)
    os.utime(log.path, (2e9, 2e9))
    rename(log.path)
    log.write(5)
    log.start()
    assert log.drain() == log.all[-10:]
    assert log.rejected == {"file-gone": 1}


def test_what_is_sound_in_a_damaged_compressed_file_is_read_and_the_rest_counted(tmp_path: Path) -> None:
    log = Log(tmp_path, history=True)
    log.write(2000)
    rename(log.path)
    compress(log.path)
    packed = Path(f"{log.path}.1.gz")
    os.truncate(packed, packed.stat().st_size - 200)
    log.write(5)
    log.start()
    found = log.drain()
    assert found[-5:] == log.all[-5:]
    assert found[:-5] == log.all[: len(found) - 5]
    assert 1000 < len(found) < 2005
    assert log.rejected == {"damaged-gzip": 1, "unterminated": 1} or log.rejected == {"damaged-gzip": 1}


def test_members_that_were_appended_and_a_bomb_are_unpacked_in_bounded_memory(tmp_path: Path) -> None:
    log = Log(tmp_path, history=True)
    bomb = gzip.compress(b"x" * 50_000_000, 9)
    Path(f"{log.path}.1.gz").write_bytes(gzip.compress(record(0)) + bomb + gzip.compress(b"\n" + record(1)))
    log.written = 2
    log.write(1)
    log.start()
    assert log.drain() == [0, 1, 2]
    assert log.rejected == {"too-long": 1}


def test_only_what_rotation_names_is_history_and_of_a_file_being_packed_the_original(tmp_path: Path) -> None:
    names = ["f.log", "f.log.1", "f.log.1.gz", "f.log.2.gz", "f.log.10.gz", "f.3.log", "f.log.bak", "f2.log", "f-2.log"]
    names += ["f.log.2026-03-14", "f-20260315.log", "f.log-20260316.gz"]
    for name in names:
        (tmp_path / name).touch()
    assert [one.path.name for one in generations(tmp_path / "f.log")] == [
        "f.log.10.gz", "f.3.log", "f.log.2.gz", "f.log.1",
        "f.log.2026-03-14", "f-20260315.log", "f.log-20260316.gz", "f.log",
    ]  # fmt: skip


def test_a_link_to_the_newest_of_dated_files_is_followed_from_file_to_file(log: Log) -> None:
    days = [log.path.with_name(f"plant-2026031{day}.log") for day in range(3)]
    for day in days:
        log.path.unlink(missing_ok=True)
        day.touch()
        log.path.symlink_to(day)
        log.write(4)
        if day == days[0]:
            log.start()
            log.look(2)
    assert log.drain() == log.all[2:]
