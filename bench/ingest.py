"""Readings per second by HTTP over loopback, in batches of JSON Lines: the agent's ingest against a plain web app.

Each runs in a process of its own, under uvicorn with h11, and takes the same requests from one sender. The peer is what
one writes in a minute: `json.loads` for each line and one list per column. It checks nothing and refuses nothing.
Compared is the server's processor time, which other work on the machine does not count against.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import psutil

from bench._report import record

BATCH, BATCHES, ROUNDS = 500, 200, 3
TIMES = [f"2026-03-14T09:{i // 6000 % 60:02}:{i / 100 % 60:06.3f}Z" for i in range(BATCH)]
BODY = "".join(
    json.dumps({"ts": ts, "m": f"p{i % 50}", "v": i * 0.1, "t": 1.5}) + "\n" for i, ts in enumerate(TIMES)
).encode()
HEADERS = {"Authorization": "Bearer secret", "Content-Type": "application/x-ndjson"}


def ours(told: Connection) -> None:
    from edgectl_agent.config import HttpConfig
    from edgectl_agent.ingest import Ingest, Tokens
    from edgectl_agent.listener import Listener
    from edgectl_agent.sources.http import HttpSource

    source = HttpSource(HttpConfig(stream="m", time="ts", channels={"v": "v", "t": "t"}))

    def drain() -> None:
        while True:
            source.poll(2048, 1.0)

    threading.Thread(target=drain, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text("secret\n")
        found = Ingest({"s": source}, Tokens(tokens), 4_000_000)
        door = Listener(found.app(), "127.0.0.1:0", "ingest", protocol=found.protocol)
        url = door.bind()
        door.start()
        told.send(url)
        told.recv()
        door.stop()


def plain(told: Connection) -> None:
    from edgectl_agent.listener import Listener
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def take(request: Request) -> Response:
        streams, times, values = [], [], []
        for line in (await request.body()).splitlines():
            one = json.loads(line)
            streams.append(one["m"])
            times.append(int(datetime.fromisoformat(one["ts"]).timestamp() * 1e9))
            values.append((one["v"], one["t"]))
        return JSONResponse({"accepted": len(streams)}, 202)

    door = Listener(Starlette(routes=[Route("/v1/readings", take, methods=["POST"])]), "127.0.0.1:0", "plain")
    url = door.bind()
    door.start()
    told.send(url)
    told.recv()
    door.stop()


def rate(url: str, client: httpx.Client, server: psutil.Process) -> tuple[float, float]:
    """Readings per second of processor time and of the clock; a full queue is waited for, as a sender does."""
    before, began, accepted = server.cpu_times(), time.perf_counter(), 0
    while accepted < BATCH * BATCHES:
        answer = client.post(f"{url}/v1/readings", content=BODY, headers=HEADERS)
        if answer.status_code == 429:
            time.sleep(0.001)
            continue
        accepted += int(answer.json()["accepted"])
    after, ended = server.cpu_times(), time.perf_counter()
    return accepted / (after.user + after.system - before.user - before.system), accepted / (ended - began)


def main() -> int:
    context = multiprocessing.get_context("spawn")
    servers: tuple[Callable[[Connection], None], ...] = (ours, plain)
    here, urls, started = [], [], []
    for serve in servers:
        mine, its = context.Pipe()
        process = context.Process(target=serve, args=(its,))
        process.start()
        here.append(mine)
        urls.append(mine.recv())
        started.append(process)
    found: list[list[tuple[float, float]]] = [[], []]
    with httpx.Client(trust_env=False) as client:
        for _ in range(ROUNDS):  # they alternate, so that other work on the machine meets both
            for i, url in enumerate(urls):
                found[i].append(rate(url, client, psutil.Process(started[i].pid)))
    for mine, process in zip(here, started, strict=True):
        mine.send("end")
        process.join()
    (own, own_clock), (peer, _) = ((statistics.median(r) for r in zip(*rates, strict=True)) for rates in found)
    record("ingest.readings", round(own_clock), "readings/s", better="higher", peer="by the clock, one sender")
    said = f"uvicorn + json.loads: {peer:.0f} readings/CPU s, {own / peer:.2f}x"
    met = record("ingest.readings_per_cpu", round(own), "readings/CPU s", better="higher", peer=said, goal=100_000)
    met &= record(
        "ingest.vs_plain_app", round(own / peer, 2), "x", better="higher", peer="uvicorn + json.loads", goal=1
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
