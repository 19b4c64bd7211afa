"""A full disk in the middle of commands that write: 75, one sentence, nothing half-done, and room brings it back.

`nodes add` is in test_nodes.py, `models sign` in test_models.py, `train` in test_train_bad_input.py, and the agent in
scenarios/test_agent_process.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.scenarios.fleets import Plant
from tests.support.cli import Shell

pytestmark = pytest.mark.needs("root")


def fill(disk: Path) -> Path:
    """A file that takes all room that is left; delete it to make room again."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))
    return filler


def onto(disk: Path, path: Path) -> None:
    """Let `path`, which stays where it is, lie on `disk`."""
    if path.exists():
        shutil.move(path, disk / path.name)
    else:
        (disk / path.name).mkdir()
    path.symlink_to(disk / path.name)


def test_init_is_completed_when_there_is_room(small_disk: Path) -> None:
    filler = fill(small_disk)
    folder = small_disk / "work"
    shell = Shell(small_disk)
    shell.fails(75, "--workspace", str(folder), "init", says="no space left on device")
    filler.unlink()
    shell.ok("--workspace", str(folder), "init")
    shell.ok("--workspace", str(folder), "repo", "show")


def test_the_store_refuses_and_keeps_what_it_had(shell: Shell, small_disk: Path) -> None:
    shell.ok("nodes", "add", "pi-1", "--no-start")
    assert shell.run("collect").returncode == 31
    database = shell.folder / ".edgectl" / "state.db"
    onto(small_disk, database)
    filler = fill(small_disk)
    shell.fails(75, "collect", says="no space left for the store")
    filler.unlink()
    assert shell.run("collect").returncode == 31


@pytest.fixture
def plant(small_disk: Path, tmp_path: Path) -> Iterator[Plant]:
    """A running agent whose spool lies on the small disk; it ends before the disk goes away."""
    (tmp_path / "plant").mkdir()
    made = Plant(tmp_path / "plant", ("pi-1",))
    onto(small_disk, made.folder / ".edgectl" / "nodes" / "pi-1" / "data" / "spool")
    yield made
    made.close()


def test_an_upload_that_finds_no_room_is_resumed_when_there_is_some(plant: Plant, small_disk: Path) -> None:
    plant.release("1.0.0", seed=1)
    filler = fill(small_disk)
    done = plant.shell.run("deploy", "press", "--yes")
    assert done.returncode == 75, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "node pi-1: cannot put metadata/" in last
    assert "into its spool: No space left on device" in last
    assert last.endswith("edgectl deploy --resume r-1")
    assert plant.versions() == {}
    filler.unlink()
    plant.shell.ok("deploy", "--resume", "r-1")
    assert plant.versions() == {"pi-1": "1.0.0"}
