"""Detection quality on real labelled data, through a real agent: recall, false alerts per day, delay.

Each series of the Numenta Anomaly Benchmark is trained on its first 15 % with the shipped `sensor` recipe, machine-1-6
of the Server Machine Dataset on its train part with `server`; the rest is replayed through an agent process at full
speed. No label is read before the alerts are there. An alert counts for the labelled window in which it begins; one
that begins outside every window is false, even if it lasts into one. Beside each figure stand two peers that know
nothing: as many alarms at random times, and an alarm at every new high or low of any channel (one per hour at most).

    python -m bench.real_data [SHARED_DATA_FOLDER]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgectl_agent.core.batch import Float64, Int64
from edgectl_agent.core.messages import Alert, BundleRef, Release
from edgectl_agent.core.units import DAY_NS, SECOND_NS, event_time_ns, iso

from bench._report import record
from edgectl.core import evaluation
from edgectl.core.evaluation import NOTHING, Outcome, Period
from edgectl.training.pipeline import train
from edgectl.training.recipe import Recipe, find
from edgectl.training.tables import read
from tests.support.agents import AgentProcess, replay, stage

NAB = ("ec2_request_latency_system_failure", "machine_temperature_system_failure",
       "cpu_utilization_asg_misconfiguration")  # fmt: skip
SMD = "machine-1-6"
TRAIN_SHARE = 0.15
HOUR_NS = 3600 * SECOND_NS
REPLAY_S = 600.0

Window = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One series: files for training and replay, and the labelled windows within the replayed part."""

    name: str
    recipe: str
    train: Path
    rest: Path
    windows: tuple[Window, ...]


def main() -> int:
    """Measure, print and record; without the data say so and succeed."""
    default = Path(os.environ.get("EDGECTL_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    if not data.is_dir():
        print(f"skipped: no labelled data at {data}", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        run("sensor", list(nab_cases(data / "nab", Path(scratch))), Path(scratch))
        run("server", [smd_case(data / "smd", Path(scratch))], Path(scratch))
    return 0


def run(name: str, cases: Sequence[Case], scratch: Path) -> None:
    """All cases of one recipe, pooled."""
    total = dict.fromkeys(("agent", "random", "new high or low"), NOTHING)
    for case in cases:
        recipe = find(case.recipe, None)
        alerts = alerts_of(recipe, case, scratch / f"node-{case.name}")
        table = read([case.rest], recipe, sort=True)
        span = (int(table.event_time[0]), int(table.event_time[-1]))
        onsets = sorted({a.onset_ns for a in alerts})
        outcomes = {
            "agent": judge(onsets, case.windows, span),
            "random": at_random(len(onsets), case.windows, span),
            "new high or low": judge(records(read([case.train], recipe, sort=True).values, table.event_time,
                                             table.values), case.windows, span),
        }  # fmt: skip
        print(
            f"{case.name} ({case.recipe}); open outside every window for {lasting(alerts, case, span):.1%} of the time"
        )
        for who, outcome in outcomes.items():
            print(f"  {who:16s} {shown(outcome)}")
            total[who] += outcome
    found, peer = total["agent"], total["random"]
    record(f"real.{name}.recall", found.recall, "of labelled windows", better="higher",
           peer=f"{peer.recall:.2f} by as many alarms at random times")  # fmt: skip
    record(f"real.{name}.false_alerts", found.false_per_stream_day, "per stream and day", better="lower")
    record(f"real.{name}.delay", found.delay_ns / SECOND_NS / 60, "min after the window begins",
           better="lower")  # fmt: skip


def shown(outcome: Outcome) -> str:
    return (
        f"{outcome.found:3d} of {outcome.faults:3d} windows = {outcome.found / max(outcome.faults, 1):4.0%}   "
        f"{outcome.false:4d} false in {outcome.stream_days:5.1f} days = {outcome.false_per_stream_day:5.2f} per day   "
        f"median delay {outcome.delay_ns / SECOND_NS / 60:6.0f} min"
    )


def alerts_of(recipe: Recipe, case: Case, folder: Path) -> list[Alert]:
    """Every alert record of an agent that replays the case."""
    built = train(recipe, read([case.train], recipe, sort=True)).built[0]
    ref = BundleRef(variant=built.variant, sha256=built.sha256, length=len(built.raw))
    release = Release(recipe=recipe.name, version="1.0.0", counter=1, variants=(ref,))
    channels = dict(zip((c.name for c in recipe.features.channels), recipe.columns, strict=True))
    source: dict[str, Any] = {
        **replay(case.rest),
        "format": "csv",
        "speed": "max",
        "stream": recipe.stream_column or f"={case.name}",
        "time": recipe.time_column,
        "channels": channels,
    }
    agent = AgentProcess(folder, sources={"data": source}, models={recipe.name: ["data"]})
    stage(agent.data_dir, built.raw, release)
    with agent:
        agent.wait(lambda: agent.status().sources[0].state == "ended", REPLAY_S)
        return agent.alerts()


def judge(onsets: Sequence[int], windows: Sequence[Window], span: Window) -> Outcome:
    labels = [Period(begin, end) for begin, end in windows]
    return evaluation.judge(labels, [("", at) for at in onsets], (span[1] - span[0]) / DAY_NS)


def at_random(count: int, windows: Sequence[Window], span: Window, rounds: int = 200) -> Outcome:
    """The median outcome of `count` alarms at uniform times."""
    random = np.random.default_rng(0)
    tries = [judge(sorted(random.integers(*span, count).tolist()), windows, span) for _ in range(rounds)]
    return sorted(tries, key=lambda o: (o.found, -o.false))[rounds // 2]


def records(before: Float64, time: Int64, values: Float64) -> list[int]:
    """Times at which any channel leaves the range of all its past, at most one per hour."""
    whole = np.concatenate([before, values])
    high = np.fmax.accumulate(whole, axis=0)[len(before) - 1 : -1]
    low = np.fmin.accumulate(whole, axis=0)[len(before) - 1 : -1]
    alarms: list[int] = []
    for at in time[((values > high) | (values < low)).any(axis=1)].tolist():
        if not alarms or at - alarms[-1] >= HOUR_NS:
            alarms.append(at)
    return alarms


def lasting(alerts: Sequence[Alert], case: Case, span: Window) -> float:
    """Share of the time outside the windows in which an alert was open."""
    ends = {a.id: a.changed_ns for a in alerts if a.state == "cleared"}
    grid = np.linspace(*span, 20_000)
    quiet, opened = np.ones(len(grid), bool), np.zeros(len(grid), bool)
    for begin, end in case.windows:
        quiet &= (grid < begin) | (grid > end)
    for alert in alerts:
        opened |= (grid >= alert.onset_ns) & (grid <= ends.get(alert.id, span[1]))
    return float((opened & quiet).sum() / max(quiet.sum(), 1))


# ── the data ────────────────────────────────────────────────────────────────────────────────────────────────────────


def nab_cases(folder: Path, scratch: Path) -> Iterator[Case]:
    labels = json.loads((folder / "labels" / "combined_windows.json").read_text())
    for name in NAB:
        lines = (folder / "data" / "realKnownCause" / f"{name}.csv").read_text().splitlines(keepends=True)
        cut = 1 + int(TRAIN_SHARE * (len(lines) - 1))
        train_file, rest = scratch / f"{name}-train.csv", scratch / f"{name}-rest.csv"
        train_file.write_text("".join(lines[:cut]))
        rest.write_text("".join([lines[0], *lines[cut:]]))
        begin = event_time_ns(lines[cut].split(",")[0])
        windows = [(event_time_ns(a), event_time_ns(b)) for a, b in labels[f"realKnownCause/{name}.csv"]]
        yield Case(name, "sensor", train_file, rest, tuple((a, b) for a, b in windows if b >= begin))


def smd_case(folder: Path, scratch: Path) -> Case:
    """One reading per minute; the test part follows the train part."""
    parts = np.load(folder / f"{SMD}.npz")
    start_ns = event_time_ns("2026-01-01T00:00:00Z")
    files, first = [], 0
    for part in ("train", "test"):
        path = scratch / f"{SMD}-{part}.csv"
        names = ",".join(f"m{i:02d}" for i in range(parts[part].shape[1]))
        with path.open("w") as out:
            out.write(f"ts,host,{names}\n")
            for i, row in enumerate(parts[part].tolist()):
                out.write(f"{iso(start_ns + (first + i) * 60 * SECOND_NS)},{SMD},{','.join(map(repr, row))}\n")
        files.append(path)
        begin_ns = start_ns + first * 60 * SECOND_NS
        first += len(parts[part])
    label = np.concatenate([[0], parts["label"].astype(int), [0]])
    edges = zip(np.flatnonzero(np.diff(label) == 1), np.flatnonzero(np.diff(label) == -1) - 1, strict=True)
    windows = tuple((begin_ns + int(a) * 60 * SECOND_NS, begin_ns + int(b) * 60 * SECOND_NS) for a, b in edges)
    return Case(SMD, "server", files[0], files[1], windows)


if __name__ == "__main__":
    sys.exit(main())
