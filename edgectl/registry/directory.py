"""A registry that is a folder: readable without any tool, and good for one operator.

``<root>/<recipe>/<version>/`` holds ``release.json`` (unsigned), ``report.json``, ``report.txt``, ``scores.svg`` and
one ``<sha256>.bundle`` per variant. A release is written to a temporary folder beside it and renamed, so that it is
there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import msgspec
from edgectl_agent.core.bundle import digest
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import BundleRef, Release
from edgectl_agent.durable import sync_folder

from edgectl.core.errors import ConfigError, StorageError
from edgectl.core.names import unknown
from edgectl.registry.interface import VERSION, Draft, Entry, Registry, checked_version

_PARTIAL = ".partial-"
_RELEASE, _REPORT = "release.json", "report.json"


class DirectoryRegistry(Registry):
    """Releases below `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def recipes(self) -> tuple[str, ...]:
        if not self._root.is_dir():
            return ()
        return tuple(sorted(p.name for p in self._root.iterdir() if p.is_dir() and self._versions(p.name)))

    def entries(self, recipe: str) -> tuple[Entry, ...]:
        found = [self._read(recipe, version) for version in self._versions(recipe)]
        return tuple(sorted(found, key=lambda e: e.release.counter))

    def entry(self, recipe: str, version: str | None = None) -> Entry:
        versions = self._versions(recipe)
        if not versions:
            raise unknown("trained model", recipe, self.recipes(), first="edgectl train RECIPE --data FILE")
        if version is None:
            return self.entries(recipe)[-1]
        if version not in versions:
            raise unknown(f"version of {recipe}", version, versions)
        return self._read(recipe, version)

    def bundles(self, entry: Entry) -> dict[str, bytes]:
        folder = self._folder(entry.release.recipe, entry.release.version)
        found = {}
        for ref in entry.release.variants:
            path = folder / f"{ref.sha256}.bundle"
            try:
                raw = path.read_bytes()
            except OSError as e:
                raise StorageError(f"{path}: cannot be read: {e.strerror}", hint="train again") from e
            if digest(raw) != ref.sha256:
                raise StorageError(f"{path}: the content does not have the digest that names it", hint="train again")
            found[ref.sha256] = raw
        return found

    def find(self, digests: frozenset[str]) -> Entry | None:
        for recipe in self.recipes():
            for entry in self.entries(recipe):
                if frozenset(ref.sha256 for ref in entry.release.variants) == digests:
                    return entry
        return None

    def add(self, draft: Draft, version: str | None = None) -> Entry:
        refs = tuple(
            BundleRef(variant=variant, sha256=digest(raw), length=len(raw), p99_us=round(draft.p99_us[variant], 1))
            for variant, raw in draft.bundles.items()
        )
        there = self.find(frozenset(ref.sha256 for ref in refs))
        if there is not None and version in (None, there.release.version):
            return there
        entries = self.entries(draft.recipe)
        version = checked_version(version) if version is not None else _next([e.release.version for e in entries])
        if any(e.release.version == version for e in entries):
            raise ConfigError(
                f"{draft.recipe} {version} is there already, with other bundles", hint="choose another --version"
            )
        release = Release(
            recipe=draft.recipe,
            version=version,
            counter=max((e.release.counter for e in entries), default=0) + 1,
            variants=refs,
            created=draft.created,
        )
        files = {
            **{f"{ref.sha256}.bundle": raw for ref, raw in zip(refs, draft.bundles.values(), strict=True)},
            **draft.files,
            _REPORT: draft.report,
            _RELEASE: msgspec.json.format(msgspec.json.encode(release), indent=2) + b"\n",
        }
        self._write(self._folder(draft.recipe, version), files)
        return self._read(draft.recipe, version)

    def _folder(self, recipe: str, version: str) -> Path:
        return self._root / recipe / version

    def _versions(self, recipe: str) -> list[str]:
        """Versions in their own order; folders that a killed process left are none."""
        folder = self._root / recipe
        if not folder.is_dir():
            return []
        names = [p.name for p in folder.iterdir() if VERSION.fullmatch(p.name) and (p / _RELEASE).is_file()]
        return sorted(names, key=_numbers)

    def _read(self, recipe: str, version: str) -> Entry:
        folder = self._folder(recipe, version)
        try:
            release = msgspec.json.decode((folder / _RELEASE).read_bytes(), type=Release)
            report = (folder / _REPORT).read_bytes()
        except OSError as e:
            raise StorageError(f"{e.filename}: cannot be read: {e.strerror}") from e
        except UNREADABLE as e:
            raise StorageError(f"{folder / _RELEASE}: damaged: {e}", hint="delete the folder and train again") from e
        return Entry(release=release, report=report, location=str(folder))

    def _write(self, folder: Path, files: dict[str, bytes]) -> None:
        partial: Path | None = None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            for left in folder.parent.glob(f"{_PARTIAL}*"):  # a killed run's; the caller holds the workspace's lock
                shutil.rmtree(left, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
            partial.chmod(0o755)
            for name, content in files.items():
                _write_synced(partial / name, content)
            os.rename(partial, folder)
            sync_folder(folder.parent)
        except BaseException as e:
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
            if isinstance(e, OSError):
                raise StorageError(f"{folder}: cannot be written: {e.strerror}; nothing was added") from e
            raise


def _next(versions: list[str]) -> str:
    """1.0.0, then the next minor after the highest."""
    if not versions:
        return "1.0.0"
    major, minor, _ = _numbers(max(versions, key=_numbers))
    return f"{major}.{minor + 1}.0"


def _numbers(version: str) -> tuple[int, int, int]:
    major, minor, patch = version.split(".")
    return int(major), int(minor), int(patch)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
