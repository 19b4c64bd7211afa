"""Readings of a few streams with known spikes, and what the fleet's store says about them."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from edgectl_agent.core.bundle import encode
from edgectl_agent.core.messages import Alert

from edgectl.store.store import Store
from tests.support.agents import AgentProcess, stage
from tests.support.bundles import make_bundle, make_release

STREAMS, SECOND, BEGIN = 8, 10**9, 1_700_000_000
"""Streams ``m0`` … ``m7`` with a reading each second; ns in a second; the first one's time in seconds."""
Fault = tuple[str, int]
"""A stream, and the event time in ns at which its spike begins."""


def record(value: float, at: float = BEGIN) -> bytes:
    return json.dumps({"ts": at, "v": value}).encode()


def plant(seconds: int, spikes: int, first: int = 0) -> tuple[list[tuple[str, bytes]], set[Fault]]:
    """(stream, record) in event time from second `first` on, and every spike."""
    rng = random.Random(seconds + first)
    free = [(s, at) for s in range(STREAMS) for at in range(first + 100, first + seconds - 10, 60)]
    faults = set(rng.sample(free, spikes))
    high = {(stream, at + second) for stream, at in faults for second in range(4)}
    readings = [
        (f"m{stream}", record(rng.gauss(0, 1) + (30 if (stream, t) in high else 0), BEGIN + t))
        for t in range(first, first + seconds)
        for stream in range(STREAMS)
    ]
    return readings, {(f"m{stream}", (BEGIN + at) * SECOND) for stream, at in faults}


def alerts_per_fault(folder: Path, *found: list[Alert]) -> Counter[Fault]:
    """How many alerts the fleet's store holds for each spike after collecting all of `found`."""
    with Store("sqlite:///state.db", folder) as store:
        for records in found:
            store.alerts.save(records, (), 1)
        return Counter((row.alert.stream, row.alert.onset_ns) for row in store.alerts.find())


def watching(folder: Path, source: dict[str, Any], node: str = "n1") -> AgentProcess:
    """An agent that reads `source`, as agent.yaml has it; its model alerts on spikes."""
    agent = AgentProcess(
        folder,
        node=node,
        sources={"s": source},
        models={"press": ["s"]},
        actions=[{"on": "any", "type": "log"}],
        snapshot={"every": "200ms"},
        batch={"max": 256, "max_latency": "5ms"},
    )
    raw = encode(make_bundle(1))
    if not agent.data_dir.exists():
        stage(agent.data_dir, raw, make_release("press", "1.0.0", 1, raw))
    return agent


def newest_s(agent: AgentProcess) -> int:
    """Event time up to which its source has been read, in seconds since `BEGIN`."""
    return agent.status().sources[0].newest_event_ns // SECOND - BEGIN
