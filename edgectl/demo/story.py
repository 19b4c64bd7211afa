"""The demo from beginning to end, in scenes; every command line it shows is one that it ran."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
from edgectl_agent.core.units import DAY_NS
from edgectl_agent.core.wording import counted
from rich.console import Console

from edgectl.core.evaluation import Outcome, Period, judge
from edgectl.demo import logs
from edgectl.demo.broken import add_damaged_copy
from edgectl.demo.feed import Order, Settings
from edgectl.demo.fleet import DemoFolder
from edgectl.demo.latency import Collected, Fault, Summary, summarise
from edgectl.demo.shell import AGENT, Shell, StepFailed
from edgectl.demo.transactions import catch_frauds
from edgectl.generate import plant
from edgectl.measuring.scoring import one_line
from edgectl.registry.directory import DirectoryRegistry

T = TypeVar("T")

NODES: dict[str, tuple[str, ...]] = {
    "press-01": ("press-01a", "press-01b", "press-01c"),
    "press-02": ("press-02a", "press-02b", "press-02c"),
    "press-03": ("press-03a", "press-03b", "press-03c"),
    "gateway-01": ("pump-1", "pump-2", "pump-3"),
}
SEED = 11
HISTORY = 4 * 1440
SPIKES_APART = 4
"""Readings between two spikes anywhere in the plant: each machine has one every 48 minutes of its time."""
WARM_UP = 15
"""Readings until the recipe's windows are full."""
PER_SECOND = 20.0


@dataclass(frozen=True)
class Demo:
    """One run."""

    place: DemoFolder
    shell: Shell
    console: Console
    spikes: int = 204

    def play(self) -> Summary:
        """All scenes; raises `StepFailed` where reality left the script."""
        recorder = self._prepare()
        try:
            self._deploy_plant()
            self._deploy_host(recorder)
        finally:
            recorder.kill()  # it has ended by itself, unless a step before its end failed
            recorder.wait()
        self._break_a_bearing()
        summary = self._inject_spikes()
        self._stop_a_broken_model()
        self._roll_back()
        self._look()
        logs.play(self.shell)
        catch_frauds(self.shell)
        return summary

    def _prepare(self) -> subprocess.Popen[bytes]:
        self.shell.heading("1 · A fleet: keys, a signed repository, a state file")
        self.shell.run("init", "--fleet", "demo")
        host = self.place.root / "host.jsonl"
        recorder = subprocess.Popen(
            [*AGENT, "record", "--source", "host-metrics", "--every", "250ms", "--count", "200", "--out", str(host)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._write_history()
        return recorder

    def _write_history(self) -> None:
        start_ns = (time.time_ns() - 60 * DAY_NS) // DAY_NS * DAY_NS
        for name, first in (("history", 0), ("newer", 1440)):
            machines = [machine for machines in NODES.values() for machine in machines]
            with (self.place.root / f"{name}.jsonl").open("w") as file:
                for row in plant.rows(SEED, machines, first, HISTORY - first, start_ns):
                    file.write(json.dumps(row) + "\n")
        settings = Settings(seed=SEED, start_ns=start_ns, first=HISTORY, per_second=PER_SECOND, nodes=NODES)
        (self.place.plant / "feed.json").write_bytes(msgspec.json.encode(settings))

    def _deploy_plant(self) -> None:
        self.shell.heading("2 · Train on the plant's history, sign, start four agents, deploy canary first")
        self.shell.run("train", "plant", "--data", "history.jsonl")
        self.shell.run("models", "sign", "plant")
        for node in NODES:
            tier = "near-edge" if node.startswith("gateway") else "far-edge"
            self.shell.run(
                "nodes", "add", node, "--via", "local", "--tier", tier,
                "--source", f"plant=tail:plant/{node}.jsonl", "--source", "host=host-metrics:250ms",
                "--model", "plant=plant", "--model", "host=host",
            )  # fmt: skip
        self.shell.run("deploy", "plant", "--canary", "25%", "--yes")

    def _deploy_host(self, recorder: subprocess.Popen[bytes]) -> None:
        self.shell.heading("3 · The same for this machine's own CPU, memory, disk and network")
        if recorder.wait(timeout=120):
            raise StepFailed("recording this machine's metrics failed")
        self.shell.run("train", "host", "--data", "host.jsonl", quiet=True)
        self.shell.run("models", "sign", "host")
        self.shell.run("deploy", "host", "--yes", quiet=True)

    def _break_a_bearing(self) -> None:
        self.shell.heading("4 · The plant goes live, a collector follows, and a bearing breaks on press-02b")
        self.console.print("[green]$[/green] edgectl collect --follow -o jsonl > collected.jsonl &", highlight=False)
        self.place.start_collector(self.shell)
        self.place.start_feed(self.shell)
        self._sleep_readings(WARM_UP + 30, "machines run normally")
        self._order(Order(kind="bearing", machines=("press-02b",), count=60, slack=30))
        fault = self._faults()[-1]

        def alert() -> Collected | None:
            mine = (row for row in self._collected() if (row.node, row.stream) == (fault.node, fault.stream))
            return next((row for row in mine if row.onset_ns >= fault.event_ns), None)

        row = self._wait(alert, 60, "the bearing's alert")
        delay = (row.onset_ns - fault.event_ns) / plant.STEP_NS
        self.shell.say(f"onset {delay:.0f} min of plant time after the first faulty reading")
        self.shell.run("alerts", "show", row.id)
        self._sleep_readings(60, "the bearing is replaced")

    def _inject_spikes(self) -> Summary:
        self.shell.heading(f"5 · {self.spikes} spikes: from the first faulty reading accepted to the committed row")
        machines = tuple(machine for group in zip(*NODES.values(), strict=True) for machine in group)
        rounds = -(-self.spikes // len(machines))
        self._order(Order(kind="spike", machines=machines, rounds=rounds, apart=SPIKES_APART, slack=1))
        self._sleep_readings(rounds * len(machines) * SPIKES_APART + 40, "spikes")
        spikes = [fault for fault in self._faults() if fault.kind == "spike"]

        def all_found() -> Summary | None:
            summary = summarise(spikes, self._collected())
            return summary if summary.found == summary.injected else None

        try:
            summary = self._wait(all_found, 10, "every spike's alert")
        except StepFailed:  # a missed spike is a result to print, not an error of the demo
            summary = summarise(spikes, self._collected())
        self.console.print(
            f"  {counted(summary.injected, 'spike')}, {counted(summary.found, 'alert')} · "
            f"reading → row: p50 {summary.p50_ms:.0f} ms, p99 {summary.p99_ms:.0f} ms, worst {summary.worst_ms:.0f} ms",
            style="bold",
            highlight=False,
        )
        self.shell.say(one_line(self._judged()))
        return summary

    def _judged(self) -> Outcome:
        """All faults of the plant so far against all its alerts, over all the time that it was watched live."""
        faults = [Period(f.event_ns, f.until_ns, f.stream, f.kind) for f in self._faults()]
        onsets = {row.id: (row.stream, row.onset_ns) for row in self._collected()}
        live = sum((self.place.plant / f"{node}.jsonl").read_bytes().count(b"\n") for node in NODES)
        return judge(faults, onsets.values(), live * plant.STEP_NS / DAY_NS)

    def _stop_a_broken_model(self) -> None:
        self.shell.heading("6 · A release whose weights were damaged after calibration, validly signed")
        registry = DirectoryRegistry(self.place.root / ".edgectl" / "registry")
        version = add_damaged_copy(registry, "plant", datetime.now(UTC).isoformat(timespec="seconds"))
        self.shell.run("models", "sign", f"plant@{version}", quiet=True)
        self.shell.run("deploy", "plant", "--canary", "25%", "--yes", expect=20)
        self.shell.say("exit code 20: halted at the canary, everything reverted")

    def _roll_back(self) -> None:
        self.shell.heading("7 · A good new version everywhere, and back out of it with one command")
        self.shell.run("train", "plant", "--data", "newer.jsonl", quiet=True)
        self.shell.run("models", "sign", "plant", quiet=True)
        self.shell.run("deploy", "plant", "--canary", "25%", "--yes", quiet=True)
        self.shell.run("rollback", "plant", "--yes")

    def _look(self) -> None:
        self.shell.heading("8 · The fleet now")
        self.shell.run("collect", quiet=True)
        self.shell.run("status")

    def _order(self, order: Order) -> None:
        with (self.place.plant / "orders.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(order) + b"\n")
        before = len(self._faults())
        self._wait(lambda: self._faults()[before:] or None, 30, "the plant to take the order")

    def _faults(self) -> list[Fault]:
        return list(_records(self.place.plant / "faults.jsonl", Fault))

    def _collected(self) -> list[Collected]:
        return [row for row in _records(self.place.collected, Collected) if row.recipe == "plant"]

    def _sleep_readings(self, readings: float, what: str) -> None:
        seconds = readings / PER_SECOND
        with self.console.status(f"{what} ({seconds:.0f} s)"):
            time.sleep(seconds)

    def _wait(self, found: Callable[[], T | None], seconds: float, what: str) -> T:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = found()
            if value is not None:
                return value
            time.sleep(0.05)
        raise StepFailed(f"waited {seconds:.0f} s for {what}", hint=f"see the files in {self.place.root}")


def _records(path: Path, kind: type[T]) -> Iterator[T]:
    """Complete lines of a growing JSON Lines file; other lines (log messages) are passed over."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n")[:-1]:
        if line.startswith(b"{"):
            yield msgspec.json.decode(line, type=kind)
