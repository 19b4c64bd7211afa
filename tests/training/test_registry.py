from __future__ import annotations

from pathlib import Path

import pytest
from edgectl_agent.core.bundle import digest

from edgectl.core.errors import ConfigError, NothingMatched, StorageError
from edgectl.registry.directory import DirectoryRegistry
from edgectl.registry.interface import Draft


def draft(content: bytes = b"bundle", recipe: str = "press") -> Draft:
    return Draft(
        recipe=recipe,
        bundles={"fp32": content, "int8": content + b"8"},
        p99_us={"fp32": 12.0, "int8": 8.0},
        created="2026-03-14T09:12:00+00:00",
        report=b"{}",
        files={"report.txt": b"fine"},
    )


def test_versions_count_up_by_minor_and_counters_by_one(tmp_path: Path) -> None:
    registry = DirectoryRegistry(tmp_path / "registry")
    assert registry.recipes() == ()
    added = [registry.add(draft(bytes([i]))) for i in range(3)]
    added.append(registry.add(draft(b"x"), "2.5.1"))
    added.append(registry.add(draft(b"y")))
    assert [e.release.version for e in added] == ["1.0.0", "1.1.0", "1.2.0", "2.5.1", "2.6.0"]
    assert [e.release.counter for e in added] == [1, 2, 3, 4, 5]
    assert registry.entries("press") == tuple(added)
    assert registry.entry("press") == added[-1]
    assert registry.entry("press", "1.1.0") == added[1]
    assert registry.recipes() == ("press",)


def test_what_was_added_comes_back_to_the_byte(tmp_path: Path) -> None:
    registry = DirectoryRegistry(tmp_path)
    entry = registry.add(draft())
    assert registry.bundles(entry) == {digest(raw): raw for raw in (b"bundle", b"bundle8")}
    assert [ref.variant for ref in entry.release.variants] == ["fp32", "int8"]
    assert [ref.length for ref in entry.release.variants] == [6, 7]
    assert (Path(entry.location) / "report.txt").read_bytes() == b"fine"


def test_the_same_bundles_again_are_the_release_that_is_there(tmp_path: Path) -> None:
    registry = DirectoryRegistry(tmp_path)
    first = registry.add(draft())
    registry.add(draft(b"other"))
    assert registry.add(draft()) == first
    assert registry.add(draft(), "1.0.0") == first
    assert registry.find(frozenset(r.sha256 for r in first.release.variants)) == first
    assert registry.find(frozenset({"0" * 64})) is None


def test_a_version_never_changes(tmp_path: Path) -> None:
    registry = DirectoryRegistry(tmp_path)
    registry.add(draft())
    with pytest.raises(ConfigError, match=r"press 1.0.0 is there already, with other bundles"):
        registry.add(draft(b"other"), "1.0.0")
    with pytest.raises(ConfigError, match=r"--version: expected MAJOR.MINOR.PATCH such as 1.4.0, found 'new'"):
        registry.add(draft(b"other"), "new")
    assert len(registry.entries("press")) == 1


def test_unknown_names_get_the_closest_ones(tmp_path: Path) -> None:
    registry = DirectoryRegistry(tmp_path)
    registry.add(draft())
    with pytest.raises(NothingMatched) as caught:
        registry.entry("pres")
    assert str(caught.value) == "unknown trained model 'pres' → did you mean 'press'?"
    with pytest.raises(NothingMatched, match=r"unknown version of press '9.9.9'"):
        registry.entry("press", "9.9.9")


def test_a_damaged_bundle_is_noticed(tmp_path: Path) -> None:
    registry = DirectoryRegistry(tmp_path)
    entry = registry.add(draft())
    path = Path(entry.location) / f"{entry.release.variants[0].sha256}.bundle"
    path.write_bytes(b"bundlE")
    with pytest.raises(StorageError, match="does not have the digest"):
        registry.bundles(entry)
    path.unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        registry.bundles(entry)


def test_what_a_killed_run_left_is_no_release_and_goes_away(tmp_path: Path) -> None:
    registry = DirectoryRegistry(tmp_path)
    left = tmp_path / "press" / ".partial-1"
    left.mkdir(parents=True)
    (left / "release.json").write_bytes(b"{}")
    assert registry.recipes() == ()
    registry.add(draft())
    assert not left.exists()


def test_an_interruption_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    registry = DirectoryRegistry(tmp_path)
    monkeypatch.setattr("edgectl.registry.directory.os.rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        registry.add(draft())
    assert list((tmp_path / "press").iterdir()) == []


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        DirectoryRegistry(blocked).add(draft())
