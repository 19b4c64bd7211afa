"""Readings by HTTP into the real agent: from a request to an alert, back-pressure, what an end of the agent costs."""

from __future__ import annotations

import gzip
import json
import os
import re
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
from tests.support.tls import Fleet

RAW = encode(make_bundle(1))
FIELDS: dict[str, Any] = {"type": "http", "stream": "machine", "time": "ts", "channels": {"value": "v.x"}}
LINES = "application/x-ndjson"


def reading(stream: str, ts: float, value: float) -> dict[str, Any]:
    return {"ts": ts, "machine": stream, "v": {"x": value}}


def usual(stream: str, count: int, end_s: float) -> list[dict[str, Any]]:
    """`count` harmless readings, one a second, the last at `end_s`."""
    return [reading(stream, end_s - count + 1 + i, 0.1 * (-1) ** i) for i in range(count)]


def lines(readings: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in readings)


ROOT = Path(__file__).parents[2]


@dataclass
class Node:
    """An agent with the sources ``press``, which a model reads, and ``ghost``, which waits for one for ever."""

    agent: AgentProcess
    url: str
    token: str

    def post(self, body: bytes | Any, content_type: str = "application/json", **more: Any) -> httpx.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type} | more.pop("headers", {})
        with httpx.Client(trust_env=False, timeout=60) as client:
            return client.post(f"{self.url}/v1/readings", content=raw, headers=headers, **more)

    def press(self, body: bytes | Any, content_type: str = "application/json", **more: Any) -> httpx.Response:
        return self.post(body, content_type, params={"source": "press"}, **more)

    def source(self, name: str) -> SourceStatus:
        return next(s for s in self.agent.status().sources if s.name == name)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    agent = _agent(tmp_path_factory.mktemp("ingest"), {"press": FIELDS, "ghost": FIELDS | {"queue": 50}})
    with agent:
        yield _node(agent)
        assert "Traceback" not in agent.log()


def _agent(folder: Path, sources: dict[str, Any], **more: Any) -> AgentProcess:
    models = {"press": ["press"], **({"ghost": ["ghost"]} if "ghost" in sources else {})}
    more = {"ingest": {"listen": "127.0.0.1:0", "max_body": "100k"}} | more
    agent = AgentProcess(folder, sources=sources, models=models, **more)
    stage(agent.data_dir, RAW, make_release("press", "1.0.0", 1, RAW))
    return agent


def _node(agent: AgentProcess) -> Node:
    return Node(agent, agent.contact()["ingest"], (agent.data_dir / "ingest.token").read_text().strip())


# ── from a request to an alert ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["array", "object", "lines", "gzip"])
def test_a_fault_that_was_posted_becomes_an_alert(node: Node, form: str) -> None:
    now = time.time()
    before = node.press(usual(form, 200, now - 1)).json()
    assert before == {"accepted": 200, "rejected": {}}
    fault = reading(form, now, 50.0)
    answer = {
        "array": lambda: node.press([fault]),
        "object": lambda: node.press(fault),
        "lines": lambda: node.press(lines([fault]), LINES),
        "gzip": lambda: node.press(gzip.compress(lines([fault])), LINES, headers={"Content-Encoding": "gzip"}),
    }[form]()
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "rejected": {}})
    node.agent.wait(lambda: any(a.stream == form and a.state == "open" for a in node.agent.alerts()))


def test_bad_records_are_counted_in_the_answer_and_in_the_report(node: Node) -> None:
    body = lines([*usual("mixed", 5, time.time()), {"ts": "never", "machine": "mixed"}]) + b"{nonsense\n\n"
    answer = node.press(body, LINES)
    assert answer.json() == {"accepted": 5, "rejected": {"bad-time": 1, "unparsable": 1}}
    node.agent.wait(lambda: node.source("press").rejected == {"bad-time": 1, "unparsable": 1})


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_queue_refuses_the_whole_request_and_says_when_to_try_again(node: Node) -> None:
    now = time.time()
    ghost = {"params": {"source": "ghost"}}
    assert node.post(usual("a", 40, now), **ghost).status_code == 202
    full = node.post(usual("a", 11, now), **ghost)
    assert (full.status_code, full.headers["retry-after"], full.json()["reason"]) == (429, "1", "queue-full")
    assert node.post(usual("a", 10, now), **ghost).status_code == 202, "nothing of the refused request was taken"
    assert node.post(usual("a", 1, now), **ghost).status_code == 429
    assert node.post(usual("a", 51, now), **ghost).status_code == 413
    assert node.press(usual("a", 1, now)).status_code == 202, "another source is not held up"


def test_each_wrong_request_gets_its_status_and_one_sentence(node: Node) -> None:
    one = reading("x", time.time(), 0)
    cases: list[tuple[int, str, httpx.Response]] = [
        (401, "the token is missing or wrong", node.press(one, headers={"Authorization": "Bearer no"})),
        (401, "the token is missing or wrong", node.press(one, headers={"Authorization": ""})),
        (415, "content type 'text/csv': expected application/json", node.press(one, "text/csv")),
        (415, "content encoding 'br': expected gzip", node.press(one, headers={"Content-Encoding": "br"})),
        (413, "more than 100000 bytes", node.press(b"[" + b" " * 100_000)),
        (413, "when it is unpacked", node.press(gzip.compress(bytes(10**7)), headers={"Content-Encoding": "gzip"})),
        (400, "the body is not gzip", node.press(b"plain", headers={"Content-Encoding": "gzip"})),
        (400, "record 2: not-a-number", node.press(b'\n{"ts": 1, "machine": "m", "v": {"x": "warm"}}', LINES)),
        (400, "the body is not JSON", node.press(b"[1, 2")),
        (400, "expected a JSON object or an array", node.press(b"hello")),
        (400, "there is no record in the body", node.press(b"", LINES)),
        (400, "several sources are fed here: expected ?source= with one of ghost, press", node.post(one)),
        (404, "no source is called 'pres', known are: ghost, press", node.post(one, params={"source": "pres"})),
    ]
    for status, sentence, answer in cases:
        assert (answer.status_code, sentence in answer.json()["error"]) == (status, True), answer.text


def test_ingest_commands_nothing_and_the_control_api_takes_no_readings(node: Node) -> None:
    headers = {"Authorization": f"Bearer {node.token}"}
    for path in ("/v1/status", "/v1/alerts", "/metrics"):
        assert httpx.get(node.url + path, headers=headers, trust_env=False).status_code == 404
    assert httpx.post(node.url + "/v1/update", headers=headers, trust_env=False).status_code == 404
    assert node.agent.call("POST", "/v1/readings", {})[0] == 404
    assert node.agent.call("GET", "/v1/status", token=node.token)[0] == 401
    assert httpx.get(node.url + "/v1/live", trust_env=False).status_code == 200


def test_the_token_is_the_owners_alone(node: Node) -> None:
    assert stat.S_IMODE((node.agent.data_dir / "ingest.token").stat().st_mode) == 0o600


def test_the_commands_of_the_guide_do_what_it_says(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "guides" / "http.md").read_text()
    commands = [block for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL) if "curl" in block]
    assert len(commands) == 3
    with _agent(tmp_path, {"press": FIELDS}) as agent:
        node = _node(agent)
        env = os.environ | {"URL": node.url, "TOKEN": node.token}
        told = [subprocess.run(["sh", "-c", c], env=env, capture_output=True, timeout=60) for c in commands]
    assert [one.stderr for one in told] == [b"", b"", b""]
    assert [json.loads(one.stdout) for one in told] == [{"accepted": n, "rejected": {}} for n in (1, 2, 2)]


# ── an end of the agent ─────────────────────────────────────────────────────────────────────────────────────────────


def test_an_orderly_end_scores_what_was_accepted_and_the_token_stays(tmp_path: Path) -> None:
    agent = _agent(tmp_path, {"press": FIELDS}, batch={"max": 10, "max_latency": "20ms"})
    now = time.time()
    with agent:
        node = _node(agent)
        assert node.post([*usual("m", 900, now - 1), reading("m", now, 50.0)]).status_code == 202
        assert agent.terminate() == 0
        agent.start()
        agent.wait(agent.answers)
        assert _node(agent).token == node.token
        assert any(a.stream == "m" and a.state == "open" for a in agent.alerts())
        assert "readings-not-scored" not in agent.log()


def test_a_killed_agent_keeps_its_alerts_and_goes_on_from_its_last_snapshot(tmp_path: Path) -> None:
    agent = _agent(tmp_path, {"press": FIELDS}, snapshot={"every": "100ms"})
    now = time.time()
    with agent:
        node = _node(agent)
        node.post([*usual("m", 200, now - 10), reading("m", now - 9, 50.0)])
        agent.wait(lambda: len(agent.alerts()) == 1)
        newest = agent.data_dir / "snapshots" / "state.snap"
        saved = newest.read_bytes()
        node.post(usual("m", 5, now - 4))
        agent.wait(lambda: newest.read_bytes() != saved)
        agent.kill()
        agent.start()
        agent.wait(agent.answers)
        assert len(agent.alerts()) == 1
        assert agent.status().models[0].warming == 0, "the windows are those of the snapshot"
        _node(agent).post(usual("m", 200, now + 200))
        agent.wait(lambda: any(a.state == "cleared" for a in agent.alerts()))


def test_off_loopback_it_speaks_tls_with_the_nodes_certificate_and_still_wants_the_token(tmp_path: Path) -> None:
    acme = Fleet(tmp_path / "acme", "acme")
    files = acme.node_files("n1", "127.0.0.1")
    tls = {"cert": str(files["cert"]), "key": str(files["key"])}
    agent = _agent(tmp_path / "n1", {"press": FIELDS}, ingest={"listen": "0.0.0.0:0", "tls": tls})
    with agent:
        node = _node(agent)
        url = node.url.replace("0.0.0.0", "127.0.0.1") + "/v1/readings"
        assert url.startswith("https://")
        headers = {"Authorization": f"Bearer {node.token}"}
        with httpx.Client(verify=acme.client(), trust_env=False) as client:
            assert client.post(url, json=usual("m", 3, time.time()), headers=headers).status_code == 202
            assert client.post(url, json=usual("m", 3, time.time())).status_code == 401
        with pytest.raises(httpx.TransportError):
            httpx.post(url.replace("https", "http"), json=usual("m", 3, time.time()), headers=headers, trust_env=False)
