"""What the operator's process takes while it works with 200 nodes over SSH: processes, threads, descriptors, memory.

200 nodes with addresses of their own (127.0.0.1 … 127.0.0.200) behind 14 real sshds, each node reached by a connection
of its own with a pinned host key; their control APIs are 200 doubles in one process that verify each update as a node
does (`bench._many_agents`). The real commands run one after the other with their default of 16 nodes at a time
(``deploy``: 8): ``collect``, ``audit`` (which surveys every node), ``deploy`` of a release to all, ``collect`` again.
The figures are the highest that were seen in /proc every 10 ms, over all commands; sshds and agents do not count.

    python -m bench.ssh_fleet
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench._report import record
from bench._ssh_fleet import SshFleet, compiled
from edgectl.connectors.ssh_pool import IDLE

NODES, PER_SERVER = 200, 15  # an sshd listens on 16 addresses at most
FORKS = 16
PROCESSES = 1
THREADS = 1 + FORKS + (IDLE + FORKS) + 3
"""The main thread, one per node under way, one per open connection (idle or in use), a watchdog and two to spare."""
DESCRIPTORS = (IDLE + FORKS) + 3 + 12
"""A socket per open connection, the standard three, and locks, the store, the repository, certificates."""
MEGABYTES = 250.0


@dataclass
class Peak:
    """Highest figures so far."""

    processes: int = 0
    threads: int = 0
    descriptors: int = 0
    megabytes: float = 0.0

    def look(self, process: psutil.Process) -> None:
        """Count once."""
        try:
            self.processes = max(self.processes, 1 + len(process.children(recursive=True)))
            self.threads = max(self.threads, process.num_threads())
            self.descriptors = max(self.descriptors, process.num_fds())
            self.megabytes = max(self.megabytes, process.memory_info().rss / 1e6)
        except psutil.NoSuchProcess:
            return


def main() -> int:
    """Measure and record."""
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as scratch:
        compiled(Path(scratch))
        with SshFleet(Path(scratch), NODES, PER_SERVER) as fleet, agents(fleet):
            fleet.release("1.0.0", 1)
            peak = Peak()
            took = {
                name: command(fleet, peak, code, *args)
                for name, code, args in (
                    ("collect", 0, ("collect",)),
                    ("audit", 0, ("audit",)),
                    ("deploy", 0, ("deploy", "press@1.0.0", "--yes")),
                    ("collect again", 0, ("collect",)),
                )
            }
    return report(peak, took)


def report(peak: Peak, took: dict[str, float]) -> int:
    """Print and record; 1 if a bound does not hold."""
    sys.stdout.write(", ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items()) + f" for {NODES} nodes\n")
    bounds = (
        ("processes", peak.processes, PROCESSES), ("threads", peak.threads, THREADS),
        ("descriptors", peak.descriptors, DESCRIPTORS), ("rss", round(peak.megabytes, 1), MEGABYTES),
    )  # fmt: skip
    met = [
        record(f"ssh.fleet200.{name}", value, "MB" if name == "rss" else "at peak", better="lower", goal=bound)
        for name, value, bound in bounds
    ]
    return 0 if all(met) else 1


def command(fleet: SshFleet, peak: Peak, code: int, *args: str) -> float:
    """Run one real command under observation; wall seconds."""
    started = time.perf_counter()
    process = fleet.shell.start(*args)
    watched = psutil.Process(process.pid)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            peak.look(watched)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        out, err = process.communicate(timeout=900)
    finally:
        ended.set()
        watcher.join()
    assert process.returncode == code, f"{args} → {process.returncode}\n{out[-2000:]}\n{err[-2000:]}"
    return time.perf_counter() - started


@contextmanager
def agents(fleet: SshFleet) -> Iterator[None]:
    """The doubles, which trust the fleet's root."""
    for name in fleet.names:
        trust = fleet.base(name) / "data" / "trust"
        trust.mkdir(parents=True)
        (trust / "root.json").write_bytes(fleet.repository.root_bytes())
    folders = [str(fleet.base(name)) for name in fleet.names]
    double = subprocess.Popen(
        [sys.executable, "-m", "bench._many_agents", *folders], stdout=subprocess.PIPE, env=dict(os.environ)
    )
    try:
        assert double.stdout is not None
        assert double.stdout.readline() == b"ready\n"
        yield
    finally:
        double.kill()
        double.communicate()


if __name__ == "__main__":
    sys.exit(main())
