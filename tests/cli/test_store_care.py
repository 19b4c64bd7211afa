"""`edgectl store` by the real command: what it prints, and what bad input gets."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from edgectl.store.store import Store
from tests.support.cli import Shell
from tests.support.full_store import alert, fill, sign
from tests.support.postgresql import PASSWORD, Server


def opened(shell: Shell) -> Store:
    return Store("sqlite:///.edgectl/state.db", shell.folder).open()


def filled(shell: Shell, alerts: int = 3) -> None:
    store = opened(shell)
    fill(store, alerts)
    store.close()


def test_a_backup_goes_there_and_back(shell: Shell) -> None:
    filled(shell)
    made = json.loads(shell.ok("store", "backup", "b.backup", "-o", "json"))
    assert (made["fleet"], made["rows"]["alerts"], made["source"]) == ("acme", 3, "sqlite")
    assert json.loads(shell.ok("store", "show", "b.backup", "-o", "json")) == made
    shell.fails(2, "store", "restore", "b.backup", says="rows) → --force replaces it")
    shell.fails(2, "store", "restore", "b.backup", "--force", says="Nobody is here to answer → say --yes")
    store = opened(shell)
    store.alerts.save([alert(onset=99)], [], 1)
    store.close()
    said = shell.ok("store", "restore", "b.backup", "--force", "--yes")
    assert "restored the store as of 2" in said
    assert "1 orders that waited for nodes are dropped" in said
    assert "now run: edgectl collect" in said
    assert json.loads(shell.ok("store", "show", "-o", "json"))["rows"]["alerts"] == 3
    (aside,) = (shell.folder / ".edgectl" / "backups").iterdir()
    assert aside.name.startswith("acme-2")
    assert json.loads(shell.ok("store", "show", str(aside), "-o", "json"))["rows"]["alerts"] == 4


def test_in_a_folder_a_backup_gets_a_name_of_fleet_and_time(shell: Shell) -> None:
    name = shell.ok("store", "backup", ".", "-o", "name").strip()
    assert (shell.folder / name).is_file()
    assert name.startswith("acme-2")


def test_an_empty_store_is_filled_without_asking(shell: Shell) -> None:
    filled(shell)
    shell.ok("store", "backup", "b.backup")
    for path in (shell.folder / ".edgectl").glob("state.db*"):
        path.unlink()
    said = shell.ok("store", "restore", "b.backup")
    assert "what it held before" not in said


def test_an_older_backup_says_what_it_lacks(shell: Shell) -> None:
    store = opened(shell)
    sign(store, 1)
    store.close()
    shell.ok("store", "backup", "b.backup")
    said = shell.ok("store", "restore", "b.backup", "--force", "--yes", "-o", "json")
    assert json.loads(said)["epoch"] == 1


def test_bad_files_get_one_sentence_and_the_store_stays(shell: Shell) -> None:
    filled(shell)
    shell.ok("store", "backup", "b.backup")
    good = (shell.folder / "b.backup").read_bytes()
    (shell.folder / "torn.backup").write_bytes(good[:-40])
    (shell.folder / "none.backup").write_text("hello")
    before = shell.ok("store", "show")
    restore = ("store", "restore", "--force", "--yes")
    shell.fails(3, *restore, "torn.backup", says="is not a whole backup")
    shell.fails(3, *restore, "none.backup", says="is not a backup of a store")
    shell.fails(3, *restore, "missing.backup", says="cannot be read: no such file or directory")
    shell.fails(3, *restore, ".", says="cannot be read: is a directory")
    shell.fails(3, "store", "show", "torn.backup", says="is not a whole backup")
    shell.fails(75, "store", "backup", "/proc/b.backup", says="cannot write /proc/b.backup")
    assert shell.ok("store", "show") == before
    fleet = shell.folder / "fleet.yaml"
    fleet.write_text(fleet.read_text().replace("fleet: acme", "fleet: plants"))
    shell.fails(3, *restore, "b.backup", says="is of the fleet 'acme', this workspace's is 'plants'")


def test_a_store_in_use_is_not_restored(shell: Shell) -> None:
    shell.ok("store", "backup", "b.backup")
    store = opened(shell)
    shell.fails(50, "store", "restore", "b.backup", says="is in use, and this needs it alone → end `edgectl collect")
    store.close()


def test_retention_is_of_fleet_yaml_unless_one_age_is_said(shell: Shell) -> None:
    store = opened(shell)
    store.rollouts.log("mona", "audit", "", time.time_ns() - 40 * 86400 * 10**9)
    store.close()
    assert shell.ok("store", "prune").strip() == "nothing is past its retention"
    assert "1 rows would go" in shell.ok("store", "prune", "--older-than", "30d", "--dry-run")
    fleet = shell.folder / "fleet.yaml"
    fleet.write_text(fleet.read_text() + "\nretention: {actions: 30d, rollouts: 9}\n")
    assert json.loads(shell.ok("store", "prune", "-o", "json"))["rows"]["actions"] == 1
    shell.fails(2, "store", "prune", "--older-than", "soon", says="--older-than: expected a duration")
    fleet.write_text(fleet.read_text().replace("30d", "many"))
    shell.fails(3, "store", "prune", says="retention.actions: expected a duration such as")
    fleet.write_text(fleet.read_text().replace("actions: many, rollouts: 9", "rollouts: 0"))
    shell.fails(3, "store", "prune", says="retention.rollouts")


def test_a_migration_that_is_not_needed_says_so(shell: Shell) -> None:
    assert "already" in shell.ok("store", "migrate", "--dry-run")
    assert "already" in shell.ok("store", "migrate")


def test_a_killed_restore_leaves_the_old_or_the_new_store(shell: Shell) -> None:
    """The command itself, by SIGKILL at random moments of its life."""
    filled(shell, alerts=4000)
    shell.ok("store", "backup", "b.backup")
    store = opened(shell)
    store.alerts.save([alert(onset=i) for i in range(10**6, 10**6 + 2000)], [], 1)
    store.close()
    args = ("store", "restore", "b.backup", "--force", "--yes")
    command = [sys.executable, "-m", "edgectl.cli.app", *args]
    rng, counts = random.Random(3), set()
    for _ in range(6):
        process = subprocess.Popen(command, cwd=shell.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.3, 1.6))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        rows = json.loads(shell.ok("store", "show", "-o", "json"))["rows"]
        counts.add(rows["alerts"])
        assert rows["alerts"] in (4000, 6000)
        assert rows["positions"] == 1
    shell.ok(*args)
    assert json.loads(shell.ok("store", "show", "-o", "json"))["rows"]["alerts"] == 4000


# ── a shared store ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


def share(shell: Shell, url: str, password: str = PASSWORD) -> None:
    fleet = shell.folder / "fleet.yaml"
    (shell.folder / "pw").write_text(f"{password}\n")
    kept = [line for line in fleet.read_text().splitlines() if not line.startswith("store:")]
    fleet.write_text("\n".join([*kept, f"store: {url}", "store_password: {file: pw}", ""]))


@pytest.mark.needs("postgresql")
def test_a_fleet_moves_to_a_shared_store_by_a_backup(shell: Shell, server: Server) -> None:
    filled(shell)
    shell.ok("store", "backup", "b.backup")
    server.sql("CREATE DATABASE acme")
    share(shell, f"postgresql://ops@127.0.0.1:{server.port}/acme")
    shell.ok("store", "restore", "b.backup")
    shown = json.loads(shell.ok("store", "show", "-o", "json"))
    assert (shown["kind"], shown["rows"]["alerts"]) == ("postgresql", 3)
    assert PASSWORD not in shown["store"]
    assert len(shell.ok("alerts", "list", "-o", "name").split()) == 3
    shell.ok("status")
    shell.ok("store", "prune", "--older-than", "1d")


@pytest.mark.needs("postgresql")
def test_a_server_that_lets_us_not_in_gets_one_sentence(shell: Shell, server: Server) -> None:
    at = f"127.0.0.1:{server.port}"
    share(shell, f"postgresql://ops@{at}/postgres", password="wrong")
    said = shell.fails(3, "store", "show", says="lets us not in")
    assert "wrong" not in said
    fleet = shell.folder / "fleet.yaml"
    text = fleet.read_text()
    (shell.folder / "pw").write_text(PASSWORD)
    fleet.write_text(text.replace(f"{at}/postgres", f"{at}/nowhere"))
    shell.fails(3, "status", says='database "nowhere" does not exist')
    fleet.write_text(text.replace(at, "127.0.0.1:1"))
    shell.fails(75, "status", says="does not answer")
    fleet.write_text(text.replace("postgresql://ops@", "postgresql://ops:secret@"))
    shell.fails(3, "status", says="the URL holds a password")
    (shell.folder / "pw").unlink()
    fleet.write_text(text)
    shell.fails(3, "status", says="pw cannot be read")
