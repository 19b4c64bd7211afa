"""Killed at any rename while publishing, the repository verifies, and the next publish works."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from edgectl_agent.core.bundle import encode

from tests.support.bundles import make_bundle, make_release
from tests.support.operators import NODE, START, NodeFolder, Operator, deployed

SCRIPT = """
import os, signal, sys
from pathlib import Path
import msgspec
from edgectl.trust.keys import KeyStore
from edgectl.trust.repository import Repository
from edgectl_agent.core.bundle import digest
from edgectl_agent.core.messages import Assignment, Release
from datetime import datetime

folder, step, k = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
repository, now = Repository(folder / "repo", KeyStore(folder / "keys")), datetime.fromisoformat(sys.argv[4])
count, replace = 0, os.replace

def crash(source, target):
    global count
    if count == k:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    replace(source, target)

os.replace = crash
if step == "release":
    raw = (folder / "next.bundle").read_bytes()
    release = msgspec.json.decode((folder / "next.release").read_bytes(), type=Release)
    repository.add_release(release, {digest(raw): raw}, None, now)
else:
    assignment = msgspec.json.decode((folder / "next.assignment").read_bytes(), type=Assignment)
    repository.assign(assignment, now, 3)
print(count)
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    operator = deployed(tmp_path_factory.mktemp("template") / "mona")
    folder = operator.folder
    raw = encode(make_bundle(2))
    (folder / "next.bundle").write_bytes(raw)
    (folder / "next.release").write_bytes(msgspec.json.encode(make_release("press", "1.1.0", 2, raw)))
    (folder / "next.assignment").write_bytes(msgspec.json.encode(operator.assignment("1.0.0", epoch=2)))
    return folder


@pytest.mark.parametrize(("step", "renames"), [("release", 5), ("deploy", 4)])
def test_a_kill_before_any_rename_leaves_a_repository_that_verifies(
    tmp_path: Path, template: Path, step: str, renames: int
) -> None:
    for k in range(renames + 1):
        folder = tmp_path / f"{step}-{k}"
        shutil.copytree(template, folder)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(folder), step, str(k), START.isoformat()],
            capture_output=True,
            text=True,
            check=False,
        )
        finished = k == renames
        assert done.returncode == (0 if finished else -9), done.stderr
        if finished:
            assert done.stdout.strip() == str(renames)
        mona = Operator(folder)
        mona.raw["1.0.0"] = encode(make_bundle(1))
        assert mona.repository.verify("press", "1.0.0")
        assert mona.repository.versions().timestamp == (4 if finished else 3)
        node = NodeFolder(folder / "node", mona)
        node.push(mona)
        assert node.update(mona.now).exit_code == 0
        # The next publish is not confused by what the crash left, nor does it keep the litter.
        mona.deploy("1.0.0", epoch=3)
        assert not list((folder / "repo").rglob(".*.tmp"))
        node.push(mona)
        verdict = node.update(mona.now)
        assert (verdict.exit_code, verdict.epoch and verdict.epoch.number) == (0, 3)


def test_killed_while_creating_the_next_create_completes(tmp_path: Path, template: Path) -> None:
    repo = template.parent / "half"
    shutil.copytree(template, repo, dirs_exist_ok=True)
    metadata = repo / "repo" / "metadata"
    (metadata / "timestamp.json").unlink()
    mona = Operator(repo)
    assert mona.repository.releases() == ()
    node = NodeFolder(tmp_path / NODE, mona)
    node.push(mona)
    assert node.verify(mona.now).exit_code == 0
