"""From what an operator types to the place that it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgectl.core.errors import UsageError
from edgectl.publishing.interface import Place


def place(target: str, resolve: Callable[[str], Path], secret: Callable[[], str]) -> Place:
    """The place that `target` names: a folder, or ``http(s)://…``.

    Args:
        resolve: turns a folder as it is written into a path.
        secret: fetches the credential when one is needed; empty if there is none.

    Raises:
        UsageError: there is no such kind of place.
        ConfigError: the credential cannot be had.
    """
    scheme, colon, _ = target.partition("://")
    if not colon:
        from edgectl.publishing.folder import FolderPlace

        return FolderPlace(resolve(target))
    if scheme in ("http", "https"):
        from edgectl.publishing.web import WebPlace

        return WebPlace(target, secret())
    raise UsageError(f"{target}: expected a folder or http(s)://…, found {scheme}://")
