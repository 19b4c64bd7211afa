"""`edgectl repo publish` as an operator types it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.cli import Shell
from tests.support.webdav import WebDav


def test_publishing_to_a_folder_says_what_it_did_and_then_that_nothing_is_to_do(shell: Shell, tmp_path: Path) -> None:
    www = tmp_path / "www"
    planned = json.loads(shell.ok("repo", "publish", str(www), "--dry-run", "-o", "json"))
    assert planned["before"] == 0
    assert not www.exists()
    assert "version none → 1 · wrote 6 files" in shell.ok("repo", "publish", str(www))
    assert (www / "metadata" / "timestamp.json").exists()
    assert "version 1 is there already" in shell.ok("repo", "publish", str(www), "--prune")


def test_the_default_place_and_its_token_come_from_fleet_yaml(shell: Shell, tmp_path: Path) -> None:
    shell.fails(
        2, "repo", "publish", says="expected a folder or URL to publish to → name it, or say repository.publish"
    )
    with WebDav(tmp_path / "www", token="s3cret") as server:
        fleet = shell.folder / "fleet.yaml"
        text = fleet.read_text()
        said = f"dir: ./repo, publish: '{server.url}', publish_token: {{file: token}}"
        fleet.write_text(text.replace("dir: ./repo", said))
        shell.fails(3, "repo", "publish", says="token cannot be read")
        (shell.folder / "token").write_text("wrong\n")
        shell.fails(3, "repo", "publish", says="refuses our credential")
        (shell.folder / "token").write_text("s3cret\n")
        shell.ok("repo", "publish")
    shell.fails(75, "repo", "publish", says="does not answer")


def test_another_kind_of_place_is_refused_with_the_known_ones(shell: Shell) -> None:
    shell.fails(2, "repo", "publish", "ftp://example/x", says="expected a folder or http(s)://")
