"""Memory of a real agent with one model and 1,000 streams, before and after an update to a second release.

Everything by the commands of an operator: init, train, sign, add a node, deploy; a writer appends a reading of each
stream, round after round, while `/v1/status` and `/metrics` are asked and while the second release comes in. MB are 10⁶
bytes of resident memory as the kernel counts them, shared libraries included.

    python -m bench.agent_memory
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from edgectl_agent.core.units import DAY_NS, iso
from rich.console import Console

from bench._report import record
from edgectl.connectors.client import NodeClient
from edgectl.connectors.local import LocalConnector
from edgectl.demo.shell import Shell
from edgectl.generate import plant

STREAMS, TRAINED_ON, DAYS = 1_000, 24, 3
GOAL_MB = 110.0
SEED = 3
ROUNDS_PER_S = 4.0
WARM_UP_ROUNDS, STEADY_ROUNDS = 20, 60
_MACHINES = tuple(f"machine-{i:04d}" for i in range(STREAMS))


def main() -> int:
    """Measure and record."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shell = Shell(folder, Console(stderr=True))
        start_ns = (time.time_ns() - 30 * DAY_NS) // DAY_NS * DAY_NS
        edgectl(shell, "init", "--fleet", "bench")
        edgectl(shell, "nodes", "add", "n1", "--source", "plant=tail:live.jsonl", "--model", "plant=plant")
        release(shell, start_ns, first=0)
        connector = LocalConnector("n1", folder / ".edgectl" / "nodes" / "n1")
        try:
            edgectl(shell, "deploy", "plant", "--yes")
            return measure(shell, connector, start_ns)
        finally:
            connector.stop()


def measure(shell: Shell, connector: LocalConnector, start_ns: int) -> int:
    client = NodeClient("n1", connector)
    agent = psutil.Process(json.loads((connector.data / "api.json").read_bytes())["pid"])
    with Writer(shell.folder / "live.jsonl", start_ns + DAYS * DAY_NS).writing() as writer:
        before = steady(agent, client, connector, writer)
        release(shell, start_ns, first=600)
        old = client.status().models[0].version
        with sampled(agent) as children:
            edgectl(shell, "deploy", "plant", "--yes")
        after = steady(agent, client, connector, writer)
    model = client.status().models[0]
    if model.version == old or model.streams != STREAMS or model.warming:
        raise SystemExit(f"expected a second version at work on {STREAMS} streams, found {model}")
    met = [
        record("agent.memory.before_update", before, "MB", better="lower", goal=GOAL_MB),
        record("agent.memory.after_update", after, "MB", better="lower", goal=GOAL_MB),
    ]
    record("agent.memory.peak", peak_mb(agent), "MB", better="lower")
    record("agent.memory.update_child_peak", max(children, default=0.0), "MB", better="lower")
    return 0 if all(met) else 1


def edgectl(shell: Shell, *args: str) -> None:
    shell.run(*args, show=False, quiet=True)


def release(shell: Shell, start_ns: int, first: int) -> None:
    """Train the shipped `plant` recipe on readings from `first` on, and sign the result."""
    history = shell.folder / "history.jsonl"
    with history.open("w") as out:
        for row in plant.rows(SEED, _MACHINES[:TRAINED_ON], first, DAYS * 1440 - first, start_ns):
            out.write(json.dumps(row) + "\n")
    edgectl(shell, "train", "plant", "--data", history.name)
    edgectl(shell, "models", "sign", "plant")


@dataclass
class Writer:
    """Appends one reading of every stream per round."""

    path: Path
    start_ns: int
    rounds: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        block = 120
        while True:
            values = {m: plant.readings(SEED, m, self.rounds, block, self.start_ns).round(4) for m in _MACHINES}
            for i in range(block):
                ts = iso(self.start_ns + self.rounds * plant.STEP_NS)
                lines = [
                    json.dumps({"ts": ts, "machine": m, **dict(zip(plant.CHANNELS, values[m][i], strict=True))}) + "\n"
                    for m in _MACHINES
                ]
                with self.path.open("a") as out:
                    out.writelines(lines)
                self.rounds += 1
                if self._stop.wait(1 / ROUNDS_PER_S):
                    return


def steady(agent: psutil.Process, client: NodeClient, connector: LocalConnector, writer: Writer) -> float:
    """Largest resident memory, MB, once the windows are full, while somebody asks for status and metrics."""
    begin = writer.rounds
    until(lambda: writer.rounds >= begin + WARM_UP_ROUNDS and client.status().models[0].streams == STREAMS)
    most = 0.0
    while writer.rounds < begin + WARM_UP_ROUNDS + STEADY_ROUNDS:
        client.status()
        connector.request("GET", "/metrics")
        most = max(most, agent.memory_info().rss / 1e6)
        time.sleep(0.2)
    return most


def until(holds: Callable[[], bool], within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"the agent did not take up {STREAMS} streams within {within_s:.0f} s")
        time.sleep(0.2)


@contextmanager
def sampled(agent: psutil.Process) -> Iterator[list[float]]:
    """Fills a list with the resident memory, MB, of the agent's children as they come and go."""
    found: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            for child in agent.children(recursive=True):
                try:
                    found.append(child.memory_info().rss / 1e6)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def peak_mb(process: psutil.Process) -> float:
    """The kernel's high-water mark (VmHWM)."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
