from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.errors import TrustError
from edgectl.trust.keys import GUARDED, ONLINE, ROLES, KeyStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys made with the passphrase ``correct horse``."""
    keys = tmp_path_factory.mktemp("operator") / "keys"
    KeyStore(keys).create("correct horse")
    return keys


def test_keys_are_for_their_owner_alone(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {f.name for f in folder.iterdir()} == {f"{role}.pem" for role in ROLES}
    assert {f.stat().st_mode & 0o777 for f in folder.iterdir()} == {0o600}


def test_creating_again_changes_nothing(folder: Path) -> None:
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    assert KeyStore(folder).create("another passphrase") == ()
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def test_the_passphrase_guards_what_could_introduce_a_model(folder: Path) -> None:
    keys = KeyStore(folder)
    assert [role for role in ROLES if keys.locked(role)] == list(GUARDED)
    for role in ONLINE:
        assert keys.signer(role).public_key.keytype == "ed25519"
    with pytest.raises(TrustError, match="needs the passphrase") as e:
        keys.signer("models")
    assert (e.value.exit_code, e.value.reason) == (40, "passphrase-needed")


def test_a_wrong_passphrase_is_one_sentence(folder: Path) -> None:
    with pytest.raises(TrustError) as e:
        KeyStore(folder).signer("models", "battery staple")
    assert (e.value.exit_code, e.value.reason) == (40, "wrong-passphrase")
    assert str(e.value) == f"wrong passphrase for {folder / 'models.pem'}"


def test_the_passphrase_is_asked_for_once(folder: Path) -> None:
    keys = KeyStore(folder)
    first = keys.signer("models", "correct horse")
    assert not keys.locked("models")
    assert keys.signer("models") is first


def test_without_a_passphrase_nothing_is_locked(tmp_path: Path) -> None:
    KeyStore(tmp_path / "keys").create(None)
    keys = KeyStore(tmp_path / "keys")
    assert not any(keys.locked(role) for role in ROLES)
    assert (
        keys.signer("root", "needless").public_key.keyid == KeyStore(tmp_path / "keys").signer("root").public_key.keyid
    )


def test_a_missing_key_says_which_and_where(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"key of role rollout is not at .*rollout\.pem") as e:
        KeyStore(tmp_path).signer("rollout")
    assert e.value.reason == "no-key"


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rollout.pem").write_bytes(content)
    with pytest.raises(TrustError, match=r"rollout\.pem is not a private key"):
        KeyStore(tmp_path).signer("rollout")
