from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from edgectl_agent.core.bundle import digest, encode
from edgectl_agent.core.messages import Assignment, Epoch, Placement

from edgectl.core.errors import AttackError, ConfigError, LockHeld, NothingMatched, TrustError
from edgectl.trust.keys import ONLINE, KeyStore
from edgectl.trust.publication import publishing
from edgectl.trust.repository import Repository
from tests.support.bundles import make_bundle, make_release
from tests.support.operators import NODE, START, Operator, copied, deployed

PASSPHRASE = "correct horse"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed(tmp_path_factory.mktemp("template") / "mona", PASSPHRASE).folder


@pytest.fixture
def mona(tmp_path: Path, template: Path) -> Operator:
    """Has signed and deployed 1.0.0."""
    return copied(template, tmp_path / "mona", PASSPHRASE)


def contents(operator: Operator) -> dict[str, bytes]:
    return {
        str(p.relative_to(operator.folder)): p.read_bytes()
        for p in operator.folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


# ── signing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_creating_again_changes_nothing(mona: Operator) -> None:
    before = contents(mona)
    mona.later(days=3)
    assert mona.repository.create(mona.now, PASSPHRASE) is False
    assert contents(mona) == before


def test_a_repository_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no repository here → edgectl init"):
        Repository(tmp_path, KeyStore(tmp_path)).releases()


def test_a_signed_release_is_read_back_as_it_was(mona: Operator) -> None:
    release = make_release("press", "1.0.0", 1, mona.raw["1.0.0"])
    assert mona.repository.releases() == (release,)
    assert mona.repository.release("press", "1.0.0") == release
    assert mona.repository.bundle(release.variants[0].sha256) == mona.raw["1.0.0"]
    assert mona.repository.assignment() == mona.assignment("1.0.0")


def test_verifying_a_release_names_what_was_checked(mona: Operator) -> None:
    found = mona.repository.verify("press", "1.0.0")
    assert found.release.version == "1.0.0"
    assert len(found.key_ids) == 1
    assert len(found.files) == 2
    assert found.expires == START + timedelta(days=365)


def test_an_unknown_release_names_the_closest(mona: Operator) -> None:
    with pytest.raises(NothingMatched, match=r"no signed release press 1\.0\.1 → did you mean press 1\.0\.0\?"):
        mona.repository.release("press", "1.0.1")


def test_signing_the_same_release_again_changes_nothing(mona: Operator) -> None:
    before = contents(mona)
    raw = mona.raw["1.0.0"]
    mona.repository.add_release(make_release("press", "1.0.0", 1, raw), {digest(raw): raw}, None, mona.now)
    assert contents(mona) == before


def test_a_wrong_passphrase_writes_nothing(mona: Operator) -> None:
    before = contents(mona)
    repository = Repository(mona.folder / "repo", KeyStore(mona.folder / "keys"))
    raw = encode(make_bundle(2))
    release = make_release("press", "1.1.0", 2, raw)
    with pytest.raises(TrustError, match="wrong passphrase"):
        repository.add_release(release, {digest(raw): raw}, "battery staple", mona.now)
    with pytest.raises(TrustError, match="needs the passphrase"):
        repository.add_release(release, {digest(raw): raw}, None, mona.now)
    assert contents(mona) == before


def test_keys_of_another_fleet_are_refused(tmp_path: Path, mona: Operator) -> None:
    KeyStore(tmp_path / "others").create(None)
    repository = Repository(mona.folder / "repo", KeyStore(tmp_path / "others"))
    with pytest.raises(TrustError, match="another fleet"):
        repository.assign(mona.assignment("1.0.0", epoch=2), mona.now, repository.versions().timestamp)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "1.0.0"}, "exists"),
        ({"counter": 1}, "counter"),
        ({"fallbacks": ("f" * 64,)}, "unsigned"),
        ({"version": "../1"}, "malformed"),
    ],
)
def test_a_release_that_nodes_would_refuse_is_not_signed(
    mona: Operator, change: dict[str, object], reason: str
) -> None:
    before = contents(mona)
    raw = encode(make_bundle(2))
    release = msgspec.structs.replace(make_release("press", "1.1.0", 2, raw), **change)
    with pytest.raises(TrustError) as e:
        mona.repository.add_release(release, {digest(raw): raw}, PASSPHRASE, mona.now)
    assert e.value.reason == reason
    assert contents(mona) == before


def test_a_bundle_that_is_not_what_the_manifest_says_is_not_signed(mona: Operator) -> None:
    raw, other = encode(make_bundle(2)), encode(make_bundle(3))
    release = make_release("press", "1.1.0", 2, raw)
    for content in ({}, {digest(raw): other}, {digest(raw): raw[:-1]}):
        with pytest.raises(TrustError, match=r"press 1\.1\.0"):
            mona.repository.add_release(release, content, PASSPHRASE, mona.now)
    pump = encode(make_bundle(2, "pump"))
    release = make_release("press", "1.1.0", 2, pump)
    with pytest.raises(AttackError, match="pump"):
        mona.repository.add_release(release, {digest(pump): pump}, PASSPHRASE, mona.now)


# ── assigning ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_operators_cannot_both_publish(mona: Operator) -> None:
    seen = mona.repository.versions().timestamp
    mona.deploy("1.0.0", epoch=2)
    with pytest.raises(LockHeld, match="published in between") as e:
        mona.repository.assign(mona.assignment("1.0.0", epoch=3, operator="nils"), mona.now, seen)
    assert e.value.exit_code == 50
    assert mona.repository.assignment() == mona.assignment("1.0.0", epoch=2)


@pytest.mark.parametrize(("epoch", "operator"), [(4, "mona"), (5, "nils")])
def test_an_epoch_that_nodes_would_refuse_is_not_signed(mona: Operator, epoch: int, operator: str) -> None:
    mona.deploy("1.0.0", epoch=5)
    with pytest.raises(LockHeld, match="epoch 5"):
        mona.deploy("1.0.0", epoch=epoch, operator=operator)


def test_a_placement_of_something_unsigned_is_refused(mona: Operator) -> None:
    good = mona.assignment("1.0.0", epoch=2).models["press"][0]
    wrong = {
        "version": msgspec.structs.replace(good, version="9.9.9"),
        "bundle": msgspec.structs.replace(good, sha256="f" * 64),
        "variant": msgspec.structs.replace(good, variant="int8"),
    }
    for place in wrong.values():
        with pytest.raises(TrustError):
            assign(mona, place)
    with pytest.raises(TrustError, match=f"{NODE} is placed twice"):
        assign(mona, good, good)


def assign(operator: Operator, *places: Placement) -> None:
    wanted = Assignment(fleet="acme", epoch=Epoch(number=2, operator="mona"), models={"press": places})
    operator.repository.assign(wanted, operator.now, operator.repository.versions().timestamp)


def test_a_held_lock_says_who_and_since_when(mona: Operator) -> None:
    with publishing(mona.folder / "repo", START), pytest.raises(LockHeld, match=r"since 2026-03-01 12:00:00 UTC .*@"):
        mona.deploy("1.0.0", epoch=2)


def test_the_slice_of_a_node_has_what_it_needs_and_not_more(mona: Operator) -> None:
    mona.release("1.1.0", seed=2)
    release = mona.repository.release("press", "1.0.0")
    bundle = release.variants[0].sha256
    slice_ = mona.repository.slice_for(NODE)
    assert all(path.is_file() for path in slice_.values() if isinstance(path, Path))
    assert [n for n in slice_ if n.endswith(".bundle")] == [f"targets/bundles/{bundle}.{bundle}.bundle"]
    assert len([n for n in slice_ if n.startswith("targets/releases")]) == 1
    without = mona.repository.slice_for(NODE, frozenset({bundle}))
    assert set(slice_) - set(without) == {f"targets/bundles/{bundle}.{bundle}.bundle"}
    stranger = mona.repository.slice_for("nobody")
    assert {n.split("/")[1] for n in stranger if n.startswith("targets/")} == {"assignments"}


# ── the repository itself was changed ───────────────────────────────────────────────────────────────────────────────


def stored(operator: Operator, ending: str) -> Path:
    (found,) = (operator.folder / "repo").rglob(f"*{ending}")
    return found


@pytest.mark.parametrize("damage", ["tampered", "truncated", "missing"])
@pytest.mark.parametrize("ending", [".bundle", "1.0.0.json", "2.models.json", "timestamp.json", "1.targets.json"])
def test_a_changed_file_is_found_and_named(mona: Operator, ending: str, damage: str) -> None:
    path = stored(mona, ending)
    raw = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    with pytest.raises((TrustError, ConfigError)) as e:
        mona.repository.verify("press", "1.0.0")
    assert path.name in str(e.value) or (damage, ending) == ("missing", "timestamp.json")
    if ending == ".bundle":  # and it is not deployed either
        with pytest.raises(TrustError, match=path.name):
            mona.deploy("1.0.0", epoch=2)


# ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_refresh_signs_what_has_less_than_a_quarter_of_its_life_left(mona: Operator) -> None:
    repository = Repository(mona.folder / "repo", KeyStore(mona.folder / "keys"))
    assert repository.refresh(START + timedelta(days=5, hours=5)) == ()
    assert repository.refresh(START + timedelta(days=5, hours=7)) == ("timestamp",)
    assert repository.refresh(START + timedelta(days=23)) == ONLINE
    assert repository.due(START + timedelta(days=23)) == ()


def test_refresh_without_the_passphrase_leaves_what_needs_it_as_due(mona: Operator) -> None:
    late = START + timedelta(days=300)
    repository = Repository(mona.folder / "repo", KeyStore(mona.folder / "keys"))
    assert repository.refresh(late) == ONLINE
    assert repository.due(late) == ("root", "targets", "models")
    assert repository.refresh(late, PASSPHRASE) == ("root", "targets", "models")
    assert repository.due(late) == ()
    assert repository.versions().root == 2
    assert repository.expiries()["root"] == late + timedelta(days=365)
    assert repository.verify("press", "1.0.0")


def test_refresh_works_where_the_offline_keys_are_not(mona: Operator) -> None:
    for role in ("root", "targets", "models"):
        (mona.folder / "keys" / f"{role}.pem").unlink()
    repository = Repository(mona.folder / "repo", KeyStore(mona.folder / "keys"))
    assert repository.refresh(START + timedelta(days=300), PASSPHRASE) == ONLINE


def test_a_clock_that_went_back_signs_nothing(mona: Operator) -> None:
    with pytest.raises(TrustError, match="set the clock"):
        mona.repository.assign(
            mona.assignment("1.0.0", epoch=2), START - timedelta(days=1), mona.repository.versions().timestamp
        )
