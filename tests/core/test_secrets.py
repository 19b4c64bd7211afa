"""Secrets come from where fleet.yaml says that they are kept, and appear nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgectl.core.errors import ConfigError
from edgectl.inventory.types import SecretRef
from edgectl.secrets import fetch, with_password


def test_a_secret_is_the_first_line_of_what_it_refers_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_PW", "swordfish")
    (tmp_path / "pw").write_text("swordfish\r\nold one\n")
    command = (sys.executable, "-c", "print('swordfish'); print('more')")
    for ref in (SecretRef(env="EDGE_PW"), SecretRef(file="pw"), SecretRef(command=command)):
        assert fetch(ref, tmp_path) == "swordfish"
        assert "swordfish" not in str(ref)


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        (SecretRef(env="EDGE_NO_SUCH"), "secret environment variable EDGE_NO_SUCH: expected it on the first line"),
        (SecretRef(file="none"), "cannot be read: No such file or directory"),
        (SecretRef(file="empty"), "expected it on the first line, found nothing"),
        (SecretRef(command=("no-such-program",)), "secret command no-such-program: No such file or directory"),
        (SecretRef(command=(sys.executable, "-c", "print('swordfish'); exit(3)")), "ended with 3"),
    ],
)
def test_what_is_not_there_is_named_by_its_place(tmp_path: Path, ref: SecretRef, says: str) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError) as caught:
        fetch(ref, tmp_path)
    assert says in str(caught.value)
    assert "swordfish" not in str(caught.value)


def test_a_store_gets_its_password_from_its_reference(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("s/w@rd:fish\n")
    ref = SecretRef(file="pw")
    assert (
        with_password("postgresql://ops@db/edgectl", ref, tmp_path) == "postgresql://ops:s%2Fw%40rd%3Afish@db/edgectl"
    )
    assert with_password("sqlite:///x.db", None, tmp_path) == "sqlite:///x.db"
    with pytest.raises(ConfigError, match="store_password: expected a user in the store's URL"):
        with_password("postgresql://db/edgectl", ref, tmp_path)
