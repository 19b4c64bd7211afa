"""Where the demo lives: its folders, its detached processes, and how they end."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from edgectl.core.errors import UsageError
from edgectl.demo.shell import EDGECTL, Shell, StepFailed, end

_MARK = "demo.json"


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A detached process; a process id alone could be somebody else's by now."""

    name: str
    pid: int
    started: float


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Says that a folder is a demo's, and what runs for it besides the agents."""

    processes: tuple[Process, ...] = ()


@dataclass(frozen=True)
class DemoFolder:
    """The demo's workspace with its plant inside."""

    root: Path

    @property
    def plant(self) -> Path:
        return self.root / "plant"

    @property
    def collected(self) -> Path:
        return self.root / "collected.jsonl"

    def create(self) -> None:
        """Raises `UsageError` if something else lies there, or a demo still runs in it."""
        if self.root.exists() and any(self.root.iterdir()):
            if not (self.root / _MARK).exists():
                raise UsageError(
                    f"{self.root}: expected an empty or new folder, found other files", hint="choose --dir"
                )
            if self.fleet_file.exists():
                raise UsageError(f"{self.root}: a demo is there already", hint=f"edgectl demo stop --dir {self.root}")
        self.plant.mkdir(parents=True, exist_ok=True)
        self._write(Mark())

    @property
    def fleet_file(self) -> Path:
        return self.root / "fleet.yaml"

    def start_feed(self, shell: Shell) -> None:
        command = (sys.executable, "-m", "edgectl.demo.feed", str(self.plant))
        self._remember("feed", shell.detach(command, self.root / "feed.log"))

    def start_collector(self, shell: Shell) -> None:
        self._remember("collector", shell.detach((*EDGECTL, "collect", "--follow", "-o", "jsonl"), self.collected))

    def stop(self, shell: Shell) -> None:
        """End everything and delete the folder. Raises `UsageError` if it is no demo's."""
        if not (self.root / _MARK).exists():
            raise UsageError(f"{self.root}: no demo is there", hint="name its folder with --dir")
        for process in reversed(self._read().processes):
            end(process.pid, process.started)
        if self.fleet_file.exists():
            for name in shell.run("nodes", "list", "-o", "name", show=False, quiet=True).split():
                shell.run("nodes", "stop", name, show=False, quiet=True)
        shutil.rmtree(self.root)

    def _remember(self, name: str, pid: int) -> None:
        try:
            started = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            raise StepFailed(f"the {name} ended as soon as it was started; see {self.root}") from None
        self._write(Mark(processes=(*self._read().processes, Process(name=name, pid=pid, started=started))))

    def _read(self) -> Mark:
        return msgspec.json.decode((self.root / _MARK).read_bytes(), type=Mark)

    def _write(self, mark: Mark) -> None:
        (self.root / _MARK).write_bytes(msgspec.json.encode(mark))
