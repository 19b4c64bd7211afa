"""This very machine as a `Host`: a real shell and real files, without a way to it that could break."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from edgectl.core.errors import NodeUnreachable, RemoteRefused, StorageError
from edgectl.files import write_file
from edgectl.machine.interface import Done, Host, Told


class ThisHost(Host):
    """Commands run by `shell` in the environment `env`; root is whoever runs the test, if at all."""

    def __init__(self, name: str = "this", shell: tuple[str, ...] = ("sh",), env: dict[str, str] | None = None) -> None:
        self.name = name
        self._shell, self._env = shell, env

    def run(self, command: str, *, stdin: bytes = b"", root: bool = False, timeout_s: float = 60.0) -> Done:
        if root and os.geteuid() != 0:
            raise RemoteRefused("this user is not root", status=403)
        try:
            done = subprocess.run(
                [*self._shell, "-c", command], input=stdin, capture_output=True, timeout=timeout_s, env=self._env,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as e:
            raise NodeUnreachable(f"{self.name}: no end within {timeout_s:g} s") from e
        status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Done(status, done.stdout, done.stderr)

    def read(self, path: str, *, root: bool = False) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise StorageError(f"{path}: {e.strerror}") from e

    def write(
        self, path: str, content: bytes | Path, *, mode: int = 0o644, root: bool = False, told: Told | None = None
    ) -> bool:
        raw = content if isinstance(content, bytes) else content.read_bytes()
        if told is not None:
            told(len(raw))
        return write_file(Path(path), raw, mode)
