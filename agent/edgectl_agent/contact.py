"""``api.json`` in the data folder: how programs on this machine reach the running agent."""

from __future__ import annotations

import grp
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.durable import write_file

GROUP = "edgectl-agent"
"""Its members operate this node without being root."""


class Contact(msgspec.Struct, frozen=True, kw_only=True):
    """Where the agent listens and what it asks for; `pid` and `boot` tell one start from another."""

    url: str
    token: str
    pid: int
    boot: str = ""
    remote: str = ""
    """Where operators with a certificate connect, if anywhere."""
    ingest: str = ""
    """Where sources of type ``http`` are fed, if there are any."""


def write(folder: Path, contact: Contact) -> None:
    """Say how this agent is reached. Raises `StorageError`."""
    write_file(_file(folder), msgspec.json.encode(contact), mode_in(folder))


def mode_in(folder: Path) -> int:
    """The mode of a secret in the data folder: see `mode`."""
    return mode(folder.stat().st_mode, _group(folder))


def read(folder: Path) -> Contact | None:
    """What the agent on `folder` said; None if none runs, or none ended in order.

    Raises:
        StorageError: the file cannot be read, or is not one.
    """
    try:
        return msgspec.json.decode(_file(folder).read_bytes(), type=Contact)
    except FileNotFoundError:
        return None
    except PermissionError as e:
        raise StorageError(
            f"{_file(folder)} cannot be read: {e.strerror}", hint=f"be root, or in the group {GROUP}"
        ) from e
    except (OSError, *UNREADABLE) as e:
        raise StorageError(f"{_file(folder)} cannot be read: {e}") from e


def remove(folder: Path) -> None:
    """Nobody listens any more."""
    with suppress(OSError):
        _file(folder).unlink(missing_ok=True)


def mode(folder_mode: int, group: str) -> int:
    """The file's mode: the operators' group may read it where the folder is theirs to enter, else its owner alone."""
    entered = folder_mode & (stat.S_IRGRP | stat.S_IXGRP) == stat.S_IRGRP | stat.S_IXGRP
    return 0o640 if entered and group == GROUP else 0o600


def _group(folder: Path) -> str:
    try:
        return grp.getgrgid(folder.stat().st_gid).gr_name
    except KeyError:
        return ""


def _file(folder: Path) -> Path:
    return folder / "api.json"
