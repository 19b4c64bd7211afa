"""Secrets that agent.yaml does not hold itself but names the file of."""

from __future__ import annotations

from pathlib import Path

from edgectl_agent.core.errors import ConfigError


def first_line(path: str, key: str) -> str:
    """A secret on the first line of a file; empty without a path. Raises `ConfigError` for one that is not there."""
    if not path:
        return ""
    try:
        found = Path(path).read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{key}: {path} cannot be read: {getattr(e, 'strerror', None) or e}") from e
    if not found:
        raise ConfigError(f"{key}: {path}: expected a token on the first line, found nothing")
    return found
