"""`edgectl init` and `edgectl repo`: making a workspace, and keeping its signatures alive."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgectl.trust.keys import KeyStore
from edgectl.trust.repository import Repository
from tests.support.cli import Shell


def everything(folder: Path) -> dict[str, str]:
    """Path → digest of every file that matters; locks are rewritten by everybody."""
    files = (p for p in folder.rglob("*") if p.is_file() and "lock" not in p.name)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_init_makes_everything_and_says_what_to_do_next(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    done = shell.run("init", "--fleet", "acme")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "edgectl nodes add" in done.stderr
    assert "fleet: acme" in (tmp_path / "fleet.yaml").read_text()
    assert (tmp_path / "repo" / "metadata" / "1.root.json").exists()
    assert (tmp_path / ".edgectl" / "state.db").exists()


def test_keys_and_state_are_private_and_never_go_into_git(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.pyc")
    Shell(tmp_path).ok("init")
    assert (tmp_path / ".gitignore").read_text().splitlines()[0] == "*.pyc"
    assert ".edgectl/" in (tmp_path / ".gitignore").read_text().splitlines()
    assert stat.S_IMODE((tmp_path / ".edgectl").stat().st_mode) == 0o700
    for key in (tmp_path / ".edgectl" / "keys").iterdir():
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_init_again_changes_nothing_and_says_so(shell: Shell) -> None:
    before = everything(shell.folder)
    done = shell.run("init")
    assert done.returncode == 0
    assert "complete: nothing was changed" in done.stderr
    assert everything(shell.folder) == before


def test_init_over_another_fleet_is_refused(shell: Shell) -> None:
    before = everything(shell.folder)
    shell.fails(2, "init", "--fleet", "other", says="is fleet 'acme' already, not 'other'")
    assert everything(shell.folder) == before


def test_a_wrong_fleet_yaml_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("version: 1\nflet: x\n")
    shell = Shell(tmp_path)
    shell.fails(3, "init", says="fleet.yaml: flet: unknown key, did you mean 'fleet'?")
    assert not (tmp_path / "repo").exists()
    shell.fails(3, "--workspace", str(tmp_path / "new"), "init", "--fleet", "a b", says="fleet name 'a b': expected")
    assert not (tmp_path / "new" / "fleet.yaml").exists()


def test_an_own_fleet_yaml_decides_where_the_repository_lies(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("version: 1\nfleet: own\nrepository: {dir: public/tuf}\n")
    Shell(tmp_path).ok("init")
    assert (tmp_path / "public" / "tuf" / "metadata" / "timestamp.json").exists()
    assert (tmp_path / "fleet.yaml").read_text().startswith("version: 1\nfleet: own\n")


@pytest.mark.parametrize("missing", ["fleet.yaml", "repo", ".edgectl/state.db", ".gitignore", ".edgectl/keys repo"])
def test_a_half_finished_init_is_completed_by_the_next(shell: Shell, missing: str) -> None:
    for name in missing.split():
        path = shell.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shell.ok("init", "--fleet", "acme")
    shell.ok("nodes", "add", "pi-1", "--no-start")
    assert "nothing was changed" in shell.run("init").stderr


def test_keys_are_never_replaced_for_a_repository_that_is_there(shell: Shell) -> None:
    shutil.rmtree(shell.folder / ".edgectl" / "keys")
    assert "nothing was changed" in shell.run("init").stderr
    assert not (shell.folder / ".edgectl" / "keys").exists()


@pytest.mark.parametrize("files", [1, 5, 9])
def test_init_that_is_interrupted_is_completed_by_the_next(tmp_path: Path, files: int) -> None:
    shell = Shell(tmp_path)
    process = shell.start("init")
    deadline = time.monotonic() + 30
    while sum(1 for _ in tmp_path.rglob("*")) < files and process.poll() is None and time.monotonic() < deadline:
        pass
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode in (0, 130), said
    shell.ok("init")
    shell.ok("repo", "show")
    assert "nothing was changed" in shell.run("init").stderr


# ── passphrases ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_passphrase_locks_the_keys_that_introduce_models_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("correct horse\n")
    shell = Shell(tmp_path)
    shell.ok("init", "--passphrase-file", "secret")
    rows = json.loads(shell.ok("repo", "show", "-o", "json"))
    keys = {row["role"]: row["key"] for row in rows}
    assert {role for role, key in keys.items() if key == "locked"} == {"root", "targets", "models"}


def test_the_environment_may_hold_the_passphrase(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"EDGECTL_PASSPHRASE": "correct horse"})
    shell.ok("init")
    assert "locked" in shell.ok("repo", "show")


def test_a_passphrase_file_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.fails(3, "init", "--passphrase-file", "secret", says="passphrase file secret cannot be read: No such file")
    (tmp_path / "secret").write_text("\n")
    shell.fails(3, "init", "--passphrase-file", "secret", says="expected the passphrase on its first line")
    assert not (tmp_path / "repo" / "metadata").exists()


# ── expiry ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def aged(shell: Shell, days: float, passphrase: str | None = None) -> None:
    """The workspace's keys and repository as if they had been made `days` ago."""
    for name in (".edgectl/keys", "repo"):
        shutil.rmtree(shell.folder / name)
    keys = KeyStore(shell.folder / ".edgectl" / "keys")
    keys.create(passphrase)
    Repository(shell.folder / "repo", keys).create(datetime.now(UTC) - timedelta(days=days), passphrase)


def test_refresh_is_silent_when_nothing_expires(shell: Shell) -> None:
    before = everything(shell.folder)
    done = shell.run("repo", "refresh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert everything(shell.folder) == before


@pytest.mark.parametrize(("days", "signed"), [(6, {"timestamp"}), (40, {"rollout", "snapshot", "timestamp"})])
def test_refresh_signs_what_expires_or_has_expired(shell: Shell, days: float, signed: set[str]) -> None:
    aged(shell, days, "secret")
    rows = json.loads(shell.ok("repo", "show", "-o", "json"))
    assert {row["role"] for row in rows if row["due"]} == signed
    done = shell.run("repo", "refresh")
    assert done.returncode == 0
    assert all(role in done.stderr for role in signed)
    assert not any(row["due"] for row in json.loads(shell.ok("repo", "show", "-o", "json")))


def test_what_needs_the_passphrase_is_named_and_not_forgotten(shell: Shell) -> None:
    aged(shell, 300, "secret")
    done = shell.run("repo", "refresh")
    assert done.returncode == 40
    assert "signed anew: rollout, snapshot, timestamp" in done.stderr
    assert "not signed anew, because their keys are locked or not here: root (20" in done.stderr
    (shell.folder / "wrong").write_text("wrong")
    shell.fails(40, "repo", "refresh", "--passphrase-file", "wrong", says="wrong passphrase for")
    (shell.folder / "right").write_text("secret")
    assert "signed anew: root, targets, models" in shell.run("repo", "refresh", "--passphrase-file", "right").stderr
    shell.ok("repo", "refresh")


def test_a_damaged_repository_is_named(shell: Shell) -> None:
    path = shell.folder / "repo" / "metadata" / "1.snapshot.json"
    path.write_bytes(path.read_bytes().replace(b"models.json", b"models.jsom", 1))
    shell.fails(40, "repo", "show", says="1.snapshot.json")
