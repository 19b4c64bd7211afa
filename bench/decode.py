"""Decoding JSON Lines: the agent's decoder against a loop of `json.loads` that checks as little as possible."""

from __future__ import annotations

import json
from datetime import datetime

import numpy as np
from edgectl_agent.config import TailConfig
from edgectl_agent.sources.decode import JsonDecoder

from bench._clock import best
from bench._report import record

TIMES = [f"2026-03-14T09:{i // 6000 % 60:02}:{i / 100 % 60:06.3f}Z" for i in range(20_000)]
LINES = [json.dumps({"ts": ts, "m": f"p{i % 50}", "v": i * 0.1, "t": 1.5}) for i, ts in enumerate(TIMES)]
RAW = [line.encode() for line in LINES]
MAPPING = TailConfig(path="x", stream="m", time="ts", channels={"v": "v", "t": "t"})


def ours() -> int:
    decoder = JsonDecoder(MAPPING)
    return sum(len(decoder.decode(RAW[at : at + 1000]).streams) for at in range(0, len(RAW), 1000))


def plain() -> int:
    streams, times, values = [], [], []
    for line in RAW:
        one = json.loads(line)
        streams.append(one["m"])
        times.append(int(datetime.fromisoformat(one["ts"]).timestamp() * 1e9))
        values.append((float(one["v"]), float(one["t"])))
    np.array(times), np.array(values)
    return len(streams)


if __name__ == "__main__":
    mine, peer = best(ours, 7), best(plain, 7)
    print(f"decode JSON Lines: {mine:,.0f} readings/s, json.loads loop {peer:,.0f}/s: {mine / peer:.2f}×")
    met = record("decode.json", mine, "readings/s", better="higher", peer="json.loads loop", goal=100_000)
    raise SystemExit(0 if met else 1)
