"""A node whose disk was replaced: the store takes every alert of the new outbox, however far its sequences are."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from edgectl_agent.core.bundle import encode

from edgectl.connectors.client import NodeClient
from edgectl.connectors.local import LocalConnector
from edgectl.core.errors import RemoteRefused
from edgectl.delivery.collect import collect
from edgectl.store.store import Store
from tests.support.agents import AgentProcess, replay, stage, write_plant
from tests.support.bundles import make_bundle, make_release


def test_a_replaced_disk_costs_no_alert_that_the_new_one_acknowledged(tmp_path: Path) -> None:
    plant = tmp_path / "plant.jsonl"
    agent = AgentProcess(tmp_path / "n1", sources={"s": replay(plant, speed="max")}, models={"press": ["s"]})
    raw = encode(make_bundle(1))
    stage(agent.data_dir, raw, make_release("press", "1.0.0", 1, raw))
    node = NodeClient("n1", LocalConnector("n1", agent.folder))
    logs, heads, acknowledged = [], [], set()
    with Store("sqlite:///state.db", tmp_path) as store:
        for seed, spikes in ((1, 20), (2, 60)):
            write_plant(plant, 10, 1500, spikes, seed=seed, start_s=1_700_000_000 + seed * 100_000)
            with agent:
                agent.wait_for_end()
                acknowledged |= {alert.id for alert in agent.alerts()}
                report = node.status()
                assert node.alerts().log_id == report.outbox.log_id
                logs.append(report.outbox.log_id)
                heads.append(report.outbox.head_seq)
                done = collect(["n1"], connect=lambda name: node, store=store, forks=1, clock_ns=time.time_ns)
                assert done[0].error == ""
                assert node.status().outbox.records == 0
                with pytest.raises(RemoteRefused, match="this outbox is the log"):
                    node.release(1, "0" * 32)
                node.close()
                agent.terminate()
            for name in ("outbox", "snapshots"):
                shutil.rmtree(agent.data_dir / name)
        found = {record.alert.id for record in store.alerts.find()}
    assert logs[0] != logs[1]
    assert 0 < heads[0] < heads[1]
    assert found == acknowledged
