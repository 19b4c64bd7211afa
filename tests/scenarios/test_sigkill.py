"""Killed with SIGKILL at random points under load: nothing acknowledged is lost, nothing is doubled, nothing differs.

The oracle stands outside: it collects over the API while the agent lives, as `edgectl collect` does, and releases some
of what it has. ``EDGECTL_KILLS`` sets the number of kills.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import msgspec
from edgectl_agent.actions.interface import key_of
from edgectl_agent.actions.log import Entry
from edgectl_agent.core.bundle import encode
from edgectl_agent.core.messages import Alert, AlertPage, supersedes

from tests.support.agents import AgentProcess, outcome, replay, stage, write_plant
from tests.support.bundles import make_bundle, make_release

KILLS = int(os.environ.get("EDGECTL_KILLS", "100"))
STREAMS, SECONDS, SPIKES = 20, 12_000, 1_500
SPEED = 400  # 8,000 readings and about 100 alert records a second


class Collector:
    """What a store holds after collecting at least once: records by sequence, alerts merged by id."""

    def __init__(self) -> None:
        self.after = 0
        self.records: list[Alert] = []
        self.store: dict[str, Alert] = {}

    def collect(self, agent: AgentProcess, release: bool) -> None:
        """Take what there is. An agent that dies meanwhile is the point of the test."""
        try:
            while True:
                status, body = agent.call("GET", f"/v1/alerts?after={self.after}&limit=500")
                assert status == 200, body
                page = msgspec.json.decode(body, type=AlertPage)
                assert page.lost == ()
                assert [r.seq for r in page.records] == list(range(self.after + 1, self.after + 1 + len(page.records)))
                if not page.records:
                    break
                for record in page.records:
                    self._merge(record.alert)
                self.after = page.next_after
            if release and self.after:
                agent.call("POST", "/v1/alerts/release", {"through": self.after})
        except (OSError, ValueError):
            return

    def _merge(self, alert: Alert) -> None:
        self.records.append(alert)
        known = self.store.get(alert.id)
        if known is None or supersedes(alert, known):
            self.store[alert.id] = alert


def node(folder: Path, plant: Path, speed: float | str, snapshot: str = "10s") -> AgentProcess:
    """Same node name, same file, same model: the same alerts are expected."""
    return AgentProcess(
        folder,
        sources={"s": replay(plant, speed=speed)},
        models={"press": ["s"]},
        actions=[{"on": "any", "type": "log"}],
        snapshot={"every": snapshot},
        batch={"max": 256, "max_latency": "5ms"},
    )


def live_and_die(agent: AgentProcess, collector: Collector, rng: random.Random, started_in_s: float) -> None:
    """One life: a third end while starting, the others some time after the agent answers."""
    agent.start()
    if rng.random() < 1 / 3:
        time.sleep(rng.uniform(0.05, started_in_s))
    else:
        agent.wait(agent.answers)
        end = time.monotonic() + rng.uniform(0.0, 0.5)
        if rng.random() < 0.5:
            time.sleep(max(0.0, end - time.monotonic()))
        while time.monotonic() < end:
            collector.collect(agent, release=rng.random() < 0.3)
    agent.kill()


def test_killed_at_random_points_an_agent_loses_doubles_and_changes_no_alert(tmp_path: Path) -> None:
    plant = tmp_path / "plant.jsonl"
    write_plant(plant, STREAMS, SECONDS, SPIKES)
    raw = encode(make_bundle(1))
    expected = Collector()
    whole = node(tmp_path / "whole", plant, "max")
    stage(whole.data_dir, raw, make_release("press", "1.0.0", 1, raw))
    began = time.monotonic()
    with whole:
        started_in_s = time.monotonic() - began
        whole.wait_for_end()
        expected.collect(whole, release=False)

    rng, found = random.Random(7), Collector()
    agent = node(tmp_path / "killed", plant, SPEED, snapshot="40ms")
    stage(agent.data_dir, raw, make_release("press", "1.0.0", 1, raw))
    for _ in range(KILLS):
        live_and_die(agent, found, rng, started_in_s)
    killed_at = len(found.records)
    with node(tmp_path / "killed", plant, "max") as last:
        last.wait_for_end()
        assert last.status().sources[0].accepted > 0, "the file had ended before the last kill"
        found.collect(last, release=False)

    assert killed_at > 2 * KILLS, "the agent hardly ran between the kills"
    assert outcome(found.records) == outcome(expected.records)
    assert outcome(found.store.values()) == outcome(expected.store.values())
    effects = [
        Counter(
            key_of(msgspec.json.decode(line, type=Entry).alert)
            for line in (tmp_path / name / "data" / "actions.jsonl").read_bytes().splitlines()
            if line.endswith(b"}}")
        )
        for name in ("killed", "whole")
    ]
    assert effects[0] == effects[1]
    assert set(effects[0].values()) == {1}
    print(f"{KILLS} kills: {len(found.records)} records for {len(expected.records)}, {len(found.store)} alerts")
