"""How long `edgectl --help` takes, against an empty Python and against typer's own hello-world, in turns.

python -m bench.cli_help
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench._report import record

ROUNDS = 15
HELLO = """\
import typer

def main(name: str) -> None:
    print(f"Hello {name}")

typer.run(main)
"""


def main() -> int:
    """Measure and record."""
    with tempfile.TemporaryDirectory() as scratch:
        hello = Path(scratch, "hello.py")
        hello.write_text(HELLO)
        commands = {
            "edgectl": [str(Path(sys.executable).with_name("edgectl")), "--help"],
            "typer hello-world": [sys.executable, str(hello), "--help"],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environ = cached | {"PYTHONPYCACHEPREFIX": scratch}  # as after a pip install, which compiles
        for command in commands.values():
            took(command, environ)
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                runs[name].append(took(command, environ))
    wall = {name: statistics.median(run[0] for run in found) for name, found in runs.items()}
    cpu = {name: statistics.median(run[1] for run in found) for name, found in runs.items()}
    peers = ", ".join(f"{name}: {wall[name]:.3f} s" for name in commands if name != "edgectl")
    met = record("cli.help.wall", round(wall["edgectl"], 3), "s", better="lower", peer=peers, goal=0.2)
    peers = ", ".join(f"{name}: {cpu[name]:.3f} s" for name in commands if name != "edgectl")
    record("cli.help.cpu", round(cpu["edgectl"], 3), "CPU s", better="lower", peer=peers)
    return 0 if met else 1


def took(command: list[str], environ: dict[str, str]) -> tuple[float, float]:
    """Wall and processor seconds; the latter tell a slow command from a busy machine."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - started, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    sys.exit(main())
