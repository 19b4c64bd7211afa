"""One attack per test: publish, update, sanity check, attack, the node still runs what it ran and says why."""

from __future__ import annotations

import errno
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from edgectl_agent.core.airgap import RECEIPT
from edgectl_agent.core.bundle import digest
from edgectl_agent.core.desired import Verdict
from edgectl_agent.core.messages import Assignment, Epoch, Placement, Quarantine
from tuf.api.metadata import Metadata, Root, Snapshot, Timestamp

from edgectl.trust import chain as chains
from edgectl.trust.keys import KeyStore, Role
from edgectl.trust.publication import LIFE, Publication, meta_file, sign
from tests.support.operators import NODE, NodeFolder, Operator, copied, deployed

FLIP = 0x01


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operator who deployed 1.0.0, and a node that runs it; copied for every story."""
    folder = tmp_path_factory.mktemp("template")
    operator = deployed(folder / "mona")
    node = NodeFolder(folder / NODE, operator)
    node.push(operator)
    assert node.update(operator.now).exit_code == 0
    return folder


@pytest.fixture
def mona(tmp_path: Path, template: Path) -> Operator:
    return copied(template / "mona", tmp_path / "mona")


@pytest.fixture
def node(tmp_path: Path, template: Path, mona: Operator) -> NodeFolder:
    """Runs 1.0.0 and is up to date."""
    shutil.copytree(template / NODE, tmp_path / NODE, symlinks=True)
    folder = NodeFolder(tmp_path / NODE, mona)
    folder.runs(mona.repository.release("press", "1.0.0"))
    return folder


def refused(node: NodeFolder, now: datetime, exit_code: int, reason: str, *words: str) -> Verdict:
    """The node says no for this reason, mentions all `words`, and runs on."""
    verdict = node.update(now)
    assert (verdict.exit_code, verdict.reason) == (exit_code, reason), verdict.message
    for word in words:
        assert word in verdict.message
    assert verdict.staged == ()
    assert node.version == "1.0.0"
    return verdict


def test_a_node_that_runs_what_it_should_is_left_alone(mona: Operator, node: NodeFolder) -> None:
    verdict = node.update(mona.now)
    assert (verdict.staged, verdict.exit_code) == ((), 0)
    assert verdict.trust is not None
    assert verdict.trust == mona.repository.versions()


@pytest.mark.parametrize("shortage", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_a_shortage_of_memory_says_nothing_of_the_metadata(
    mona: Operator, node: NodeFolder, monkeypatch: pytest.MonkeyPatch, shortage: Exception
) -> None:
    def loads(raw: bytes) -> object:
        raise shortage

    mona.release("1.1.0", seed=2)
    mona.deploy("1.1.0", epoch=2)
    node.push(mona)
    monkeypatch.setattr("tuf.api.serialization.json.json.loads", loads)
    with pytest.raises(type(shortage)):
        node.verify(mona.now)


def test_a_new_release_is_staged_and_admitted(mona: Operator, node: NodeFolder) -> None:
    release = mona.release("1.1.0", seed=2)
    mona.deploy("1.1.0", epoch=2)
    node.push(mona)
    node.update(mona.now)
    assert node.version == "1.1.0"
    assert (node.folder / "staging/press/bundle.bin").read_bytes() == mona.raw["1.1.0"]
    assert node.standing.running["press"].bundle == release.variants[0].sha256


def test_a_push_may_leave_out_the_bundle_that_a_slot_holds(mona: Operator, node: NodeFolder) -> None:
    slot = node.folder / "slots/press/a/bundle.bin"
    slot.parent.mkdir(parents=True)
    slot.write_bytes(mona.raw["1.0.0"])
    node.standing = msgspec.structs.replace(node.standing, running={})
    node.push(mona, have=frozenset({digest(mona.raw["1.0.0"])}))
    assert not list(node.spool.rglob("*.bundle"))
    assert [s.version for s in node.update(mona.now).staged] == ["1.0.0"]


def test_a_new_version_of_the_same_bundle_is_a_change(mona: Operator, node: NodeFolder) -> None:
    mona.release("1.0.1", seed=1)
    mona.deploy("1.0.1", epoch=2)
    node.push(mona)
    node.update(mona.now)
    assert node.version == "1.0.1"


def test_a_node_without_a_root_trusts_nobody(mona: Operator, node: NodeFolder) -> None:
    (node.folder / "trust" / "root.json").unlink()
    refused(node, mona.now, 40, "not-enrolled", "root.json")


# ── bytes changed on the way ────────────────────────────────────────────────────────────────────────────────────────


def next_release(mona: Operator, node: NodeFolder) -> None:
    mona.release("1.1.0", seed=2)
    mona.deploy("1.1.0", epoch=2)
    node.push(mona)


def test_a_tampered_bundle_is_refused(mona: Operator, node: NodeFolder) -> None:
    next_release(mona, node)
    bundle = node.target(".bundle")
    raw = bytearray(bundle.read_bytes())
    raw[len(raw) // 2] ^= FLIP
    bundle.write_bytes(raw)
    refused(node, mona.now, 40, "digest", ".bundle")


def test_a_truncated_bundle_is_refused(mona: Operator, node: NodeFolder) -> None:
    next_release(mona, node)
    bundle = node.target(".bundle")
    bundle.write_bytes(bundle.read_bytes()[:-100])
    refused(node, mona.now, 40, "digest", ".bundle")


def test_a_bundle_that_never_ends_is_refused(mona: Operator, node: NodeFolder) -> None:
    next_release(mona, node)
    with node.target(".bundle").open("ab") as file:
        file.truncate(10**12)
    refused(node, mona.now, 40, "digest", ".bundle")


def test_a_tampered_manifest_is_refused(mona: Operator, node: NodeFolder) -> None:
    next_release(mona, node)
    manifest = node.target("1.1.0.json")
    manifest.write_bytes(manifest.read_bytes().replace(b'"counter":2', b'"counter":9'))
    refused(node, mona.now, 40, "digest", "1.1.0.json")


@pytest.mark.parametrize("ending", [".bundle", "1.1.0.json", "fleet.json"])
def test_a_missing_target_is_named(mona: Operator, node: NodeFolder, ending: str) -> None:
    next_release(mona, node)
    node.target(ending).unlink()
    refused(node, mona.now, 40, "incomplete", ending, "not in the spool")


@pytest.mark.parametrize("name", ["timestamp.json", "3.models.json", "5.snapshot.json"])
def test_missing_metadata_is_named(mona: Operator, node: NodeFolder, name: str) -> None:
    next_release(mona, node)
    (node.spool / "metadata" / name).unlink()
    refused(node, mona.now, 40, "incomplete", name)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 16_000, b"\xff" * 64, b'{"signatures": [], "signed": 7}'])
def test_metadata_that_is_not_metadata_is_refused(mona: Operator, node: NodeFolder, content: bytes) -> None:
    next_release(mona, node)
    (node.spool / "metadata" / "timestamp.json").write_bytes(content)
    refused(node, mona.now, 40, "malformed", "timestamp.json")


def test_a_link_in_the_spool_is_not_followed(mona: Operator, node: NodeFolder, tmp_path: Path) -> None:
    next_release(mona, node)
    bundle = node.target(".bundle")
    shutil.move(bundle, tmp_path / "elsewhere")
    bundle.symlink_to(tmp_path / "elsewhere")
    refused(node, mona.now, 40, "unsafe-path", ".bundle is a link, expected a file → delete it there")


@pytest.mark.parametrize("folder", ["metadata", "targets", "targets/bundles"])
def test_a_folder_of_the_spool_that_is_a_link_is_not_followed(
    mona: Operator, node: NodeFolder, tmp_path: Path, folder: str
) -> None:
    next_release(mona, node)
    moved = shutil.move(node.spool / folder, tmp_path / "elsewhere")
    (node.spool / folder).symlink_to(moved)
    refused(node, mona.now, 40, "unsafe-path", f"{folder.split('/')[-1]} is a link, expected a folder")


def test_a_receipt_that_is_a_link_is_not_read(mona: Operator, node: NodeFolder, tmp_path: Path) -> None:
    next_release(mona, node)
    (tmp_path / "private").write_text("{}")
    (node.spool / RECEIPT).symlink_to(tmp_path / "private")
    refused(node, mona.now, 40, "unsafe-path", f"{RECEIPT} is a link, expected a file")


def test_a_pipe_in_the_spool_does_not_block(mona: Operator, node: NodeFolder) -> None:
    next_release(mona, node)
    bundle = node.target(".bundle")
    bundle.unlink()
    os.mkfifo(bundle)
    refused(node, mona.now, 40, "unsafe-path", ".bundle is not a plain file")


# ── signed by the wrong one ─────────────────────────────────────────────────────────────────────────────────────────


def test_metadata_of_another_fleet_is_refused(tmp_path: Path, mona: Operator, node: NodeFolder) -> None:
    mallory = Operator(tmp_path / "mallory")
    mallory.release("1.0.0", seed=1)
    mallory.release("6.6.6", seed=66)
    mallory.deploy("6.6.6", epoch=9)
    mallory.later(days=1)
    mallory.repository.refresh(mallory.now)
    node.push(mallory)
    refused(node, mona.now, 40, "unsigned", "timestamp.json")


def test_metadata_without_signatures_is_refused(mona: Operator, node: NodeFolder) -> None:
    next_release(mona, node)
    timestamp = node.spool / "metadata" / "timestamp.json"
    plain = msgspec.json.decode(timestamp.read_bytes())
    plain["signatures"] = []
    timestamp.write_bytes(msgspec.json.encode(plain))
    refused(node, mona.now, 40, "unsigned", "timestamp.json")


def test_the_rollout_key_cannot_introduce_a_model(mona: Operator, node: NodeFolder) -> None:
    evil = Operator(mona.folder.parent / "evil")
    evil.release("6.6.6", seed=66)
    manifest = next(evil.contents().folder.rglob("*6.6.6.json")).read_bytes()
    raw = evil.raw["6.6.6"]
    stolen = {f"bundles/{digest(raw)}.bundle": raw, "releases/press/6.6.6.json": manifest}
    mona.forge("rollout", stolen)
    mona.raw |= evil.raw
    mona.forge_assignment(mona.assignment("6.6.6", epoch=2))
    node.mirror(mona)
    refused(node, mona.now, 40, "unsigned", "6.6.6", "no trusted role")


def test_models_signed_by_the_rollout_key_are_refused(mona: Operator, node: NodeFolder) -> None:
    """The thief has all online keys, so that snapshot and timestamp vouch for the forged models metadata."""
    next_release(mona, node)
    chain = chains.load(mona.folder / "repo" / "metadata")
    chain.models.version += 1
    forged = Metadata(chain.models)
    forged.sign(mona.keys.signer("rollout"))
    raw = forged.to_bytes()
    chain.snapshot.meta["models.json"] = meta_file(chain.models.version, raw)
    publication = Publication(chain, mona.keys, mona.now)
    publication.add_roles()
    publication.write(node.spool)
    (node.spool / "metadata" / f"{chain.models.version}.models.json").write_bytes(raw)
    refused(node, mona.now, 40, "unsigned", "models.json")


def test_a_root_that_the_old_root_did_not_sign_is_refused(mona: Operator, node: NodeFolder, tmp_path: Path) -> None:
    mallory = Operator(tmp_path / "mallory")
    root = Metadata.from_bytes(mallory.repository.root_bytes())
    root.signed.version = 2
    root.sign(mallory.keys.signer("root"))
    (node.spool / "metadata" / "2.root.json").write_bytes(root.to_bytes())
    refused(node, mona.now, 40, "unsigned", "2.root.json")


# ── old, and sold as new ────────────────────────────────────────────────────────────────────────────────────────────


def test_expired_metadata_installs_nothing(mona: Operator, node: NodeFolder) -> None:
    next_release(mona, node)
    refused(node, mona.now + timedelta(days=8), 41, "expired", "timestamp")


def test_what_runs_never_expires(mona: Operator, node: NodeFolder) -> None:
    mona.later(days=200)
    refused(node, mona.now, 41, "expired")
    mona.repository.refresh(mona.now)
    node.push(mona)
    assert node.update(mona.now).exit_code == 0


def test_an_older_timestamp_is_refused(mona: Operator, node: NodeFolder, tmp_path: Path) -> None:
    shutil.copytree(node.spool, tmp_path / "old")
    next_release(mona, node)
    node.verify(mona.now)
    shutil.rmtree(node.spool)
    shutil.copytree(tmp_path / "old", node.spool)
    refused(node, mona.now, 42, "rollback", "timestamp")


def test_an_older_timestamp_is_refused_after_a_power_cut_lost_the_cache(
    mona: Operator, node: NodeFolder, tmp_path: Path
) -> None:
    shutil.copytree(node.spool, tmp_path / "old")
    next_release(mona, node)
    node.verify(mona.now)
    shutil.rmtree(node.folder / "trust" / "metadata")
    shutil.rmtree(node.spool)
    shutil.copytree(tmp_path / "old", node.spool)
    refused(node, mona.now, 42, "rollback", "timestamp")


def test_a_half_written_cache_does_no_harm(mona: Operator, node: NodeFolder) -> None:
    for file in (node.folder / "trust" / "metadata").glob("*.json"):
        file.write_bytes(b"")
    next_release(mona, node)
    assert [s.version for s in node.update(mona.now).staged] == ["1.1.0"]


def test_frozen_metadata_is_refused_with_the_clock_at_1970(mona: Operator, node: NodeFolder) -> None:
    """The rollout role ended on day 30; a thief of the online keys keeps timestamp and snapshot fresh till day 40."""
    mona.later(days=40)
    mona.release("1.1.0", seed=2)  # signs models, snapshot and timestamp, not rollout
    node.push(mona)
    refused(node, datetime(1970, 1, 1, tzinfo=UTC), 41, "expired", "rollout")


def test_the_newest_signed_time_outlives_the_cache(mona: Operator, node: NodeFolder, tmp_path: Path) -> None:
    """A timestamp that nobody saw in time, higher than all seen, must not pass once later time was seen."""
    mona.later(days=20)
    mona.repository.refresh(mona.now)
    node.push(mona)
    assert node.update(mona.now).exit_code == 0
    old = Metadata.from_bytes((node.spool / "metadata" / "timestamp.json").read_bytes())
    old.signed.version += 1
    old.signed.expires = mona.now - timedelta(days=10)
    old.sign(mona.keys.signer("timestamp"))
    (node.spool / "metadata" / "timestamp.json").write_bytes(old.to_bytes())
    refused(node, datetime(1970, 1, 1, tzinfo=UTC), 41, "expired", "timestamp")


def test_a_damaged_floor_refuses_updates_and_says_so(mona: Operator, node: NodeFolder) -> None:
    (node.folder / "trust" / "floor.json").write_bytes(b"{]")
    refused(node, mona.now, 75, "floor-damaged", "floor.json")


def test_new_keys_in_root_end_a_fast_forward_attack(mona: Operator, node: NodeFolder, tmp_path: Path) -> None:
    """A thief signed timestamp version 2^31, far in the future; the operator replaces the keys."""
    thief = Metadata.from_bytes((node.spool / "metadata" / "timestamp.json").read_bytes())
    thief.signed.version = 2**31
    thief.signed.unrecognized_fields["x-edgectl-signed"] = "2050-01-01T00:00:00Z"
    thief.signed.expires = datetime(2051, 1, 1, tzinfo=UTC)
    thief.sign(mona.keys.signer("timestamp"))
    genuine = (node.spool / "metadata" / "timestamp.json").read_bytes()
    (node.spool / "metadata" / "timestamp.json").write_bytes(thief.to_bytes())
    refused(node, mona.now, 41, "expired")
    (node.spool / "metadata" / "timestamp.json").write_bytes(genuine)
    refused(node, mona.now, 42, "rollback")

    rotate(mona, tmp_path / "new-keys")
    mona.release("1.1.0", seed=2)
    mona.deploy("1.1.0", epoch=2)
    node.push(mona)
    assert [s.version for s in node.update(mona.now).staged] == ["1.1.0"]


def rotate(operator: Operator, folder: Path) -> None:
    """Sign root 2 with new keys for timestamp and snapshot."""
    fresh = KeyStore(folder)
    fresh.create(None)
    root = Metadata[Root].from_bytes(operator.repository.root_bytes()).signed
    replaced: tuple[Role, ...] = ("timestamp", "snapshot")
    for role in replaced:
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        root.add_key(fresh.signer(role).public_key, role)
        shutil.copy(folder / f"{role}.pem", operator.folder / "keys" / f"{role}.pem")
    root.version = 2
    raw = sign(root, "root", root, operator.keys, operator.now, None)
    operator.keys._signers.clear()
    metadata = operator.folder / "repo" / "metadata"
    (metadata / "2.root.json").write_bytes(raw)
    timestamp = Metadata[Timestamp].from_bytes((metadata / "timestamp.json").read_bytes()).signed
    path = metadata / f"{timestamp.snapshot_meta.version}.snapshot.json"
    snapshot = sign(
        Metadata[Snapshot].from_bytes(path.read_bytes()).signed, "snapshot", root, operator.keys, operator.now, None
    )
    path.write_bytes(snapshot)
    timestamp.snapshot_meta = meta_file(timestamp.snapshot_meta.version, snapshot)
    (metadata / "timestamp.json").write_bytes(sign(timestamp, "timestamp", root, operator.keys, operator.now, None))


# ── signed, but not for this ────────────────────────────────────────────────────────────────────────────────────────


def test_a_bundle_of_another_release_under_a_new_name_is_refused(mona: Operator, node: NodeFolder) -> None:
    mona.release("1.1.0", seed=2)
    mixed = mona.assignment("1.1.0", epoch=2)
    place = mixed.models["press"][0]
    wrong = msgspec.structs.replace(place, sha256=digest(mona.raw["1.0.0"]))
    mona.forge_assignment(msgspec.structs.replace(mixed, models={"press": (wrong,)}))
    node.mirror(mona)
    refused(node, mona.now, 42, "mix-and-match", "1.1.0")


def test_a_bundle_of_another_recipe_is_refused(mona: Operator, node: NodeFolder) -> None:
    mona.release("2.0.0", seed=3, recipe="pump")
    place = mona.assignment("2.0.0").models["press"][0]
    manifest = next(mona.contents().folder.rglob("*2.0.0.json")).read_bytes()
    mona.forge("models", {"releases/press/2.0.0.json": manifest})
    mona.forge_assignment(Assignment(fleet="acme", epoch=Epoch(number=2, operator="mona"), models={"press": (place,)}))
    node.mirror(mona)
    refused(node, mona.now, 42, "mix-and-match", "pump 2.0.0")


def test_a_bundle_of_another_variant_is_refused(mona: Operator, node: NodeFolder) -> None:
    release = mona.release("1.1.0", seed=2)
    ref = msgspec.structs.replace(release.variants[0], variant="int8")
    lie = msgspec.structs.replace(release, variants=(ref,))
    mona.forge("models", {release.target: msgspec.json.encode(lie)})
    place = Placement(version="1.1.0", sha256=ref.sha256, variant="int8", nodes=(NODE,))
    mona.forge_assignment(Assignment(fleet="acme", epoch=Epoch(number=2, operator="mona"), models={"press": (place,)}))
    node.mirror(mona)
    refused(node, mona.now, 42, "mix-and-match", "int8", "fp32")


def test_a_recipe_whose_name_is_a_path_is_refused(mona: Operator, node: NodeFolder) -> None:
    place = mona.assignment("1.0.0").models["press"][0]
    epoch = Epoch(number=2, operator="mona")
    mona.forge_assignment(Assignment(fleet="acme", epoch=epoch, models={"../../etc": (place,)}))
    node.mirror(mona)
    refused(node, mona.now, 40, "malformed", "../../etc")


def test_a_node_that_is_placed_twice_is_told_so(mona: Operator, node: NodeFolder) -> None:
    place = mona.assignment("1.0.0").models["press"][0]
    epoch = Epoch(number=2, operator="mona")
    mona.forge_assignment(Assignment(fleet="acme", epoch=epoch, models={"press": (place, place)}))
    node.push(mona)
    refused(node, mona.now, 40, "malformed", "twice")


# ── epochs, fallbacks, quarantine ───────────────────────────────────────────────────────────────────────────────────


def test_a_lower_epoch_is_refused(mona: Operator, node: NodeFolder) -> None:
    mona.deploy("1.0.0", epoch=5)
    node.push(mona)
    assert node.update(mona.now).exit_code == 0
    mona.release("1.1.0", seed=2)
    mona.forge_assignment(mona.assignment("1.1.0", epoch=4))
    node.push(mona)
    refused(node, mona.now, 42, "old-epoch", "epoch 4", "epoch 5")


def test_an_equal_epoch_of_another_operator_is_refused(mona: Operator, node: NodeFolder) -> None:
    mona.release("1.1.0", seed=2)
    mona.forge_assignment(mona.assignment("1.1.0", epoch=1, operator="nils"))
    node.push(mona)
    refused(node, mona.now, 42, "forked-epoch", "mona", "nils")


def test_the_same_operator_may_widen_an_epoch(mona: Operator, node: NodeFolder) -> None:
    """Canary first, then the rest: two assignments of one rollout share its epoch."""
    mona.release("1.1.0", seed=2)
    mona.deploy("1.1.0", epoch=1)
    node.push(mona)
    node.update(mona.now)
    assert node.version == "1.1.0"


def test_an_older_release_that_is_not_permitted_is_refused(mona: Operator, node: NodeFolder) -> None:
    mona.release("0.9.0", seed=9)
    mona.release("1.1.0", seed=2, fallbacks=(digest(mona.raw["1.0.0"]),))
    mona.deploy("1.1.0", epoch=2)
    node.push(mona)
    node.update(mona.now)
    assert node.version == "1.1.0"
    mona.deploy("0.9.0", epoch=3)
    node.push(mona)
    verdict = node.update(mona.now)
    assert (verdict.exit_code, verdict.reason) == (42, "old-release")
    assert node.version == "1.1.0"


def test_an_older_release_that_the_running_one_permits_is_installed(mona: Operator, node: NodeFolder) -> None:
    mona.release("1.1.0", seed=2, fallbacks=(digest(mona.raw["1.0.0"]),))
    mona.deploy("1.1.0", epoch=2)
    node.push(mona)
    node.update(mona.now)
    assert node.version == "1.1.0"
    mona.deploy("1.0.0", epoch=3)
    node.push(mona)
    node.update(mona.now)
    assert node.version == "1.0.0"


def test_quarantine_holds_until_a_higher_epoch(mona: Operator, node: NodeFolder) -> None:
    next_release(mona, node)
    bad = digest(mona.raw["1.1.0"])
    quarantine = Quarantine(recipe="press", bundle=bad, epoch=2, reason="too many alerts")
    node.standing = msgspec.structs.replace(node.standing, quarantined=(quarantine,))
    refused(node, mona.now, 40, "quarantined", "epoch 2", "too many alerts")
    mona.deploy("1.1.0", epoch=3)
    node.push(mona)
    node.update(mona.now)
    assert node.version == "1.1.0"


# ── authentic, and still not fit to run ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "reason", "word"),
    [
        ("external", "external-data", "outside of the file"),
        ("unknown-op", "unknown-operator", "RandomNormalLike"),
        ("control-flow", "unknown-operator", "RandomNormalLike"),
        ("unknown-domain", "unknown-domain", "org.evil"),
        ("golden", "golden", "golden vectors"),
        ("nan", "golden", "inf"),
        ("wrong-input", "signature", "features"),
        ("garbage", "malformed", "ONNX"),
    ],
)
def test_a_model_that_must_not_run_is_not_admitted(
    mona: Operator, node: NodeFolder, kind: str, reason: str, word: str
) -> None:
    mona.release("1.1.0", seed=2, kind=kind)
    mona.deploy("1.1.0", epoch=2)
    node.push(mona)
    refused(node, mona.now, 40, reason, word)


def test_lives_are_as_documented() -> None:
    assert {role: life.days for role, life in LIFE.items()} == {
        **dict.fromkeys(("root", "targets", "models"), 365),
        **dict.fromkeys(("rollout", "snapshot"), 30),
        "timestamp": 7,
    }
