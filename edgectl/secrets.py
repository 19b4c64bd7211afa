"""Fetches secrets from where fleet.yaml says that they are kept."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from edgectl.core.errors import ConfigError
from edgectl.inventory.types import SecretRef

COMMAND_S = 30.0


def with_password(url: str, ref: SecretRef | None, folder: Path) -> str:
    """A database URL with the password that `ref` names. Raises `ConfigError` as `fetch`."""
    if ref is None:
        return url
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as e:
        raise ConfigError(f"store: expected a URL such as postgresql://ops@db/edgectl, found {url!r}") from e
    if not parsed.username:
        raise ConfigError(f"store_password: expected a user in the store's URL to go with it, found {url!r}")
    return parsed.set(password=fetch(ref, folder)).render_as_string(hide_password=False)


def fetch(ref: SecretRef, folder: Path) -> str:
    """The secret that `ref` names; files are relative to `folder`.

    Raises:
        ConfigError: it is not there, is empty, or the command failed; the sentence never holds the secret.
    """
    if ref.env:
        text = os.environ.get(ref.env, "")
        where = f"environment variable {ref.env}"
    elif ref.file:
        where = f"file {folder / Path(ref.file).expanduser()}"
        try:
            text = (folder / Path(ref.file).expanduser()).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"secret {where} cannot be read: {getattr(e, 'strerror', None) or e}") from e
    else:
        where = f"command {ref.command[0]}"
        text = _run(ref.command, where)
    secret = text.partition("\n")[0].rstrip("\r")
    if not secret:
        raise ConfigError(f"secret {where}: expected it on the first line, found nothing")
    return secret


def _run(command: tuple[str, ...], where: str) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ConfigError(f"secret {where}: {getattr(e, 'strerror', None) or 'did not end in time'}") from e
    if done.returncode:
        raise ConfigError(f"secret {where} ended with {done.returncode}")
    return done.stdout
