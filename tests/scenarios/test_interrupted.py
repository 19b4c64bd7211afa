"""Ctrl-C in the real command at exact points: 130, a message that says how to go on, nothing half-written, and the
way that the message names leads to where the command would have ended.

Ctrl-C between canary and rest is in test_deploy.py, while `init` or an agent starts in tests/cli.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from edgectl_agent.core.bundle import encode

from edgectl.registry.directory import DirectoryRegistry
from edgectl.registry.interface import Draft
from edgectl.trust.keys import KeyStore
from edgectl.trust.repository import Repository
from edgectl.workspace import Workspace
from tests.scenarios.fleets import Plant
from tests.support.bundles import make_bundle
from tests.support.cli import COMMAND, Shell
from tests.support.histories import write_history, write_recipe
from tests.support.interrupted import ctrl_c

AGAIN = "interrupted → the same command again completes it"
WRITES = 5
"""What signing a release puts in place: bundle, manifest, models, snapshot, timestamp."""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    made = Shell(tmp_path)
    made.ok("init", "--fleet", "acme")
    return made


def says(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert sentence in done.stderr.splitlines()[-1]
    assert done.stdout == ""


# ── train ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ctrl_c_during_train_leaves_no_release_or_a_whole_one(shell: Shell) -> None:
    write_recipe(shell.folder)
    args = ("train", "press", "--data", str(write_history(shell.folder / "good.csv")))
    folder = shell.folder / ".edgectl" / "registry"
    for place, at in (("edgectl.training.estimators:fit", 1), ("edgectl.registry.directory:_write_synced", 3)):
        says(ctrl_c(shell, place, at, *args), AGAIN)
        assert not [path for path in folder.rglob("*") if path.is_file()], f"{place} left something behind"
    says(ctrl_c(shell, "edgectl.registry.directory:os.rename", 1, *args, after=True), AGAIN)
    assert "already there as press 1.0.0" in shell.run(*args).stderr
    registry = DirectoryRegistry(folder)
    (entry,) = registry.entries("press")
    assert set(registry.bundles(entry)) == {ref.sha256 for ref in entry.release.variants}
    assert not list(folder.rglob(".partial-*"))


# ── sign ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def train(shell: Shell, seed: int) -> None:
    """One more version in the registry, without the time that training takes."""
    draft = Draft(
        recipe="press",
        bundles={"fp32": encode(make_bundle(seed=seed))},
        p99_us={"fp32": 20.0},
        created=f"2026-03-14T09:12:0{seed}Z",
        report=b"{}",
    )
    DirectoryRegistry(Workspace(shell.folder).registry).add(draft)


def test_ctrl_c_during_sign_leaves_the_repository_before_or_after_it(shell: Shell) -> None:
    for seed in (1, 2):
        train(shell, seed)
    shell.ok("models", "sign", "press@1.0.0")
    repository = Repository(shell.folder / "repo", KeyStore(shell.folder / ".edgectl" / "keys"))
    sign = ("models", "sign", "press@1.1.0")
    for k in range(1, WRITES + 1):
        says(ctrl_c(shell, "edgectl.trust.publication:write_file", k, *sign), AGAIN)
        assert not list((shell.folder / "repo").rglob("*.tmp"))
        assert [release.version for release in repository.releases()] == ["1.0.0"]
        assert repository.verify("press", "1.0.0")
    says(ctrl_c(shell, "edgectl.trust.publication:write_file", WRITES, *sign, after=True), AGAIN)
    assert "is signed already: nothing was changed" in shell.run(*sign).stderr
    shell.ok("models", "verify")


def test_ctrl_c_at_the_question_for_the_passphrase_signs_nothing(tmp_path: Path) -> None:
    shell = Shell(tmp_path, env={"EDGECTL_PASSPHRASE": "correct horse"})
    shell.ok("init", "--fleet", "acme")
    train(shell, 1)
    shell.env = {}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "models", "sign", "press"], cwd=tmp_path, env=shell.environ(), stdin=theirs, stdout=theirs,
        stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # Linux: the other side has closed
        while part := os.read(ours, 4096):
            asked = b"Passphrase" in shown
            shown += part
            if not asked and b"Passphrase" in shown:
                process.send_signal(signal.SIGINT)
    os.close(ours)
    assert process.wait(timeout=30) == 130
    assert shown.decode().splitlines()[-1] == f"edgectl: {AGAIN}"
    assert Repository(tmp_path / "repo", KeyStore(tmp_path / ".edgectl" / "keys")).releases() == ()


# ── deploy ──────────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = ("pi-1", "pi-2")


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant(tmp_path_factory.mktemp("plant"), NAMES)
    made.release("1.0.0", seed=1)
    made.shell.ok("deploy", "press", "--phases", "100%", "--yes")
    yield made
    made.close()


JOURNAL = "edgectl.store.rollouts:_reflect"  # inside the transaction that writes the entry
POINTS = {
    "the first journal write": (JOURNAL, "start"),
    "the journal write before the signature": (JOURNAL, "assign"),
    "the journal write after the signature": (JOURNAL, "assigned"),
    "the second file of an upload": ("edgectl.connectors.local:replace", 2),
    "the journal write of a confirmation": (JOURNAL, "confirm"),
    "the journal write between canary and rest": (JOURNAL, "pass"),
}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_ctrl_c_during_deploy_detaches_and_the_resume_completes(plant: Plant, point: tuple[str, int | str]) -> None:
    number = len(plant.repository.releases())
    version = f"1.{number}.0"
    plant.release(version, seed=10 + number)
    before = plant.versions()
    done = ctrl_c(plant.shell, *point, "deploy", "press", "--yes")
    says(done, " nodes confirmed → edgectl deploy --resume r-")
    name = done.stderr.split()[-1]
    assert plant.repository.verify("press", version)
    assert not list((plant.folder / ".edgectl" / "nodes").rglob("*.part"))
    moved = [node for node in NAMES if plant.versions()[node] != before[node]]
    assert len(moved) <= 1, "the rest waits for the canary"
    plant.shell.ok("deploy", "--resume", name)
    assert set(plant.versions().values()) == {version}
    assert plant.shell.ok("audit") == ""
