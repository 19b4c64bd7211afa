"""Runs real `edgectl` commands in the demo's workspace and shows each as the operator would type it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from edgectl.core.errors import EdgeError

EDGECTL = (sys.executable, "-m", "edgectl")
AGENT = (sys.executable, "-m", "edgectl_agent")


class StepFailed(EdgeError):
    """A command of the demo ended in another way than the story has it."""

    reason = "demo"


@dataclass(frozen=True)
class Shell:
    """A prompt in the demo's workspace."""

    folder: Path
    console: Console

    def heading(self, text: str) -> None:
        self.console.print(f"\n[bold]{text}[/bold]")

    def say(self, text: str) -> None:
        self.console.print(f"  {text}", style="dim", highlight=False)

    def run(self, *args: str, expect: int = 0, show: bool = True, quiet: bool = False) -> str:
        """Run ``edgectl ARGS`` to its end.

        Args:
            args: as typed after ``edgectl``.
            expect: the exit code that the story needs.
            show: print the command line.
            quiet: keep its output unless it fails.

        Returns:
            What it wrote to standard output.

        Raises:
            StepFailed: another exit code; the message ends with the last line that the command wrote.
        """
        if show:
            self.console.print(f"[green]$[/green] edgectl {shlex.join(args)}", highlight=False, soft_wrap=True)
        together = subprocess.PIPE if quiet else subprocess.STDOUT
        done = subprocess.run(
            [*EDGECTL, *args], cwd=self.folder, env=self._environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=together, text=True, check=False,
        )  # fmt: skip
        if done.returncode != expect:
            last = ((done.stderr or "").strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise StepFailed(f"`edgectl {shlex.join(args)}` ended with {done.returncode}, expected {expect}: {last}")
        if not quiet:
            self._indented(done.stdout)
        return done.stdout

    def detach(self, command: Sequence[str], output: Path) -> int:
        """Start a process that outlives the demo, its output in a file; returns its id."""
        # Not subprocess: its object would complain that the process is still running, which is the intention.
        into = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawn(
            command[0],
            list(command),
            self._environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(output), into, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    def _indented(self, text: str) -> None:
        for line in text.rstrip().splitlines():
            self.console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    def _environment(self) -> dict[str, str]:
        width = str(max(60, self.console.width - 2))
        return os.environ | {"EDGECTL_WORKSPACE": str(self.folder), "COLUMNS": width}


def end(pid: int, started: float, timeout_s: float = 10.0) -> None:
    """End a detached process: politely, then by force. `started` guards against a number that was given anew."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started) > 1.0:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(timeout_s)
    except psutil.NoSuchProcess:
        return
