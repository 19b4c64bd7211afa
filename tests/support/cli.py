"""Runs the real command in a process of its own, as an operator does.

shell = Shell(tmp_path)
shell.ok("init")
shell.fails(4, "nodes", "show", "nobody", says="unknown node 'nobody'")
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

COMMAND = (sys.executable, "-m", "edgectl.cli.app")


@dataclass
class Shell:
    """An operator in `folder`, without a terminal."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = COMMAND

    def run(self, *args: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """The finished command, whatever its exit code."""
        return subprocess.run(
            [*self.command, *args],
            cwd=self.folder,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *args: str) -> subprocess.Popen[str]:
        """The command, running, in its own process group."""
        return subprocess.Popen(
            [*self.command, *args],
            cwd=self.folder,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ok(self, *args: str, timeout_s: float = 120) -> str:
        """What the command printed on stdout; it must succeed."""
        done = self.run(*args, timeout_s=timeout_s)
        assert done.returncode == 0, f"edgectl {' '.join(args)} → {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def fails(self, code: int, *args: str, says: str) -> str:
        """The command must end with `code` and one sentence on stderr that contains `says`; nothing on stdout."""
        done = self.run(*args)
        shown = f"edgectl {' '.join(args)} → {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, shown
        assert says in done.stderr, shown
        assert "Traceback" not in done.stderr, shown
        assert len(done.stderr.strip().splitlines()) == 1, shown
        assert done.stdout == "", shown
        return done.stderr.strip()

    def environ(self) -> dict[str, str]:
        """The machine's environment, without this session's edgectl settings."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("EDGECTL_")}
        return {**kept, "COLUMNS": "200", **self.env}
