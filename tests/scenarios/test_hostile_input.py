"""The worst that can arrive, at a real agent: it is counted and shown, memory stays bounded, what follows is scored."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from edgectl_agent.core.bundle import encode
from edgectl_agent.core.messages import SourceStatus

from tests.support.agents import AgentProcess, stage
from tests.support.bundles import make_bundle, make_release

RAW = encode(make_bundle(1))
FIELDS: dict[str, Any] = {"stream": "machine", "time": "ts", "channels": {"value": "v"}}
UNITS = {"units": {"value": "degC"}, "unit_columns": {"value": "unit"}}
BEGIN = 1_773_000_000
HUGE = 100 << 20
GROWN_MIB = 64
"""How much more memory the agent may take for all of it together."""


def line(stream: str, ts: object, value: object) -> bytes:
    return json.dumps({"machine": stream, "ts": ts, "v": value}).encode() + b"\n"


def good(stream: str) -> bytes:
    """Two minutes of a stream, and a fault at their end."""
    usual = b"".join(line(stream, BEGIN + i, 0.1 * (-1) ** i) for i in range(120))
    return usual + b"".join(line(stream, BEGIN + 120 + i, 60) for i in range(5))


BAD = {
    "unparsable": [
        b"{", b"[1,2]", b"\xff\xfe\x00", b"[" * 100_000, b'{"other":' * 100_000, b'{"machine":"m","ts":1,"v":NaN}',
    ],
    "bad-time": [
        b'{"machine":"m","ts":"never","v":1}', b'{"machine":"m","ts":"9999-12-31","v":1}', b'{"machine":"m","v":1}',
        b'{"machine":"m","ts":"1066-10-14","v":1}',
    ],
    "bad-stream": [b'{"machine":"","ts":1,"v":1}', b'{"machine":"%s","ts":1,"v":1}' % (b"x" * 201)],
    "not-a-number": [b'{"machine":"m","ts":1,"v":"12"}', b'{"machine":"m","ts":1,"v":{"a":1}}'],
    "unit-mismatch": [b'{"machine":"m","ts":1,"v":1,"unit":"degF"}'],
    "not-finite": [b'{"machine":"m","ts":1,"v":1e309}'],
}  # fmt: skip


@dataclass
class Node:
    agent: AgentProcess
    begun_mib: float

    def source(self, name: str) -> SourceStatus:
        return next(s for s in self.agent.status().sources if s.name == name)

    def rejects(self, name: str) -> dict[str, int]:
        """As counted a moment after an alert: what is published is up to 0.2 s old."""
        published = self.agent.status().clock_ns
        self.agent.wait(lambda: self.agent.status().clock_ns > published + 5 * 10**8)
        return self.source(name).rejected

    def alerted(self, stream: str) -> bool:
        return any(alert.stream == stream for alert in self.agent.alerts())

    def most_mib(self) -> float:
        assert self.agent.process is not None
        status = Path(f"/proc/{self.agent.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("bad")
    tails = {
        name: {"type": "tail", "path": str(folder / f"{name}.jsonl"), **FIELDS, **UNITS, "history": True}
        for name in ("worst", "bomb", "clocks")
    }
    broker = {"type": "mqtt", "url": "mqtt://127.0.0.1:9", "topic": "t", **FIELDS}
    sources = tails | {"absent": broker, "piped": {"type": "stdin", **FIELDS}, "posted": {"type": "http", **FIELDS}}
    ingest = {"listen": "127.0.0.1:0", "max_body": "100k"}
    agent = AgentProcess(folder, sources=sources, models={"press": list(sources)}, ingest=ingest)
    stage(agent.data_dir, RAW, make_release("press", "1.0.0", 1, RAW))
    agent.stdin = subprocess.PIPE
    with agent:
        found = Node(agent, 0.0)
        found.begun_mib = found.most_mib()
        pipe = agent.process.stdin if agent.process else None
        yield found
        if pipe is not None:
            pipe.close()
        assert "Traceback" not in agent.log()
        grown = found.most_mib() - found.begun_mib
        print(f"\n{found.begun_mib:.0f} MiB at the start, {grown:.0f} MiB more at the most")
        assert grown < GROWN_MIB


def write(node: Node, source: str, *parts: bytes) -> None:
    with (node.agent.folder / f"{source}.jsonl").open("ab") as file:
        for part in parts:
            file.write(part)


def test_each_bad_record_is_counted_under_its_reason_and_shown_and_the_good_ones_behind_are_scored(node: Node) -> None:
    bad = b"".join(one + b"\n" for records in BAD.values() for one in records)
    doubled = b'{"machine":"twice","machine":"last","ts":%d,"v":7,"v":0.1,"other":[{}]}\n' % BEGIN
    write(node, "worst", bad, doubled, good("behind"))
    node.agent.wait(lambda: node.alerted("behind"))

    assert node.rejects("worst") == {reason: len(records) for reason, records in BAD.items()}
    assert node.source("worst").accepted == 126  # of a key that is there twice the last value counts
    path = node.agent.data_dir / "dead-letters" / "worst.jsonl"
    letters = [json.loads(text) for text in path.read_bytes().splitlines()]
    assert {letter["reason"] for letter in letters} == set(BAD)
    assert b'{"machine":"m","ts":1,"v":1e309}'.decode() in {letter.get("text") for letter in letters}
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_line_of_100_mb_in_a_file_is_skipped(node: Node) -> None:
    block = b"x" * (1 << 20)
    write(node, "worst", *[block] * (HUGE >> 20), b"\n", good("after-file"))
    node.agent.wait(lambda: node.alerted("after-file"))

    assert node.rejects("worst")["too-long"] == 1


def test_a_line_of_100_mb_on_standard_input_is_skipped(node: Node) -> None:
    assert node.agent.process is not None
    pipe = node.agent.process.stdin
    assert pipe is not None
    for _ in range(HUGE >> 20):
        pipe.write(b"y" * (1 << 20))
    pipe.write(b"\n" + good("after-pipe"))
    pipe.close()
    node.agent.wait(lambda: node.alerted("after-pipe"))

    assert node.rejects("piped") == {"too-long": 1}


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_of_100_mb_is_refused_packed_or_not(node: Node, packed: bool) -> None:
    body = gzip.compress(b"z" * HUGE, 1) if packed else b"z" * HUGE
    token = (node.agent.data_dir / "ingest.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
    headers |= {"Content-Encoding": "gzip"} if packed else {}
    url = f"{node.agent.contact()['ingest']}/v1/readings"
    with httpx.Client(trust_env=False, timeout=60) as client:
        try:
            refused = client.post(url, content=body, headers=headers).status_code
        except httpx.WriteError:  # it hung up while the rest was on its way
            refused = 413
        now = [{"machine": "posted", "ts": time.time(), "v": 0.1}]
        taken = client.post(url, json=now, headers={"Authorization": f"Bearer {token}"}).status_code

    assert (refused, taken) == (413, 202)


def test_a_zip_bomb_in_the_history_is_read_in_bounded_memory_and_the_file_itself_is_scored(node: Node) -> None:
    path = node.agent.folder / "bomb.jsonl"
    packed = path.with_name("bomb.jsonl.1.gz.tmp")
    with gzip.open(packed, "wb", compresslevel=1) as bomb:
        for _ in range(2 * HUGE >> 20):
            bomb.write(b"\0" * (1 << 20))
        bomb.write(b"\n" + good("within-bomb"))
    packed.rename(path.with_name("bomb.jsonl.1.gz"))
    write(node, "bomb", good("behind-bomb"))
    node.agent.wait(lambda: node.alerted("behind-bomb"))

    assert node.alerted("within-bomb")
    assert node.rejects("bomb") == {"too-long": 1}
    assert packed.with_name("bomb.jsonl.1.gz").stat().st_size < HUGE >> 6


def test_times_of_the_far_past_and_the_far_future_are_counted_and_stop_nobody(node: Node) -> None:
    far = line("clock", BEGIN, 0.1) + line("clock", 4_102_444_800, 0.1) + line("clock", 86_400, 0.1)
    write(node, "clocks", far, good("clock-next"))
    node.agent.wait(lambda: node.alerted("clock-next"))
    node.agent.wait(lambda: {"future", "late"} <= node.agent.status().models[0].counters.keys())
    counters = node.agent.status().models[0].counters

    assert (counters["future"], counters["late"]) == (1, 1)


def test_a_source_that_was_never_there_is_told_and_the_others_are_read(node: Node) -> None:
    node.agent.wait(lambda: node.source("absent").state == "failed")

    assert "mqtt://127.0.0.1:9 cannot be reached" in node.source("absent").detail
    assert node.agent.status().state == "degraded"
