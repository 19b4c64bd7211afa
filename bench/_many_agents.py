"""The control APIs of many nodes in one process, for benchmarks of the operator's side: cheap where the node is not
what is measured, real where the operator's side would notice.

Each node has a folder, an ``api.json`` with a token of its own and a spool. An update is verified as on a node, by the
agent's own `TrustClient` over that spool (signatures, digests, golden vectors in ONNX Runtime), though in this process
and not in a child with limits, one node after the other. Nothing is detected: the report names what was verified, and
the outbox is empty.

    python -m bench._many_agents FOLDER…
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
from edgectl_agent.core.desired import Running, Standing
from edgectl_agent.core.messages import AlertPage, ModelStatus, OutboxStatus, Release, Report, UpdateResult
from edgectl_agent.trust_client import TrustClient

STARTED = time.monotonic()


class Node:
    """One node's state."""

    def __init__(self, base: Path) -> None:
        self.base, self.name, self.data = base, base.name, base / "data"
        self.report = Report(
            node=self.name, agent="0.1.0", boot="b", clock_ns=0, uptime_s=0, state="healthy",
            outbox=OutboxStatus(records=0, bytes=0, limit_bytes=1, head_seq=0, log_id="0" * 32),
        )  # fmt: skip
        self._standing = Standing()
        self._turn = threading.Lock()

    def status(self) -> Report:
        return msgspec.structs.replace(self.report, clock_ns=time.time_ns(), uptime_s=time.monotonic() - STARTED)

    def update(self) -> UpdateResult:
        with VERIFYING, self._turn:
            found = TrustClient(self.data, self.name, time.time_ns(), lambda doing: None).run(self._standing)
            if found.exit_code:
                return UpdateResult(
                    state="refused", reason=found.reason, message=found.message, exit_code=found.exit_code
                )
            models = {model.recipe: model for model in self.report.models}
            for staged in found.staged:
                raw = (self.data / "staging" / staged.recipe / "release.json").read_bytes()
                release = msgspec.json.decode(raw, type=Release)
                running = Running(
                    version=staged.version, bundle=staged.bundle, counter=release.counter, fallbacks=release.fallbacks
                )
                self._standing = msgspec.structs.replace(
                    self._standing, running=self._standing.running | {staged.recipe: running}
                )
                models[staged.recipe] = ModelStatus(
                    recipe=staged.recipe, version=staged.version, bundle=staged.bundle, variant=staged.variant,
                    golden_error=0.0, inferences=1, activated_ns=time.time_ns(),
                )  # fmt: skip
            self.report = msgspec.structs.replace(
                self.report, models=tuple(models.values()), epoch=found.epoch, trust=found.trust
            )
            return UpdateResult(state="confirmed", models=self.report.models, epoch=found.epoch, trust=found.trust)

    def have(self) -> dict[str, list[str]]:
        return {"bundles": [model.bundle for model in self.report.models]}

    def alerts(self) -> AlertPage:
        return AlertPage(node=self.name, records=(), next_after=0, log_id="0" * 32)


NODES: dict[str, Node] = {}
VERIFYING = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """One port for all: the token says which node is meant."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        node = self._node()
        answers = {"/v1/live": dict, "/v1/status": node.status, "/v1/have": node.have, "/v1/alerts": node.alerts}
        self._answer(answers[self.path.partition("?")[0]]())

    def do_POST(self) -> None:
        node = self._node()
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._answer(node.update() if self.path == "/v1/update" else {})

    def _node(self) -> Node:
        return NODES[self.headers["Authorization"].removeprefix("Bearer ")]

    def _answer(self, value: object) -> None:
        raw = msgspec.json.encode(value)
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        del format, args


class Server(ThreadingHTTPServer):
    """Many connections at once."""

    request_queue_size = 512
    daemon_threads = True


def main() -> None:
    """Serve until killed."""
    server = Server(("127.0.0.1", 0), Handler)
    for i, folder in enumerate(sys.argv[1:]):
        node = NODES[f"token-{i}"] = Node(Path(folder))
        api = {"url": f"http://127.0.0.1:{server.server_port}", "token": f"token-{i}", "pid": os.getpid(), "boot": "b"}
        (node.data / "api.json").write_text(json.dumps(api))
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
