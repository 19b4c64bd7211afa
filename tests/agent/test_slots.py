"""A node runs the old bundle or the new one, never neither, and never goes below what it ran."""

from __future__ import annotations

import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from edgectl_agent.core.bundle import digest
from edgectl_agent.core.errors import AttackError, EdgeError, StorageError, TrustError, UsageError
from edgectl_agent.core.messages import BundleRef, Epoch, Quarantine, Release
from edgectl_agent.slots import SlotContent, Slots

from tests.support.powercut import PowerCut, die_at, operations


def bundle(n: int) -> bytes:
    return b"bundle %d " % n + bytes(5000)


def release(n: int, *fallbacks: int) -> bytes:
    """Release ``n.0`` with counter `n`, which permits to return to the bundles of `fallbacks`."""
    raw = bundle(n)
    return msgspec.json.encode(
        Release(
            recipe="press",
            version=f"{n}.0",
            counter=n,
            variants=(BundleRef(variant="fp32", sha256=digest(raw), length=len(raw)),),
            fallbacks=tuple(digest(bundle(f)) for f in fallbacks),
        )
    )


def epoch(number: int) -> Epoch:
    return Epoch(number=number, operator="ana")


def install(slots: Slots, n: int, *fallbacks: int) -> None:
    slots.stage("press", bundle(n), release(n, *fallbacks), epoch(n))
    slots.activate("press")


def running(slots: Slots) -> str:
    active = slots.active("press")
    assert active is not None
    assert digest(active.bundle_raw) == active.digest
    assert active.digest in [v.sha256 for v in active.release.variants]
    return active.release.version


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "slots", clock=lambda: 77)


def test_a_fresh_node_has_no_recipe(slots: Slots) -> None:
    assert slots.recipes() == ()
    assert slots.active("press") is None
    assert slots.other("press") is None
    assert slots.floor("press") == 0
    assert slots.quarantined() == ()


def test_a_staged_bundle_does_not_run_before_it_is_activated(slots: Slots) -> None:
    install(slots, 1)
    slots.stage("press", bundle(2), release(2, 1), epoch(5))

    assert running(slots) == "1.0"
    other = slots.other("press")
    assert other is not None
    assert (other.digest, other.epoch, other.activated_ns) == (digest(bundle(2)), epoch(5), 0)
    assert slots.floor("press") == 1


def test_activation_flips_the_slots_and_raises_the_floor(slots: Slots, tmp_path: Path) -> None:
    install(slots, 1)
    install(slots, 2, 1)

    again = Slots(tmp_path / "slots")
    active, other = again.active("press"), again.other("press")
    assert active is not None
    assert other is not None
    assert active == SlotContent(
        digest=digest(bundle(2)),
        release=msgspec.json.decode(release(2, 1), type=Release),
        release_raw=release(2, 1),
        epoch=epoch(2),
        activated_ns=77,
        path=tmp_path / "slots/press/b/bundle.bin",
    )
    assert other.bundle_raw == bundle(1)
    assert again.floor("press") == 2
    assert again.recipes() == ("press",)
    assert sorted(p.name for p in (tmp_path / "slots/press").rglob("*.*")) == sorted(
        ["bundle.bin", "release.json"] * 2 + ["state.json", "state.bak"]
    )


def test_staging_never_touches_the_active_slot(slots: Slots, tmp_path: Path) -> None:
    install(slots, 1)
    active = slots.active("press")
    assert active is not None
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in active.path.parent.iterdir()}
    for n in (2, 3, 4):
        slots.stage("press", bundle(n), release(n), epoch(n))

    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in active.path.parent.iterdir()} == before
    assert running(slots) == "1.0"


def test_revert_returns_to_a_permitted_bundle_and_keeps_the_floor(slots: Slots) -> None:
    install(slots, 1)
    install(slots, 2, 1)

    assert slots.revert("press").release.version == "1.0"
    assert running(slots) == "1.0"
    assert slots.floor("press") == 2


def test_revert_to_a_bundle_that_is_not_permitted_is_refused(slots: Slots) -> None:
    install(slots, 1)
    install(slots, 2)

    with pytest.raises(AttackError, match=r"press 2\.0 does not permit to return to 1\.0") as refusal:
        slots.revert("press")
    assert refusal.value.reason == "not-permitted"
    assert running(slots) == "2.0"


def test_revert_without_an_earlier_bundle_says_so(slots: Slots) -> None:
    install(slots, 1)

    with pytest.raises(EdgeError, match="there is no earlier bundle of press to return to"):
        slots.revert("press")


def test_what_was_reverted_is_not_activated_again_by_mistake(slots: Slots) -> None:
    install(slots, 1)
    install(slots, 2, 1)
    slots.revert("press")

    with pytest.raises(UsageError, match="nothing is staged for press"):
        slots.activate("press")
    install(slots, 2, 1)
    assert running(slots) == "2.0"


def test_an_older_release_is_not_activated_unless_the_running_one_permits_it(slots: Slots) -> None:
    install(slots, 3)
    slots.stage("press", bundle(2), release(2), epoch(9))
    with pytest.raises(AttackError, match=r"press 2\.0 has release counter 2, counter 3 ran here"):
        slots.activate("press")
    assert running(slots) == "3.0"

    install(slots, 4, 2)
    install(slots, 2)
    assert (running(slots), slots.floor("press")) == ("2.0", 4)


def test_a_quarantine_is_durable_keeps_the_highest_epoch_and_ends_with_an_activation(
    slots: Slots, tmp_path: Path
) -> None:
    install(slots, 1)
    bad = digest(bundle(2))
    slots.quarantine("press", bad, 7, "golden vectors")
    slots.quarantine("press", bad, 5, "again")

    again = Slots(tmp_path / "slots")
    assert again.quarantined() == (Quarantine(recipe="press", bundle=bad, epoch=7, reason="again"),)
    assert running(again) == "1.0"
    install(again, 2, 1)
    assert again.quarantined() == ()


def test_a_manifest_that_does_not_list_the_bundle_is_refused(slots: Slots) -> None:
    with pytest.raises(TrustError, match="has no bundle"):
        slots.stage("press", bundle(1), release(2), None)
    with pytest.raises(TrustError, match="does not decode"):
        slots.stage("press", bundle(1), b"{", None)
    assert slots.active("press") is None


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden"])
def test_a_recipe_whose_name_is_a_path_is_refused(slots: Slots, name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a recipe"):
        slots.active(name)


# ── crashes and damage ──────────────────────────────────────────────────────────────────────────────────────────────


def update(folder: Path) -> None:
    install(Slots(folder), 3, 1, 2)


def go_back(folder: Path) -> None:
    slots = Slots(folder)
    slots.quarantine("press", digest(bundle(2)), 4, "bad")
    slots.revert("press")


@pytest.mark.parametrize(
    ("work", "installed", "versions"),
    [
        (update, [(1,)], ["1.0", "3.0"]),
        (update, [(1,), (2, 1)], ["2.0", "3.0"]),
        (go_back, [(1,), (2, 1)], ["2.0", "1.0"]),
    ],
)
def test_death_before_any_file_operation_leaves_the_old_bundle_or_the_new(
    memory_folder: Path, work: Callable[[Path], None], installed: list[tuple[int, ...]], versions: list[str]
) -> None:
    before, folder = memory_folder / "before", memory_folder / "slots"
    for n, *fallbacks in installed:
        install(Slots(before), n, *fallbacks)
    shutil.copytree(before, folder)
    count = operations(lambda: work(folder))
    assert count > 8
    seen = []
    for k in range(1, count + 1):
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
        die_at(k, lambda: work(folder))

        slots = Slots(folder)
        seen.append(running(slots))
        assert slots.floor("press") == max([n for n, *_ in installed] + [int(seen[-1][0])])
        other = slots.other("press")
        assert other is None or digest(other.bundle_raw) == other.digest
        if seen[-1] == versions[0]:
            work(folder)  # nothing that death left stands in the way of doing it again
        assert running(slots) == versions[1]
    assert seen == sorted(seen, key=versions.index)
    assert set(seen) == set(versions)


@pytest.mark.parametrize("seed", range(25))
def test_a_power_cut_leaves_a_bundle_that_runs(tmp_path: Path, seed: int) -> None:
    rng, folder = random.Random(seed), tmp_path / "slots"
    slots = Slots(folder)
    install(slots, 1)
    with PowerCut(tmp_path) as disk:
        slots.stage("press", bundle(2), release(2, 1), epoch(2))
        if seed % 2:
            slots.activate("press")
    disk.cut(rng)

    assert running(Slots(folder)) == ("2.0" if seed % 2 else "1.0")


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b'{"crc32c":1,"value":{}}'])
def test_one_damaged_state_file_changes_nothing(slots: Slots, tmp_path: Path, damage: bytes) -> None:
    install(slots, 1)
    install(slots, 2, 1)
    slots.quarantine("press", "0" * 64, 3, "bad")
    for name in ("state.json", "state.bak"):
        path = tmp_path / "slots/press" / name
        good = path.read_bytes()
        path.write_bytes(damage)
        assert (running(slots), slots.floor("press"), len(slots.quarantined())) == ("2.0", 2, 1)
        path.write_bytes(good)


def test_without_any_state_nothing_runs_but_the_floor_holds_and_an_update_repairs_it(
    slots: Slots, tmp_path: Path
) -> None:
    install(slots, 2)
    install(slots, 3, 2)
    for name in ("state.json", "state.bak"):
        (tmp_path / "slots/press" / name).write_bytes(b"garbage")

    assert slots.active("press") is None
    assert slots.floor("press") == 3
    with pytest.raises(AttackError):
        install(slots, 1)
    install(slots, 4)
    assert running(slots) == "4.0"


def test_a_damaged_bundle_is_named_and_the_way_back_stays_open(slots: Slots) -> None:
    install(slots, 1)
    install(slots, 2, 1)
    active = slots.active("press")
    assert active is not None
    active.path.write_bytes(bundle(2)[:-1])

    with pytest.raises(StorageError, match=r"bundle\.bin is damaged: its digest is") as refusal:
        active.bundle_raw
    assert refusal.value.reason == "damaged"
    assert slots.revert("press").bundle_raw == bundle(1)


def test_a_damaged_bundle_is_neither_activated_nor_returned_to(slots: Slots) -> None:
    install(slots, 1)
    slots.stage("press", bundle(2), release(2, 1), None)
    other = slots.other("press")
    assert other is not None
    other.path.write_bytes(b"")

    with pytest.raises(StorageError):
        slots.activate("press")
    assert running(slots) == "1.0"


def test_a_full_disk_leaves_both_slots_as_they_are(slots: Slots) -> None:
    install(slots, 1)
    install(slots, 2, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"bundle of press 3\.0 cannot be written: File too large") as refusal:
            slots.stage("press", bundle(3), release(3, 2), None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert refusal.value.reason == "disk-full"
    assert running(slots) == "2.0"
    assert slots.revert("press").bundle_raw == bundle(1)
