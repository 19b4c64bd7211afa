"""`edgectl models`: what is trained, what is signed, and that nothing else passes for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from edgectl_agent.core import bundle as bundles

from edgectl.registry.directory import DirectoryRegistry
from edgectl.registry.interface import Draft
from edgectl.workspace import Workspace
from tests.support.bundles import make_bundle
from tests.support.cli import Shell


def train(shell: Shell, seed: int, recipe: str = "press") -> str:
    """One more version in the registry, without the time that training takes."""
    draft = Draft(
        recipe=recipe,
        bundles={"fp32": bundles.encode(make_bundle(seed=seed, recipe=recipe))},
        p99_us={"fp32": 20.0},
        created=f"2026-03-14T09:12:0{seed}Z",
        report=b'{"recipe": "press"}',
        files={"report.txt": b"It found every fault.\n"},
    )
    return DirectoryRegistry(Workspace(shell.folder).registry).add(draft).release.version


def listed(shell: Shell) -> list[tuple[str, str, bool, list[str]]]:
    rows = json.loads(shell.ok("models", "list", "-o", "json"))
    return [(row["recipe"], row["version"], row["signed"], row["fallbacks"]) for row in rows]


def test_list_shows_what_is_trained_and_what_of_it_is_signed(shell: Shell) -> None:
    assert shell.ok("models", "list") == ""
    train(shell, 1)
    train(shell, 2)
    shell.ok("models", "sign", "press@1.0.0")
    assert listed(shell) == [("press", "1.0.0", True, []), ("press", "1.1.0", False, [])]
    assert "not signed: edgectl models sign press@1.1.0" in shell.ok("models", "show", "press")
    shown = shell.ok("models", "show", "press@1.0.0")
    assert "may return to: no older version" in shown
    assert "It found every fault." in shown
    value = json.loads(shell.ok("models", "show", "press@1.0.0", "-o", "json"))
    assert (value["name"], value["report"]) == ("press@1.0.0", {"recipe": "press"})


def test_each_release_permits_a_return_to_the_two_before_it_or_to_those_that_are_named(shell: Shell) -> None:
    for seed, options in ((1, ()), (2, ()), (3, ()), (4, ()), (5, ("--fallback", "none"))):
        train(shell, seed)
        shell.ok("models", "sign", "press", *options)
    train(shell, 6)
    shell.fails(2, "models", "sign", "press", "--fallback", "9.9.9", says="no signed release of press has this version")
    shell.ok("models", "sign", "press", "--fallback", "1.0.0", "--fallback", "1.3.0")
    assert [fallbacks for _, _, _, fallbacks in listed(shell)] == [
        [],
        ["1.0.0"],
        ["1.0.0", "1.1.0"],
        ["1.1.0", "1.2.0"],
        [],
        ["1.0.0", "1.3.0"],
    ]


def test_signing_again_changes_nothing_and_verify_checks_everything(shell: Shell) -> None:
    train(shell, 1)
    shell.ok("models", "sign", "press")
    before = (shell.folder / "repo" / "metadata" / "timestamp.json").read_bytes()
    assert "is signed already: nothing was changed" in shell.run("models", "sign", "press").stderr
    assert (shell.folder / "repo" / "metadata" / "timestamp.json").read_bytes() == before
    for name in ((), ("press",), ("press@1.0.0",)):
        assert "2 files are what was signed" in shell.ok("models", "verify", *name)


# ── what bad input gets ─────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_model_or_version_is_refused_with_the_closest(shell: Shell) -> None:
    train(shell, 1)
    shell.ok("models", "sign", "press")
    for verb in ("show", "sign", "verify"):
        shell.fails(4, "models", verb, "pres", says="'pres' → did you mean 'press'?")
        shell.fails(4, "models", verb, "press@1.0.1", says="1.0.0")
        shell.fails(2, "models", verb, "press@", says="expected NAME or NAME@VERSION")


Damage = Callable[[Path], object]
DAMAGE: dict[str, Damage] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "tampered": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_bundle_is_refused_before_signing_and_found_after_it(shell: Shell, damage: Damage) -> None:
    train(shell, 1)
    (trained,) = (shell.folder / ".edgectl" / "registry").rglob("*.bundle")
    whole = trained.read_bytes()
    damage(trained)
    shell.fails(40, "models", "sign", "press", says=trained.name)
    assert listed(shell) == [("press", "1.0.0", False, [])]
    trained.write_bytes(whole)
    shell.ok("models", "sign", "press")
    (signed,) = (shell.folder / "repo").rglob("*.bundle")
    damage(signed)
    shell.fails(40, "models", "verify", says=signed.name)
    shell.fails(40, "models", "verify", "press", says=signed.name)


def test_a_tampered_manifest_is_found(shell: Shell) -> None:
    train(shell, 1)
    shell.ok("models", "sign", "press")
    (manifest,) = (shell.folder / "repo" / "targets" / "releases").rglob("*.json")
    manifest.write_bytes(manifest.read_bytes().replace(b"1.0.0", b"1.0.1"))
    shell.fails(40, "models", "list", says=manifest.name)
    shell.fails(40, "models", "verify", says=manifest.name)


def test_a_signed_version_is_never_signed_again_with_other_bundles(shell: Shell) -> None:
    train(shell, 1)
    shell.ok("models", "sign", "press")
    for path in (shell.folder / ".edgectl" / "registry" / "press" / "1.0.0").iterdir():
        path.unlink()
    (shell.folder / ".edgectl" / "registry" / "press" / "1.0.0").rmdir()
    assert train(shell, 2) == "1.0.0"
    shell.fails(40, "models", "sign", "press", says="press@1.0.0 is signed already, with other bundles")


def test_a_wrong_or_missing_passphrase_is_one_sentence_and_signs_nothing(tmp_path: Path) -> None:
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    shell = Shell(tmp_path)
    shell.ok("init", "--passphrase-file", "right")
    train(shell, 1)
    before = (tmp_path / "repo" / "metadata" / "timestamp.json").read_bytes()
    shell.fails(40, "models", "sign", "press", says="needs the passphrase")
    shell.fails(40, "models", "sign", "press", "--passphrase-file", "wrong", says="wrong passphrase for")
    shell.env = {"EDGECTL_PASSPHRASE": "wrong too"}
    shell.fails(40, "models", "sign", "press", says="wrong passphrase for")
    assert (tmp_path / "repo" / "metadata" / "timestamp.json").read_bytes() == before
    shell.ok("models", "sign", "press", "--passphrase-file", "right")
    shell.ok("models", "verify")


def test_without_the_key_of_models_nothing_is_signed(shell: Shell) -> None:
    train(shell, 1)
    (shell.folder / ".edgectl" / "keys" / "models.pem").unlink()
    shell.fails(40, "models", "sign", "press", says="the key of role models is not at")


@pytest.mark.parametrize("files", [1, 3, 4])
def test_ctrl_c_while_signing_leaves_a_repository_that_verifies(shell: Shell, files: int) -> None:
    train(shell, 1)
    shell.ok("models", "sign", "press")
    train(shell, 2)
    there = sum(1 for _ in (shell.folder / "repo").rglob("*"))
    process = shell.start("models", "sign", "press")
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        if sum(1 for _ in (shell.folder / "repo").rglob("*")) >= there + files:
            break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode in (0, 130), said
    assert "Traceback" not in said
    shell.ok("models", "verify")
    shell.ok("models", "sign", "press")
    assert [signed for _, _, signed, _ in listed(shell)] == [True, True]


@pytest.mark.needs("root")
def test_a_full_disk_while_signing_signs_nothing(shell: Shell, small_disk: Path) -> None:
    train(shell, 1)
    repo = shell.folder / "repo"
    shutil.move(repo, small_disk / "repo")
    repo.symlink_to(small_disk / "repo")
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    shell.fails(75, "models", "sign", "press", says="no space left on device")
    (small_disk / "filler").unlink()
    assert listed(shell) == [("press", "1.0.0", False, [])]
    shell.ok("models", "sign", "press")
    shell.ok("models", "verify")
