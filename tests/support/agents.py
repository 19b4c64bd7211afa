"""A real agent process on real files, as tests and benchmarks drive it.

agent = AgentProcess(folder, sources={"s": {...}}, models={"press": ["s"]})
stage(agent.data_dir, raw, make_release("press", "1.0.0", 1, raw))
with agent:
    agent.wait(lambda: agent.status().models[0].inferences > 0)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import yaml
from edgectl_agent.core.messages import Alert, AlertPage, Release, Report
from edgectl_agent.slots import Slots

START_S = 60.0
"""Generous: the machine may be busy with other tests."""


def stage(data_dir: Path, raw: bytes, release: Release) -> None:
    """Put a bundle into the node's free slot and activate it, as an update does after its checks."""
    slots = Slots(data_dir / "slots")
    slots.stage(release.recipe, raw, msgspec.json.encode(release), epoch=None)
    slots.activate(release.recipe)


def write_plant(
    path: Path, streams: int, seconds: int, spikes: int, seed: int = 0, start_s: int = 1_700_000_000
) -> None:
    """JSON Lines ``{"ts", "machine", "value"}``: unit noise once a second per stream, with spikes of 4 s each."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (seconds, streams))
    for _ in range(spikes):
        at, stream = int(rng.integers(100, seconds - 60)), int(rng.integers(0, streams))
        values[at : at + 4, stream] += rng.choice([-1, 1]) * rng.uniform(15, 40)
    with path.open("w") as out:
        for second in range(seconds):
            for stream in range(streams):
                out.write(
                    json.dumps({"ts": start_s + second, "machine": f"m{stream}", "value": values[second, stream]})
                    + "\n"
                )


def replay(path: Path, **more: Any) -> dict[str, Any]:
    """A source entry of agent.yaml for a file of `write_plant`."""
    return {
        "type": "replay",
        "path": str(path),
        "stream": "machine",
        "time": "ts",
        "channels": {"value": "value"},
        **more,
    }


class AgentProcess:
    """Settings of one node, and its process while it runs."""

    def __init__(self, folder: Path, *, sources: dict[str, Any], models: dict[str, list[str]], **more: Any) -> None:
        self.folder, self.data_dir = folder, folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "agent.yaml"
        document = {"version": 1, "node": "n1", "data_dir": str(self.data_dir), "sources": sources, "models": models}
        self.config.write_text(yaml.safe_dump(document | more))
        self.process: subprocess.Popen[bytes] | None = None
        self.stdin: IO[bytes] | int | None = subprocess.DEVNULL

    def __enter__(self) -> AgentProcess:
        self.start()
        self.wait(self.answers)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, code: str = "") -> None:
        """Start the process, or `code` in its place; it may not answer yet."""
        program = ["-c", code] if code else ["-m", "edgectl_agent"]
        command = [sys.executable, *program, "run", "--config", str(self.config)]
        with (self.folder / "stderr").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdin=self.stdin)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_s)
        self.process = None
        return code

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the agent ended with {self.process.returncode}: {self.log()[-2000:]}")
        try:
            return bool(self.contact()["pid"] == self.process.pid) and self.call("GET", "/v1/live")[0] == 200
        except (OSError, ValueError):
            return False

    def contact(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data_dir / "api.json").read_text())
        return found

    def call(self, method: str, path: str, body: object = None, token: str | None = None) -> tuple[int, bytes]:
        """One call of the control API: status and body."""
        contact = self.contact()
        headers = {"Authorization": f"Bearer {contact['token'] if token is None else token}"}
        data = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(contact["url"] + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.read()

    def status(self) -> Report:
        return msgspec.json.decode(self.call("GET", "/v1/status")[1], type=Report)

    def alerts(self, after: int = 0) -> list[Alert]:
        """Every acknowledged record above `after`, page by page."""
        found: list[Alert] = []
        while True:
            page = msgspec.json.decode(self.call("GET", f"/v1/alerts?after={after}&limit=1000")[1], type=AlertPage)
            if not page.records:
                return found
            found += [record.alert for record in page.records]
            after = page.next_after

    def wait(self, done: Callable[[], bool], timeout_s: float = START_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s} s: {self.log()[-2000:]}")
            time.sleep(0.02)

    def wait_for_end(self, source: str = "s", timeout_s: float = 120.0) -> None:
        """Until a replay has reached the end of its file."""
        self.wait(lambda: any(s.name == source and s.state == "ended" for s in self.status().sources), timeout_s)

    def log(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    def rss_bytes(self) -> int:
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def outcome(alerts: Iterable[Alert]) -> set[tuple[object, ...]]:
    """What of alert records a replay must reproduce: everything but the node's clock."""
    return {
        (
            a.id,
            a.stream,
            a.severity,
            a.state,
            a.onset_ns,
            a.changed_ns,
            a.score,
            a.threshold,
            a.surprise,
            a.contributions,
        )
        for a in alerts
    }
