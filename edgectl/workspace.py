"""The operator's folder: where everything of one fleet lies, and the lock that lets one operator work at a time.

```
fleet.yaml   models/NAME/recipe.yaml   repo/ (TUF)
.edgectl/    keys/  certificates/  state.db  registry/  nodes/NAME/  lock  crash/
```
It knows paths and the lock, and nothing about what the files hold.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgectl.core.errors import ConfigError, LockHeld, StorageError

ENVIRONMENT = "EDGECTL_WORKSPACE"


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths below `root`; nothing is created or read before a method says so."""

    root: Path

    @property
    def fleet_file(self) -> Path:
        return self.root / "fleet.yaml"

    @property
    def private(self) -> Path:
        """Keys and state: never in git."""
        return self.root / ".edgectl"

    @property
    def keys(self) -> Path:
        return self.private / "keys"

    @property
    def certificates(self) -> Path:
        """The newest certificate of each node."""
        return self.private / "certificates"

    @property
    def registry(self) -> Path:
        return self.private / "registry"

    @property
    def models(self) -> Path:
        """The operator's own recipes; packaged ones are the fallback."""
        return self.root / "models"

    @property
    def crashes(self) -> Path:
        return self.private / "crash"

    @property
    def wheels(self) -> Path:
        """The agent's wheel, where edgectl runs from a clone and builds it."""
        return self.private / "wheels"

    @property
    def wheelhouses(self) -> Path:
        return self.private / "wheelhouses"

    @property
    def installs(self) -> Path:
        """Install scripts that invites name."""
        return self.private / "installs"

    def node(self, name: str) -> Path:
        """Base folder of a node that runs on this machine (connector `local`)."""
        return self.private / "nodes" / name

    def resolve(self, path: str) -> Path:
        """A path as fleet.yaml writes it: relative to the folder of fleet.yaml."""
        return self.root / Path(path).expanduser()

    @contextmanager
    def lock(self, command: str, now: datetime | None = None) -> Iterator[None]:
        """Hold the workspace; the kernel frees it when the process ends, however it ends.

        Raises:
            LockHeld: another process holds it; the message says who, since when and for which command.
            StorageError: the lock file cannot be made.
        """
        path = self.private / "lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.private.mkdir(mode=0o700, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as e:
            raise StorageError(f"cannot open the lock {path}: {e.strerror}") from e
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise LockHeld(_holder(path), hint="wait for it to end, or stop it") from None
            who = f"{operator()} (pid {os.getpid()})"
            since = (now or datetime.now(UTC)).isoformat(timespec="seconds")
            _note(file, json.dumps({"who": who, "command": command, "since": since}).encode())
            try:
                yield
            finally:
                os.truncate(file, 0)  # the next holder's note must never be read as ours
        finally:
            os.close(file)


def find(folder: Path | None, environ: Mapping[str, str] | None = None) -> Workspace:
    """The workspace that the command line, the environment or the current folder names, in this order.

    It need not be initialised: see `require`.
    """
    environ = os.environ if environ is None else environ
    return Workspace(Path(folder or environ.get(ENVIRONMENT) or ".").expanduser().resolve())


def require(workspace: Workspace) -> Workspace:
    """`workspace`, if it holds a fleet. Raises `ConfigError` that says how to make one."""
    if not workspace.fleet_file.is_file():
        raise ConfigError(
            f"{workspace.root} holds no fleet.yaml",
            hint=f"run `edgectl init` there, or name the workspace with --workspace or {ENVIRONMENT}",
        )
    return workspace


def operator() -> str:
    """``user@host`` of whoever runs this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _holder(path: Path) -> str:
    try:
        note: dict[str, Any] = json.loads(path.read_bytes())
        return f"{note['who']} has held the lock since {note['since']} for `{note['command']}`"
    except (OSError, ValueError, KeyError, TypeError):  # taken this very moment: the note is not written yet
        return f"another operator holds the lock {path}"


def _note(file: int, content: bytes) -> None:
    """Who holds the lock, for people. On a full disk it is held without a note: removing things must stay possible."""
    os.truncate(file, 0)
    with suppress(OSError):
        os.pwrite(file, content, 0)
