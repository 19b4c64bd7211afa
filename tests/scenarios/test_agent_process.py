"""The real agent as a process: detecting, answering, updating, surviving."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from edgectl_agent.core.bundle import Bundle, digest, encode
from edgectl_agent.core.messages import AlertPage, UpdateResult
from edgectl_agent.slots import Slots
from onnx import TensorProto, helper, numpy_helper

from tests.support.agents import AgentProcess, outcome, replay, stage, write_plant
from tests.support.bundles import make_bundle, make_release
from tests.support.operators import NODE, Operator

RAW = encode(make_bundle(1))
LIVE = {"type": "tail", "stream": "machine", "time": "ts", "channels": {"value": "value"}}


def with_model(agent: AgentProcess, raw: bytes = RAW) -> AgentProcess:
    stage(agent.data_dir, raw, make_release("press", "1.0.0", 1, raw))
    return agent


def tailing(folder: Path, **more: Any) -> tuple[AgentProcess, Path]:
    """An agent that follows ``live.jsonl``."""
    path = folder / "live.jsonl"
    agent = AgentProcess(folder, sources={"s": LIVE | {"path": str(path)}}, models={"press": ["s"]}, **more)
    return agent, path


def write_live(path: Path, seconds: int, end_s: float, value: float = 0.1) -> None:
    """Readings of one machine, one a second, the last at `end_s`."""
    with path.open("a") as out:
        for i in range(seconds):
            reading = {"ts": end_s - seconds + 1 + i, "machine": "m0", "value": value * (-1) ** i}
            out.write(json.dumps(reading) + "\n")


# ── detecting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_killed_and_restarted_agent_finds_the_alerts_of_an_uninterrupted_run(tmp_path: Path) -> None:
    plant = tmp_path / "plant.jsonl"
    write_plant(plant, 10, 3000, 60)
    found = []
    for name, kill in (("whole", False), ("killed", True)):
        agent = with_model(
            AgentProcess(
                tmp_path / name,
                sources={"s": replay(plant, speed=1500 if kill else "max")},
                models={"press": ["s"]},
                snapshot={"every": "100ms"},
            )
        )
        with agent:
            if kill:
                agent.wait(lambda: agent.status().outbox.head_seq > 10)  # noqa: B023 - called before the next round
                agent.kill()
                agent.start()
                agent.wait(agent.answers)
            agent.wait_for_end()
            found.append(agent.alerts())
    assert len(found[0]) > 50
    assert outcome(found[0]) == outcome(found[1])
    assert len(found[1]) == len(found[0])


def test_with_a_lateness_a_killed_agent_finds_in_disorder_what_another_finds_in_order(tmp_path: Path) -> None:
    bundle = make_bundle(1)
    features = msgspec.structs.replace(bundle.features, lateness_ns=20 * 10**9)
    raw = encode(msgspec.structs.replace(bundle, features=features))
    ordered, shuffled = tmp_path / "ordered.jsonl", tmp_path / "shuffled.jsonl"
    write_plant(ordered, 5, 1500, 30)
    lines = ordered.read_text().splitlines(keepends=True)
    delay = np.random.default_rng(1).uniform(0, 20, len(lines))
    shuffled.write_text("".join(lines[i] for i in np.argsort(np.arange(len(lines)) / 5 + delay)))
    found = []
    for path, speed in ((ordered, "max"), (shuffled, 700)):
        sources = {"s": replay(path, speed=speed)}
        every = {"every": "100ms"}
        agent = AgentProcess(tmp_path / path.stem, sources=sources, models={"press": ["s"]}, snapshot=every)
        with with_model(agent, raw):
            if path == shuffled:
                agent.wait(lambda: agent.status().outbox.head_seq > 5)  # noqa: B023 - called before the next round
                assert agent.status().models[0].held > 0
                agent.kill()
                agent.start()
                agent.wait(agent.answers)
            agent.wait_for_end()
            agent.wait(lambda: agent.status().models[0].held == 0)  # noqa: B023
            assert "late" not in agent.status().models[0].counters
            found.append(agent.alerts())
    assert len(found[0]) > 20
    assert outcome(found[0]) == outcome(found[1])
    assert len(found[1]) == len(found[0])


def test_a_waiting_consumer_is_woken_by_an_alert_and_not_by_the_end_of_its_wait(tmp_path: Path) -> None:
    agent, path = tailing(tmp_path)
    with with_model(agent):
        at = time.time() - 3600
        write_live(path, 200, at)
        agent.wait(lambda: agent.status().models[0].inferences > 0)
        delays = []
        for spike in range(20):
            answer: list[bytes] = []
            poll = f"/v1/alerts?after={2 * spike}&wait=60"
            consumer = threading.Thread(target=lambda p=poll, a=answer: a.append(agent.call("GET", p)[1]))
            consumer.start()
            time.sleep(0.05)  # let the consumer wait: what is measured is the waking
            written = time.monotonic()
            write_live(path, 1, at + 1, value=50.0)
            consumer.join(90)
            delays.append(time.monotonic() - written)
            assert msgspec.json.decode(answer[0], type=AlertPage).records[0].alert.state == "open"
            at += 130
            write_live(path, 129, at)
            agent.wait(lambda n=2 * spike + 2: bool(agent.status().outbox.head_seq == n))  # type: ignore[misc]
    assert max(delays) < 30, "the poll would have ended by itself after 60 s"


def test_host_metrics_are_scored_without_any_file(tmp_path: Path) -> None:
    bundle = encode(make_bundle(1, "host", channel="memory", interval_s=0.1))
    agent = AgentProcess(tmp_path, sources={"h": {"type": "host-metrics", "every": "100ms"}}, models={"host": ["h"]})
    stage(agent.data_dir, bundle, make_release("host", "1.0.0", 1, bundle))
    with agent:
        agent.wait(lambda: agent.status().sources[0].accepted >= 3)
        assert agent.status().state == "warming"
        assert agent.status().models[0].streams == 1


def test_without_a_model_nothing_is_consumed(tmp_path: Path) -> None:
    plant = tmp_path / "plant.jsonl"
    write_plant(plant, 2, 200, 1)
    agent = AgentProcess(tmp_path, sources={"s": replay(plant, speed="max")}, models={"press": ["s"]})
    with agent:
        report = agent.status()
        assert (report.state, report.reasons) == ("warming", ("press: no model yet",))
        assert report.sources[0].accepted == 0
        assert agent.call("GET", "/v1/ready")[0] == 503
        agent.terminate()
        with_model(agent)
        agent.start()
        agent.wait(agent.answers)
        agent.wait_for_end()
        assert agent.status().sources[0].accepted == 400
        assert agent.call("GET", "/v1/ready")[0] == 200


def test_streams_beyond_the_limit_are_counted_and_not_kept(tmp_path: Path) -> None:
    plant = tmp_path / "plant.jsonl"
    write_plant(plant, 30, 200, 1)
    sources = {"s": replay(plant, speed="max")}
    agent = AgentProcess(tmp_path, sources=sources, models={"press": ["s"]}, limits={"streams": 10})
    with with_model(agent):
        agent.wait_for_end()
        model = agent.status().models[0]
        assert model.streams == 10
        assert model.counters["over_limit"] == 20 * 200
        report = agent.status()
        assert report.state == "degraded"
        assert report.reasons[0].startswith("press: new streams are refused, 10 is the limit and too few are idle")


# ── starting and ending ─────────────────────────────────────────────────────────────────────────────────────────────


def test_sigterm_ends_within_five_seconds_and_loses_no_position(tmp_path: Path) -> None:
    plant = tmp_path / "plant.jsonl"
    write_plant(plant, 5, 2000, 20)
    sources = {"s": replay(plant, speed=500)}
    agent = AgentProcess(tmp_path, sources=sources, models={"press": ["s"]}, snapshot={"every": "1h"})
    with with_model(agent):
        agent.wait(lambda: agent.status().sources[0].accepted > 500)
        waiting = threading.Thread(target=lambda: _quietly(agent, "/v1/alerts?after=0&limit=1&wait=60"))
        waiting.start()
        began = time.monotonic()
        seen = agent.status().models[0].counters["ok"]
        assert agent.terminate() == 0
        assert time.monotonic() - began < 30, "a consumer that waits 60 s must not be waited for"
        waiting.join(10)
        assert not (agent.data_dir / "api.json").exists()
        agent.start()
        agent.wait(agent.answers)
        model = agent.status().models[0]
        assert model.counters["ok"] >= seen
        agent.wait_for_end()
        report = agent.status()
        assert sum(report.models[0].counters[k] for k in ("ok", "warming")) == 5 * 2000
        assert report.sources[0].accepted < 5 * 2000


def _quietly(agent: AgentProcess, path: str) -> None:
    try:
        agent.call("GET", path)
    except OSError:
        return


def test_sighup_is_ignored(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, sources={}, models={}) as agent:
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        assert agent.answers()


def test_a_second_agent_on_the_same_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, sources={}, models={}) as first:
        assert first.process is not None
        second = AgentProcess(tmp_path, sources={}, models={})
        second.start()
        assert second.process is not None
        assert second.process.wait(30) == 50
        assert f"another agent (process {first.process.pid}) already runs on {first.data_dir}" in second.log()
        assert "Traceback" not in second.log()
        assert first.answers()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ({"api": {"listen": "192.0.2.1:1"}}, 3, "api.listen: 192.0.2.1:1 is not loopback"),
        ({"modles": {}}, 3, "modles: unknown key, did you mean 'models'?"),
        ({"data_dir": "/proc/no"}, 75, "data_dir: /proc/no cannot be used"),
    ],
)
def test_what_is_wrong_at_the_start_is_one_sentence(
    tmp_path: Path, more: dict[str, Any], code: int, message: str
) -> None:
    agent = AgentProcess(tmp_path, sources={}, models={}, **more)
    agent.start()
    assert agent.process is not None
    assert agent.process.wait(60) == code
    assert message in agent.log()
    assert len(agent.log().splitlines()) == 1


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        agent = AgentProcess(tmp_path, sources={}, models={}, api={"listen": listen})
        agent.start()
        assert agent.process is not None
        assert agent.process.wait(60) == 75
    assert agent.log().splitlines() == [f"edgectl-agent: api.listen: {listen} cannot be used: {os.strerror(98)}"]


def test_a_broken_source_degrades_the_node_and_heals_by_itself(tmp_path: Path) -> None:
    missing = tmp_path / "later.jsonl"
    agent = AgentProcess(tmp_path, sources={"s": replay(missing, speed="max")}, models={"press": ["s"]})
    with with_model(agent):
        agent.wait(lambda: agent.status().state == "degraded")
        assert "source s" in agent.status().reasons[0]
        assert "No such file" in agent.status().reasons[0]
        write_plant(missing, 2, 200, 1)
        agent.wait_for_end()
        assert agent.status().state == "healthy"


def test_a_full_outbox_holds_the_replay_back_and_collecting_lets_it_go_on(tmp_path: Path) -> None:
    plant = tmp_path / "plant.jsonl"
    write_plant(plant, 10, 6000, 200)
    found = []
    for name, limit in (("whole", "200M"), ("tight", "64k")):
        agent = with_model(
            AgentProcess(
                tmp_path / name,
                sources={"s": replay(plant, speed="max")},
                models={"press": ["s"]},
                limits={"outbox": limit},
            )
        )
        with agent:
            if name == "tight":
                # It is nearly full, and degraded for that, a moment before it refuses.
                agent.wait(lambda: "outbox is full" in "".join(agent.status().reasons[:1]))  # noqa: B023 - in this round
                report = agent.status()
                assert "outbox is full" in report.reasons[0]
                assert report.sources[0].state == "running"
                time.sleep(0.3)
                assert agent.status().sources[0].accepted == report.sources[0].accepted
                assert agent.call("GET", "/v1/ready")[0] == 503
            alerts, after = agent.alerts(), 0
            while agent.status().sources[0].state != "ended" or agent.status().outbox.head_seq > after:
                after = len(alerts)
                agent.call("POST", "/v1/alerts/release", {"through": after})
                time.sleep(0.1)
                alerts += agent.alerts(after)
            found.append(alerts)
            assert agent.status().state == "healthy"
    assert len(found[0]) == len(found[1]) > 200
    assert outcome(found[0]) == outcome(found[1])


@pytest.mark.needs("root")
def test_a_full_disk_loses_nothing_and_the_agent_goes_on_by_itself(tmp_path: Path) -> None:
    plant = tmp_path / "plant.jsonl"
    write_plant(plant, 10, 6000, 200)
    sources, models = {"s": replay(plant, speed="max")}, {"press": ["s"]}
    more: dict[str, Any] = {"actions": [{"on": "any", "type": "log"}], "snapshot": {"every": "50ms"}}
    with with_model(AgentProcess(tmp_path / "whole", sources=sources, models=models, **more)) as whole:
        whole.wait_for_end()
        expected = whole.alerts()
    agent = AgentProcess(tmp_path / "full", sources=sources, models=models, **more)
    agent.data_dir.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "edgectl-test", str(agent.data_dir)], check=True)
    try:
        agent.config.write_text(agent.config.read_text().replace("speed: max", "speed: 1000"))
        with with_model(agent):
            agent.wait(lambda: agent.status().outbox.head_seq > 20)
            ballast = agent.data_dir / "ballast"
            with pytest.raises(OSError, match="No space left"):
                fill(ballast)
            agent.wait(lambda: agent.status().state == "degraded")
            assert "No space left" in agent.status().reasons[0]
            ballast.unlink()
            agent.wait(lambda: agent.status().state == "healthy")
            agent.wait_for_end()
            assert agent.status().outbox.lost == 0
            assert outcome(agent.alerts()) == outcome(expected)
            assert "Traceback" not in agent.log()
    finally:
        agent.kill()
        subprocess.run(["umount", "-l", str(agent.data_dir)], check=True)


def fill(path: Path) -> None:
    """Write until the disk refuses."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
            os.fsync(file.fileno())


# ── the API ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_api_asks_for_its_token_and_keeps_it_private(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, sources={}, models={}) as agent:
        assert stat.S_IMODE((agent.data_dir / "api.json").stat().st_mode) == 0o600
        for path in ("/v1/live", "/v1/ready", "/metrics"):
            assert agent.call("GET", path, token="wrong")[0] in (200, 503)
        for method, path in (
            ("GET", "/v1/status"),
            ("GET", "/v1/alerts"),
            ("GET", "/v1/have"),
            ("POST", "/v1/alerts/release"),
            ("POST", "/v1/update"),
            ("POST", "/v1/rollback"),
        ):
            status, body = agent.call(method, path, {} if method == "POST" else None, token="wrong")
            assert (status, json.loads(body)["reason"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("GET", "/v1/alerts?after=-1", None, 400, "usage"),
        ("GET", "/v1/alerts?after=x", None, 400, "usage"),
        ("GET", "/v1/alerts?wait=nan", None, 400, "usage"),
        ("GET", "/v1/alerts?after=99", None, 409, "beyond-head"),
        ("POST", "/v1/alerts/release", {"through": 99}, 409, "beyond-head"),
        ("POST", "/v1/alerts/release", {"through": "all"}, 400, "usage"),
        ("POST", "/v1/rollback", {"recipe": 3}, 400, "usage"),
        ("POST", "/v1/rollback", {"recipe": "x" * 100_000}, 413, "oversized"),
        ("DELETE", "/v1/alerts", None, 405, "no-such-call"),
        ("GET", "/v2/everything", None, 404, "no-such-call"),
    ],
)
def test_a_wrong_call_is_answered_with_a_sentence(
    agent_at_rest: AgentProcess, method: str, path: str, body: object, status: int, reason: str
) -> None:
    found, answer = agent_at_rest.call(method, path, body)
    assert (found, json.loads(answer)["reason"]) == (status, reason)
    assert json.loads(answer)["error"]


@pytest.fixture(scope="module")
def agent_at_rest(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with AgentProcess(tmp_path_factory.mktemp("rest"), sources={}, models={}) as agent:
        yield agent


METRICS = {
    "edgectl_action_seconds", "edgectl_actions_total",
    "edgectl_alerts_total", "edgectl_build_info", "edgectl_detector_events_total", "edgectl_inference_seconds",
    "edgectl_inferences_total", "edgectl_input_rejected_total", "edgectl_model_info", "edgectl_node_state",
    "edgectl_open_alerts", "edgectl_outbox_bytes", "edgectl_outbox_limit_bytes", "edgectl_outbox_lost_total",
    "edgectl_outbox_oldest_age_seconds", "edgectl_outbox_records", "edgectl_readings_total",
    "edgectl_resident_memory_bytes", "edgectl_source_newest_event_timestamp_seconds", "edgectl_streams",
    "edgectl_readings_held", "edgectl_streams_refused",
    "edgectl_streams_warming", "edgectl_uplink_attempts_total", "edgectl_uplink_failures_total",
    "edgectl_uplink_last_success_timestamp_seconds", "edgectl_uptime_seconds",
}  # fmt: skip


def test_metric_names_are_frozen(agent_at_rest: AgentProcess) -> None:
    status, text = agent_at_rest.call("GET", "/metrics")
    assert status == 200
    assert {line.split()[2] for line in text.decode().splitlines() if line.startswith("# TYPE")} == METRICS


def test_rejected_input_is_counted_by_reason(tmp_path: Path) -> None:
    plant = tmp_path / "plant.jsonl"
    write_plant(plant, 2, 200, 1)
    with plant.open("a") as out:
        out.write('not json\n{"ts": 1, "machine": "m0", "value": "x"}\n{"ts": "never", "machine": "m0", "value": 1}\n')
    agent = AgentProcess(tmp_path, sources={"s": replay(plant, speed="max")}, models={"press": ["s"]})
    with with_model(agent):
        agent.wait_for_end()
        assert agent.status().sources[0].rejected == {"unparsable": 1, "not-a-number": 1, "bad-time": 1}
        text = agent.call("GET", "/metrics")[1].decode()
    assert 'edgectl_input_rejected_total{reason="not-a-number"} 1.0' in text
    assert 'edgectl_readings_total{source="s"} 400.0' in text


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_that_fails_its_golden_vectors_at_the_start_gives_way_to_a_permitted_one(tmp_path: Path) -> None:
    bad = encode(make_bundle(2, kind="golden"))
    for fallbacks, state in (((digest(RAW),), "warming"), ((), "failed")):
        agent = with_model(AgentProcess(tmp_path / state, sources={}, models={}))
        stage(agent.data_dir, bad, make_release("press", "2.0.0", 2, bad, fallbacks=fallbacks))
        with agent:
            report = agent.status()
            assert report.state == state
            if fallbacks:
                assert report.models[0].bundle == digest(RAW)
                assert [q.bundle for q in report.quarantined] == [digest(bad)]
                active = Slots(agent.data_dir / "slots").active("press")
                assert active is not None
                assert active.digest == digest(RAW)
            else:
                assert report.models == ()
                assert "golden vectors" in report.reasons[0]


class Fleet:
    """An operator whose signed repository reaches the node through the spool, and the node's agent."""

    def __init__(self, tmp_path: Path, streams: int = 5, seconds: int = 40_000, speed: int = 200) -> None:
        self.operator = Operator(tmp_path / "mona")
        self.operator.now = datetime.now(UTC).replace(microsecond=0)
        plant = tmp_path / "plant.jsonl"
        write_plant(plant, streams, seconds, 200)
        sources = {"s": replay(plant, speed=speed)}
        self.agent = AgentProcess(tmp_path, sources=sources, models={"press": ["s"]}, node=NODE)
        trust = self.agent.data_dir / "trust"
        trust.mkdir(parents=True)
        (trust / "root.json").write_bytes(self.operator.repository.root_bytes())

    def deploy(self, version: str, epoch: int) -> tuple[int, UpdateResult]:
        self.operator.deploy(version, epoch)
        for name, content in self.operator.repository.slice_for(NODE, frozenset()).items():
            target = self.agent.data_dir / "spool" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        return self.post("/v1/update", {})

    def post(self, path: str, body: object) -> tuple[int, UpdateResult]:
        status, answer = self.agent.call("POST", path, body)
        return status, msgspec.json.decode(answer, type=UpdateResult)


def test_update_keeps_the_windows_and_rollback_returns(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    first = fleet.operator.release("1.0.0", seed=1)
    fleet.operator.release("2.0.0", seed=2, fallbacks=(first.variants[0].sha256,))
    with fleet.agent as agent:
        status, result = fleet.deploy("1.0.0", 1)
        assert (status, result.state) == (200, "confirmed"), result
        assert result.models[0].golden_error <= 1
        agent.wait(lambda: agent.status().models[0].inferences > 1000)
        rss = agent.rss_bytes()

        status, result = fleet.deploy("2.0.0", 2)
        assert (status, result.state) == (200, "confirmed"), result
        model = result.models[0]
        assert (model.version, model.previous) == ("2.0.0", first.variants[0].sha256)
        assert model.warming == 0, "the window state was kept"
        assert model.inferences > 0
        assert result.epoch is not None
        assert result.epoch.number == 2
        assert agent.rss_bytes() < 110e6
        assert agent.rss_bytes() < rss + 20e6
        assert fleet.deploy("2.0.0", 3)[1].state == "unchanged"
        assert json.loads(agent.call("GET", "/v1/have")[1])["bundles"] == sorted(
            [first.variants[0].sha256, model.bundle]
        )

        status, result = fleet.post("/v1/rollback", {"recipe": "press", "epoch": 3})
        assert (status, result.state) == (200, "reverted"), result
        assert result.models[0].version == "1.0.0"
        assert agent.status().quarantined[0].bundle == model.bundle
        status, result = fleet.deploy("2.0.0", 3)
        assert (status, result.state) == (409, "refused"), result
        assert agent.status().models[0].version == "1.0.0"

        told = [alert for alert in agent.alerts() if alert.bundle == model.bundle]
        opened, cleared = ({a.id for a in told if a.state == state} for state in ("open", "cleared"))
        assert opened <= cleared, "no alert of a model that is gone stays open"
        agent.kill()
        agent.start()
        agent.wait(agent.answers)
        assert agent.status().models[0].version == "1.0.0"


def test_bundles_damaged_in_both_slots_are_repaired_by_deploying_the_same_release(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    first = fleet.operator.release("1.0.0", seed=1)
    fleet.operator.release("2.0.0", seed=2, fallbacks=(first.variants[0].sha256,))
    with fleet.agent as agent:
        fleet.deploy("1.0.0", 1)
        fleet.deploy("2.0.0", 2)
        agent.kill()
        for path in agent.data_dir.glob("slots/press/[ab]/bundle.bin"):
            raw = path.read_bytes()
            path.write_bytes(raw[:100] + bytes(b ^ 0xFF for b in raw[100:102]) + raw[102:])
        agent.start()
        agent.wait(agent.answers)
        assert agent.status().models == ()
        assert json.loads(agent.call("GET", "/v1/have")[1])["bundles"] == [], "what is damaged must be sent again"
        status, result = fleet.deploy("2.0.0", 3)
        assert (status, result.state) == (200, "confirmed"), result
        assert agent.status().models[0].version == "2.0.0"
        agent.kill()
        agent.start()
        agent.wait(agent.answers)
        assert agent.status().models[0].version == "2.0.0"


DIES_AT_THE_SWAP = """
import os
from edgectl_agent import __main__, roster
roster.Roster.install = lambda *_: os.kill(os.getpid(), 9)
__main__.main()
"""


def test_killed_between_flip_and_swap_the_alerts_of_the_old_model_are_ended(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    path.touch()
    fleet = Fleet(tmp_path)
    source = LIVE | {"path": str(path)}
    agent = fleet.agent = AgentProcess(
        tmp_path, sources={"s": source}, models={"press": ["s"]}, node=NODE, snapshot={"every": "1h"}
    )
    first = fleet.operator.release("1.0.0", seed=1)
    fleet.operator.release("2.0.0", seed=2, fallbacks=(first.variants[0].sha256,))
    at = time.time() - 3600
    with agent:
        fleet.deploy("1.0.0", 1)
        write_live(path, 200, at)
        agent.wait(lambda: agent.status().models[0].inferences > 100)
        assert agent.terminate() == 0
        agent.start(DIES_AT_THE_SWAP)
        agent.wait(agent.answers)
        write_live(path, 1, at + 1, value=50.0)  # after the last snapshot that the clock asks for
        agent.wait(lambda: agent.status().outbox.head_seq == 1)
        with pytest.raises((OSError, HTTPException)):
            fleet.deploy("2.0.0", 2)
        assert agent.process is not None
        assert agent.process.wait(30) == -signal.SIGKILL
        agent.start()
        agent.wait(agent.answers)
        assert agent.status().models[0].version == "2.0.0", "the flip came before the kill"
        opened, ended = agent.alerts()
        assert (opened.id, opened.state, ended.id, ended.state) == (ended.id, "open", opened.id, "cleared")
        assert opened.bundle == ended.bundle == first.variants[0].sha256


def test_without_a_snapshot_there_is_no_swap_and_the_old_model_goes_on(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.operator.release("1.0.0", seed=1)
    fleet.operator.release("2.0.0", seed=2)
    with fleet.agent as agent:
        fleet.deploy("1.0.0", 1)
        agent.wait(lambda: agent.status().models[0].inferences > 1000)
        snapshots = agent.data_dir / "snapshots"
        snapshots.rename(tmp_path / "elsewhere")
        snapshots.touch()  # no folder: nothing can be saved in it
        status, result = fleet.deploy("2.0.0", 2)
        assert (status, result.state, result.exit_code) == (409, "refused", 75), result
        assert "snapshot" in result.message
        active = Slots(agent.data_dir / "slots").active("press")
        assert active is not None
        assert active.release.version == agent.status().models[0].version == "1.0.0"
        snapshots.unlink()
        (tmp_path / "elsewhere").rename(snapshots)
        status, result = fleet.deploy("2.0.0", 2)
        assert (status, result.state) == (200, "confirmed"), result


def nonsense_where_it_was_not_tested() -> Bundle:
    """A model that takes the square root of its inputs, with golden vectors that are all positive."""
    bundle = make_bundle(3)
    nodes = [
        helper.make_node("Sqrt", ["features"], ["root"]),
        helper.make_node("ReduceSum", ["root", "axis"], ["score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "nonsense",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    inputs = np.abs(np.frombuffer(bundle.golden.inputs, "<f4")).reshape(-1, 2)
    scores = np.sqrt(inputs).sum(axis=1)
    golden = msgspec.structs.replace(bundle.golden, inputs=inputs.tobytes(), scores=scores.tobytes())
    return msgspec.structs.replace(bundle, model=model, golden=golden)


def test_a_model_that_scores_nonsense_on_live_readings_never_replaces_the_old_one(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.operator.release("1.0.0", seed=1)
    with fleet.agent as agent:
        fleet.deploy("1.0.0", 1)
        agent.wait(lambda: agent.status().models[0].inferences > 1000)
        bad = {"golden": make_bundle(2, kind="golden"), "trial": nonsense_where_it_was_not_tested()}
        for epoch, (word, bundle) in enumerate(bad.items(), 2):
            fleet.operator.release(f"{epoch}.0.0", bundle=bundle)
            status, result = fleet.deploy(f"{epoch}.0.0", epoch)
            assert (status, result.state) == (409, "refused"), result
            assert word in (result.reason + result.message), result
            assert agent.status().models[0].version == "1.0.0"
            assert agent.status().state == "healthy"
        assert "Traceback" not in agent.log()


def test_while_a_hostile_model_keeps_the_verifying_child_busy_the_agent_scores_on(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.operator.release("1.0.0", seed=1)
    fleet.operator.release("2.0.0", seed=2, kind="hang")
    with fleet.agent as agent:
        fleet.deploy("1.0.0", 1)
        assert agent.process is not None
        of_agent = psutil.Process(agent.process.pid)
        answers: list[tuple[int, UpdateResult]] = []
        order = threading.Thread(target=lambda: answers.append(fleet.deploy("2.0.0", 2)))
        order.start()
        agent.wait(lambda: [c.cpu_times().user > 0.5 for c in of_agent.children()] == [True])
        (child,) = of_agent.children()
        assert child.cmdline() == of_agent.cmdline(), "it was forked"
        assert sorted(os.listdir(f"/proc/{child.pid}/fd")) == ["0", "1", "2"]
        scored = agent.status().models[0].inferences
        agent.wait(lambda: agent.status().models[0].inferences > scored + 1000)
        child.kill()
        order.join()
        ((status, result),) = answers
        assert (status, result.reason) == (409, "child-failed")
        assert "SIGKILL" in result.message
        assert agent.status().models[0].version == "1.0.0"


def test_the_agent_stays_below_110_megabytes_with_1000_streams_and_after_an_update(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, streams=1000, seconds=300, speed=10)
    fleet.operator.release("1.0.0", seed=1)
    fleet.operator.release("2.0.0", seed=2)
    with fleet.agent as agent:
        fleet.deploy("1.0.0", 1)
        agent.wait(lambda: agent.status().models[0].inferences > 20_000)
        assert agent.status().models[0].streams == 1000
        before = agent.rss_bytes()
        status, result = fleet.deploy("2.0.0", 2)
        assert (status, result.models[0].version) == (200, "2.0.0")
        agent.wait(lambda: agent.status().models[0].inferences > 20_000)
        print(f"RSS {before / 1e6:.1f} MB, after an update {agent.rss_bytes() / 1e6:.1f} MB")
        assert before < 110e6
        assert agent.rss_bytes() < 110e6
