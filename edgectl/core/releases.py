"""How releases are named, and what the next one says: its counter, and which older bundles a node may return to."""

from __future__ import annotations

from collections.abc import Sequence

from edgectl_agent.core.messages import BundleRef, Release

from edgectl.core.errors import UsageError
from edgectl.core.names import closest

KEPT = 2
"""Releases before the new one that a node may return to, unless the operator says otherwise."""
NONE = "none"


def parse_model(text: str) -> tuple[str, str]:
    """``NAME`` or ``NAME@VERSION`` → (name, version or empty). Raises `UsageError`."""
    name, at, version = text.partition("@")
    if not name or (at and not version):
        raise UsageError(f"expected NAME or NAME@VERSION, found {text!r}")
    return name, version


def next_release(
    recipe: str,
    version: str,
    variants: tuple[BundleRef, ...],
    signed: Sequence[Release],
    *,
    fallback: Sequence[str] = (),
    created: str,
) -> Release:
    """The release to sign, above all `signed` ones of the recipe.

    Args:
        signed: signed releases of any recipe.
        fallback: versions that a node may return to, or ``none``; empty for the last `KEPT`.

    Raises:
        UsageError: a fallback that is not a signed release of this recipe, or ``none`` beside others.
    """
    mine = sorted((r for r in signed if r.recipe == recipe), key=lambda release: release.counter)
    permitted = _permitted(recipe, mine, fallback)
    digests = dict.fromkeys(ref.sha256 for release in permitted for ref in release.variants)
    return Release(
        recipe=recipe,
        version=version,
        counter=mine[-1].counter + 1 if mine else 1,
        variants=variants,
        fallbacks=tuple(digests),
        created=created,
    )


def _permitted(recipe: str, mine: Sequence[Release], fallback: Sequence[str]) -> Sequence[Release]:
    if not fallback:
        return mine[-KEPT:]
    if NONE in fallback:
        if len(fallback) > 1:
            raise UsageError(f"--fallback {NONE} does not go with other versions")
        return ()
    by_version = {release.version: release for release in mine}
    for version in fallback:
        if version not in by_version:
            raise UsageError(
                f"--fallback {version!r}: no signed release of {recipe} has this version",
                hint=closest(version, by_version),
            )
    return [by_version[version] for version in fallback]
