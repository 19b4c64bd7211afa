"""A small real fleet that nobody can reach: agents that poll a static web server and report to `edgectl serve`.

fleet = PullFleet(tmp_path, ("far-1", "far-2"))
fleet.release("1.0.0", seed=1)
fleet.shell.ok("deploy", "press", "--yes")
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from edgectl_agent.core.bundle import digest, encode
from edgectl_agent.core.messages import Release

from edgectl.core.records import NodeRecord
from edgectl.store.store import Store
from edgectl.trust.keys import KeyStore
from edgectl.trust.repository import Repository
from tests.scenarios.fleets import RECIPE, until
from tests.support.bundles import make_bundle, make_release
from tests.support.cli import Shell
from tests.support.webserver import StaticServer

FLEET = """\
version: 1
fleet: plant
repository: {{dir: ./repo, url: "{repository}"}}
receiver: {{url: "{receiver}"}}
defaults: {{connect: {{via: pull, every: {every}}}, report: {{every: {every}, silent_after: 30s}}}}
nodes:
"""
NODE = "  - {{name: {name}, agent: {{folder: {folder}}}, sources: {{s: {{type: tail, path: {input}, from: start}}}}, models: {{press: [s]}}}}\n"  # noqa: E501


class PullFleet:
    """The operator's folder, the web server, the receiver and the agents; `close` ends them."""

    def __init__(self, folder: Path, names: Iterable[str], every: str = "1s", tls: bool = False) -> None:
        self.shell = Shell(folder)
        self.folder, self.names, self.tls = folder, tuple(names), tls
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.server: subprocess.Popen[str] | None = None
        self.port = free_port()
        self.web = StaticServer(folder / "repo").__enter__()
        receiver = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        text = FLEET.format(repository=self.web.url, receiver=receiver, every=every)
        for name in self.names:
            source = self.node(name).with_suffix(".jsonl")
            source.touch()
            text += NODE.format(name=name, folder=self.node(name), input=source)
        (folder / "fleet.yaml").write_text(text)
        self.shell.ok("init")
        (folder / "models" / "press").mkdir(parents=True)
        (folder / "models" / "press" / "recipe.yaml").write_text(RECIPE)
        self.repository = Repository(folder / "repo", KeyStore(folder / ".edgectl" / "keys"))
        for name in self.names:
            self.enrol(name)

    def close(self) -> None:
        for name in list(self.agents):
            self.kill(name)
        self.stop_receiver()
        self.web.__exit__()

    # ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def node(self, name: str) -> Path:
        """The node's own folder."""
        return self.folder / "far" / name if (self.folder / "far").mkdir(exist_ok=True) is None else self.folder

    def enrol(self, name: str) -> None:
        """Put there by hand what an invite installs: agent.yaml, whom to trust, the token."""
        from edgectl.cli import wiring
        from edgectl.fleet.membership import files
        from edgectl.inventory.agent_config import CA_FILE, TOKEN_FILE
        from edgectl.workspace import Workspace

        workspace = Workspace(self.folder)
        fleet = wiring.inventory(workspace)
        found = files(fleet.node(name), workspace, wiring.columns(workspace), self.repository.root_bytes())
        found[TOKEN_FILE] = self.shell.ok("nodes", "token", name).encode()
        if self.tls:
            found[CA_FILE] = wiring.authority(workspace, fleet).trusted("nodes")
        for path, content in found.items():
            (self.node(name) / path).parent.mkdir(parents=True, exist_ok=True)
            (self.node(name) / path).write_bytes(content)

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "edgectl_agent", "run", "--config", str(self.node(name) / "agent.yaml")]
        self.agents[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self.agents.pop(name)
        process.kill()
        process.wait()

    def feed(self, name: str, values: Iterable[float], start_s: float, stream: str = "m1") -> float:
        """Append one reading per second of event time; returns the next second."""
        with self.node(name).with_suffix(".jsonl").open("a") as out:
            for value in values:
                out.write(json.dumps({"ts": start_s, "machine": stream, "value": value}) + "\n")
                start_s += 1
        return start_s

    # ── receiver ────────────────────────────────────────────────────────────────────────────────────────────────────

    def start_receiver(self) -> None:
        """`edgectl serve`, answering; always on the same port."""
        self.server = self.shell.start("serve", "--listen", f"127.0.0.1:{self.port}")
        assert self.server.stderr is not None
        line = self.server.stderr.readline()
        assert re.match(r"serving plant on https?://127\.0\.0\.1:\d+; Ctrl-C ends it", line), line
        threading.Thread(target=self.server.stderr.read, daemon=True).start()  # a full pipe must not hold it

    def stop_receiver(self, number: int = signal.SIGTERM) -> int:
        """Returns its exit code."""
        if self.server is None:
            return 0
        os.kill(self.server.pid, number)
        code = self.server.wait(60)
        for pipe in (self.server.stdout, self.server.stderr):
            if pipe is not None:
                pipe.close()
        self.server = None
        return code

    # ── what is known ───────────────────────────────────────────────────────────────────────────────────────────────

    def release(self, version: str, seed: int, kind: str = "ok") -> Release:
        """Sign one release; it permits the return to every earlier one."""
        raw = encode(make_bundle(seed, "press", kind))
        older = self.repository.releases()
        fallbacks = tuple(ref.sha256 for release in older for ref in release.variants)
        release = make_release("press", version, len(older) + 1, raw, fallbacks=fallbacks)
        self.repository.add_release(release, {digest(raw): raw}, None, datetime.now(UTC))
        return release

    def record(self, name: str) -> NodeRecord | None:
        """What the store knows of a node."""
        with Store("sqlite:///.edgectl/state.db", self.folder) as store:
            return store.nodes.get(name)

    def versions(self) -> dict[str, str]:
        """What each node last reported that it runs."""
        found = {name: self.record(name) for name in self.names}
        return {n: m.version for n, record in found.items() if record and record.report for m in record.report.models}

    def alerts(self) -> list[str]:
        """Ids of the alerts in the store."""
        with Store("sqlite:///.edgectl/state.db", self.folder) as store:
            return sorted(record.alert.id for record in store.alerts.find())

    def accepted(self, name: str) -> int:
        """Readings that the node last reported."""
        record = self.record(name)
        return sum(s.accepted for s in record.report.sources) if record and record.report else 0

    def until_reported(self, name: str, after_ns: int = 0) -> None:
        until(lambda: (record := self.record(name)) is not None and record.received_ns > after_ns)


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
