"""An agent with a real process, a real port and scripted manners, for what a real agent would not do on demand.

Run as ``python agent_double.py run --config BASE/agent.yaml``; ``BASE/manners`` holds one of: (empty) polite,
``ends`` (dies at once), ``deaf`` (never opens its port), ``stubborn`` (ignores SIGTERM), ``babbles`` (answers
nonsense), ``refuses`` (409 to every POST).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BASE = Path(sys.argv[-1]).parent
DATA = BASE / "data"
MANNERS = (BASE / "manners").read_text() if (BASE / "manners").exists() else ""
REPORT = {
    "node": BASE.name, "agent": "0.0.0", "boot": "b1", "clock_ns": 1, "uptime_s": 1.0, "state": "healthy",
    "outbox": {"records": 0, "bytes": 0, "limit_bytes": 1, "head_seq": 0},
}  # fmt: skip
ALERTS = {"node": BASE.name, "records": [], "next_after": 0}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path != "/v1/live" and self.headers["Authorization"] != "Bearer secret":
            return self.answer(401, {"error": "wrong token", "reason": "auth"})
        found = {"/v1/live": {}, "/v1/status": REPORT, "/v1/alerts": ALERTS, "/v1/have": {"bundles": ["ab"], "root": 1}}
        if MANNERS == "babbles":
            return self.answer(200, ["what?"])
        return self.answer(200, found[path]) if path in found else self.answer(404, {"error": f"no {path}"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if MANNERS == "refuses":
            body = {"state": "refused", "reason": "old-epoch", "message": "epoch 3 is below 4", "exit_code": 42}
            return self.answer(409, body)
        return self.answer(200, {"state": "unchanged"})

    def answer(self, status: int, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        pass


def main() -> None:
    print("agent double starts", flush=True)
    DATA.mkdir(exist_ok=True)
    if MANNERS == "ends":
        sys.exit("config is beyond me")
    if MANNERS == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if MANNERS == "deaf":
        time.sleep(600)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api = {"url": f"http://127.0.0.1:{server.server_port}", "token": "secret", "pid": os.getpid(), "boot": "b1"}
    (DATA / "api.tmp").write_text(json.dumps(api))
    (DATA / "api.tmp").replace(DATA / "api.json")
    server.serve_forever()


if __name__ == "__main__":
    main()
