"""Where trained releases wait to be signed, and stay for comparison. Another registry is one new file.

A registry holds drafts: it is no source of trust. What a node may run is decided by the signed repository alone.

The promise: `add` is all or nothing, also if the process is killed in it; a version that was added never changes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgectl_agent.core.bundle import Variant
from edgectl_agent.core.messages import Release

from edgectl.core.errors import ConfigError, NothingMatched

__all__ = ["VERSION", "Draft", "Entry", "Registry", "bundle_of", "checked_version"]

VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A trained release without a version.

    Attributes:
        recipe: its recipe's name.
        bundles: variant → bundle as nodes fetch it, the reference first.
        p99_us: variant → latency of one row where it was trained.
        created: ISO 8601 time.
        report: the training report as JSON.
        files: what people look at (``report.txt``, ``scores.svg``), by name.
    """

    recipe: str
    bundles: Mapping[Variant, bytes]
    p99_us: Mapping[Variant, float]
    created: str
    report: bytes
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One release in the registry. `release` is unsigned; its ``counter`` is the order of adding, from 1."""

    release: Release
    report: bytes
    location: str
    """Where a person finds it: a folder or URL."""


class Registry(ABC):
    """Trained releases by recipe and version."""

    @abstractmethod
    def recipes(self) -> tuple[str, ...]:
        """Recipes with at least one release, by name."""

    @abstractmethod
    def entries(self, recipe: str) -> tuple[Entry, ...]:
        """Releases of a recipe, oldest first; none for an unknown recipe."""

    @abstractmethod
    def entry(self, recipe: str, version: str | None = None) -> Entry:
        """One release; the newest without `version`.

        Raises:
            NothingMatched: there is none; lists the closest names.
        """

    @abstractmethod
    def bundles(self, entry: Entry) -> dict[str, bytes]:
        """SHA-256 → bundle of every variant, each checked against its digest.

        Raises:
            StorageError: missing or damaged.
        """

    @abstractmethod
    def find(self, digests: frozenset[str]) -> Entry | None:
        """The release whose bundles have exactly these digests."""

    @abstractmethod
    def add(self, draft: Draft, version: str | None = None) -> Entry:
        """Add a release, as the next minor version after the latest unless `version` says otherwise.

        The same bundles again are not added twice: the entry that holds them is returned.

        Raises:
            ConfigError: `version` is taken by other bundles, or is no version.
            StorageError: it could not be written; nothing is left behind.
        """


def bundle_of(registry: Registry, entry: Entry, variant: str | None) -> bytes:
    """The bundle of one variant, the release's first without a name.

    Raises:
        NothingMatched: the release has no such variant.
        StorageError: as `Registry.bundles`.
    """
    release = entry.release
    found = [ref for ref in release.variants if variant in (None, ref.variant)]
    if not found:
        have = ", ".join(ref.variant for ref in release.variants)
        raise NothingMatched(f"{release.recipe} {release.version} has no variant {variant!r}, it has: {have}")
    return registry.bundles(entry)[found[0].sha256]


def checked_version(version: str) -> str:
    """`version`, if it is MAJOR.MINOR.PATCH. Raises `ConfigError`."""
    if not VERSION.fullmatch(version):
        raise ConfigError(f"--version: expected MAJOR.MINOR.PATCH such as 1.4.0, found {version!r}")
    return version
