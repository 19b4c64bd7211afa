"""What a running agent takes of a core at 100 readings a second: from a file, from HTTP, from MQTT.

A real agent process with the standard features and the autoencoder of `bench.streaming`, 1,000 streams with a reading
every ten seconds. Five minutes of history come first, so that each reading that counts is scored; then one reading
every 10 ms for half a minute: a line appended to a file, a POST of its own over one connection, or an MQTT message with
QoS 1 to a Mosquitto (where there is one). Counted is the agent's processor time in that half minute.

    python -m bench.agent_cpu
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from edgectl_agent.core import bundle as bundles

from bench import _stream_load as load
from bench._report import record
from tests.support import mosquitto
from tests.support.agents import AgentProcess, stage
from tests.support.bundles import make_release

STREAMS, HISTORY = 1_000, 34
PACE_S, FOR_S = 0.01, 30.0
GOAL = 3.0
CHANNELS = {name: name for name in load.channels(4)}
FIELDS: dict[str, Any] = {"stream": "machine", "time": "ts", "channels": CHANNELS}
Send = Callable[[list[bytes]], None]


def main() -> int:
    """Each source, one after the other."""
    raw = load.bundle()
    ways = {"file": by_file, "http": by_http} | ({"mqtt": by_mqtt} if mosquitto.executable() else {})
    met = []
    for name, way in ways.items():
        with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as scratch, way(Path(scratch), raw) as (agent, send):
            share = measure(agent, send)
        busy = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        met.append(record(f"agent.cpu.{name}", round(share, 2), "% of a core", better="lower", peer=busy, goal=GOAL))
    return 0 if all(met) else 1


def measure(agent: AgentProcess, send: Send) -> float:
    """Percent of a core while readings come at their pace."""
    rounds = load.rounds_of(STREAMS, HISTORY + 8)
    for lines in itertools.islice(rounds, HISTORY):
        send(lines)
    agent.wait(lambda: scored(agent) > 0 and agent.status().sources[0].accepted == STREAMS * HISTORY)
    assert agent.process is not None
    process, live = psutil.Process(agent.process.pid), itertools.chain.from_iterable(rounds)
    paced(send, live, 5.0)
    before, inferences = process.cpu_times(), scored(agent)
    sent = paced(send, live, FOR_S)
    after = process.cpu_times()
    agent.wait(lambda: scored(agent) - inferences >= sent * 0.95)
    return (after.user + after.system - before.user - before.system) / FOR_S * 100


def paced(send: Send, lines: Iterator[bytes], for_s: float) -> int:
    """Send one by one for a while; returns how many."""
    began, sent = time.monotonic(), 0
    while (now := time.monotonic() - began) < for_s:
        if sent * PACE_S > now:
            time.sleep(sent * PACE_S - now)
        send([next(lines)])
        sent += 1
    return sent


def scored(agent: AgentProcess) -> int:
    return sum(model.inferences for model in agent.status().models)


# ── the ways ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def by_file(folder: Path, raw: bytes) -> Iterator[tuple[AgentProcess, Send]]:
    path = folder / "live.jsonl"
    path.touch()
    with running(folder, raw, {"type": "tail", "path": str(path), **FIELDS}) as agent, path.open("ab", 0) as file:
        yield agent, lambda lines: file.write(b"\n".join([*lines, b""])) and None


@contextmanager
def by_http(folder: Path, raw: bytes) -> Iterator[tuple[AgentProcess, Send]]:
    source = {"type": "http", "queue": 50_000, **FIELDS}
    with running(folder, raw, source, ingest={"listen": "127.0.0.1:0"}) as agent, httpx.Client(trust_env=False) as web:
        url, token = door(agent)

        def send(lines: list[bytes]) -> None:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
            web.post(f"{url}/v1/readings", content=b"\n".join(lines), headers=headers).raise_for_status()

        yield agent, send


@contextmanager
def by_mqtt(folder: Path, raw: bytes) -> Iterator[tuple[AgentProcess, Send]]:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    with mosquitto.Broker(folder / "broker") as broker:
        source = {"type": "mqtt", "url": broker.url, "topic": "plant/#", **FIELDS}
        with running(folder, raw, source) as agent:
            client = Client(CallbackAPIVersion.VERSION2)
            client.max_inflight_messages_set(200)
            client.connect("127.0.0.1", broker.port)
            client.loop_start()
            agent.wait(lambda: agent.status().sources[0].state == "running")
            try:
                yield (
                    agent,
                    lambda lines: [client.publish("plant/line", one, 1) for one in lines][-1].wait_for_publish(60),
                )
            finally:
                client.loop_stop()
                client.disconnect()


@contextmanager
def running(folder: Path, raw: bytes, source: dict[str, Any], **more: Any) -> Iterator[AgentProcess]:
    recipe = bundles.decode(raw).recipe
    agent = AgentProcess(folder / "node", sources={"plant": source}, models={recipe: ["plant"]}, **more)
    stage(agent.data_dir, raw, make_release(recipe, "1.0.0", 1, raw))
    with agent:
        yield agent


def door(agent: AgentProcess) -> tuple[str, str]:
    """URL and token of the agent's ingest."""
    return agent.contact()["ingest"], (agent.data_dir / "ingest.token").read_text().strip()


if __name__ == "__main__":
    sys.exit(main())
