"""From a trained model to a signed release, and back to the proof that the repository holds what was signed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
from edgectl_agent.core.messages import Release

from edgectl.core.errors import StorageError, TrustError
from edgectl.core.names import unknown
from edgectl.core.releases import next_release
from edgectl.registry.interface import Registry
from edgectl.trust.repository import Repository


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a recipe. `counter` is 0 until it is signed; `trained` says whether the registry has it."""

    recipe: str
    version: str
    variants: tuple[str, ...]
    bytes: int
    created: str
    signed: bool
    trained: bool
    counter: int
    fallbacks: tuple[str, ...]
    """Versions that a node running this one may return to."""

    @property
    def name(self) -> str:
        """What other commands take."""
        return f"{self.recipe}@{self.version}"


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A signed release whose every byte was checked."""

    recipe: str
    version: str
    files: int
    expires: str


def rows(registry: Registry, signed: Sequence[Release]) -> list[ModelRow]:
    """Every trained or signed version, by recipe, the oldest first. Raises `StorageError` for a damaged registry."""
    drafts = {(r, e.release.version): e.release for r in registry.recipes() for e in registry.entries(r)}
    releases = {(release.recipe, release.version): release for release in signed}
    found = [_row(releases.get(key), drafts.get(key), signed) for key in {**releases, **drafts}]
    return sorted(found, key=lambda row: (row.recipe, row.counter or 10**9, row.created, row.version))


def row(name: str, version: str, registry: Registry, signed: Sequence[Release]) -> ModelRow:
    """One version; the newest trained or signed one without `version`. Raises `NothingMatched` with the closest."""
    every = rows(registry, signed)
    mine = [found for found in every if found.recipe == name]
    if not mine:
        raise unknown("model", name, {found.recipe for found in every})
    exact = [found for found in mine if not version or found.version == version]
    if not exact:
        raise unknown("version", f"{name}@{version}", [found.name for found in mine])
    return exact[-1]


def sign(
    registry: Registry,
    repository: Repository,
    recipe: str,
    version: str,
    fallback: Sequence[str],
    passphrase: Callable[[], str | None],
    now: datetime,
) -> tuple[Release, bool]:
    """Sign a trained version; returns the release, and whether it is new.

    Args:
        version: empty for the newest trained one.
        fallback: as `edgectl.core.releases.next_release`.
        passphrase: called only when there is something to sign.

    Raises:
        NothingMatched: no such trained model or version.
        TrustError: a bundle is missing, truncated or changed; the version is signed with other bundles; the key is
            missing, or the passphrase wrong. Nothing was signed.
    """
    signed = repository.releases()
    known = {r.recipe for r in signed} | set(registry.recipes())
    if recipe not in known:
        raise unknown("model", recipe, known)
    entry = registry.entry(recipe, version or None)
    draft = entry.release
    for old in signed:
        if (old.recipe, old.version) == (recipe, draft.version):
            if {ref.sha256 for ref in old.variants} != {ref.sha256 for ref in draft.variants}:
                raise TrustError(f"{recipe}@{draft.version} is signed already, with other bundles", hint="train again")
            return old, False
    release = next_release(recipe, draft.version, draft.variants, signed, fallback=fallback, created=draft.created)
    try:
        content = registry.bundles(entry)
    except StorageError as e:
        raise TrustError(e.message, hint=e.hint, reason="digest") from e
    repository.add_release(release, content, passphrase(), now)
    return release, True


def verify(repository: Repository, recipe: str, version: str) -> list[Checked]:
    """Check signatures and digests of one version, of all versions of a recipe, or of everything signed.

    Raises:
        TrustError: something is not what was signed; names the file.
        NothingMatched: nothing of that name is signed.
    """
    signed = repository.releases()
    chosen = [r for r in signed if (not recipe or r.recipe == recipe) and (not version or r.version == version)]
    if recipe and not chosen:
        names = {r.recipe for r in signed} if not version else {f"{r.recipe}@{r.version}" for r in signed}
        raise unknown("signed model", f"{recipe}@{version}" if version else recipe, names)
    found = [repository.verify(r.recipe, r.version) for r in chosen]
    return [
        Checked(
            recipe=v.release.recipe,
            version=v.release.version,
            files=len(v.files),
            expires=f"{v.expires:%Y-%m-%dT%H:%M:%SZ}",
        )
        for v in found
    ]


def _row(release: Release | None, draft: Release | None, signed: Sequence[Release]) -> ModelRow:
    shown = release or draft
    assert shown is not None, "a row is made from a release or a draft"
    allowed = frozenset(shown.fallbacks)
    older = [r for r in signed if r.recipe == shown.recipe and any(ref.sha256 in allowed for ref in r.variants)]
    return ModelRow(
        recipe=shown.recipe,
        version=shown.version,
        variants=tuple(ref.variant for ref in shown.variants),
        bytes=sum(ref.length for ref in shown.variants),
        created=shown.created,
        signed=release is not None,
        trained=draft is not None,
        counter=release.counter if release else 0,
        fallbacks=tuple(r.version for r in older),
    )
