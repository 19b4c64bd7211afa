"""An agent with a real process, a real port and scripted manners, for what a real agent would not do on demand.

Run as ``python agent_double.py run --config BASE/agent.yaml``; ``BASE/manners`` holds one of: (empty) polite,
``ends`` (dies at once), ``deaf`` (never opens its port), ``stubborn`` (ignores SIGTERM), ``babbles`` (answers
nonsense), ``refuses`` (409 to every POST).

With ``BASE/uplink.json`` (``{"url", "token_file"}``) it reports to a receiver there, by the agent's own code.
With ``BASE/tls.json`` (``{"port", "cert", "key", "client_ca"}``) it listens there too, for clients with a certificate.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

BASE = Path(sys.argv[-1]).parent
DATA = BASE / "data"
MANNERS = (BASE / "manners").read_text() if (BASE / "manners").exists() else ""
REPORT = {
    "node": BASE.name, "agent": "0.0.0", "boot": f"b{os.getpid()}", "clock_ns": 1, "uptime_s": 1.0, "state": "healthy",
    "outbox": {"records": 0, "bytes": 0, "limit_bytes": 1, "head_seq": 0},
}  # fmt: skip
ALERTS = {"node": BASE.name, "records": [], "next_after": 0}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        known = self.headers["Authorization"] == "Bearer secret" or isinstance(self.connection, ssl.SSLSocket)
        if path != "/v1/live" and not known:
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

    def do_PUT(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        digest = base64.b64encode(hashlib.sha256(raw).digest()).decode()
        assert self.headers["Repr-Digest"] == f"sha-256=:{digest}:"
        target = DATA / "spool" / unquote(self.path.removeprefix("/v1/spool/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(".part").write_bytes(raw)
        target.with_name(".part").replace(target)
        self.answer(200, {})

    def answer(self, status: int, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        pass


def secured(said: dict[str, str]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", int(said["port"])), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(said["cert"], said["key"])
    context.load_verify_locations(said["client_ca"])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def report_to(said: dict[str, str]) -> None:
    """The real uplink of an agent that has no alerts and says what this double says."""
    import random
    from types import SimpleNamespace

    from edgectl_agent import contact
    from edgectl_agent.uplink.loop import Loop
    from edgectl_agent.uplink.orders import Orders, loopback
    from edgectl_agent.uplink.pace import Pace
    from edgectl_agent.uplink.sync import Reporter
    from edgectl_agent.uplink.web import Web

    def own_api() -> tuple[str, str]:
        there = contact.read(DATA)
        assert there is not None
        return there.url, there.token

    def report() -> object:
        now = {"clock_ns": time.time_ns(), "uptime_s": time.monotonic()}
        return ["what?"] if MANNERS == "babbles" else REPORT | now

    nothing = SimpleNamespace(
        read=lambda after, limit: [], lost=(), log_id="", release=lambda through, log_id: None,
        status=lambda: SimpleNamespace(records=0, head_seq=0),
    )  # fmt: skip
    orders = Orders(loopback(own_api), lambda: loop.nudge())
    reporter = Reporter(said["url"], Web(), Path(said["token_file"]), BASE.name, nothing, report, orders)
    loop = Loop(reporter, Pace(0.3), random.Random())
    loop.start()


def main() -> None:
    print("agent double starts", flush=True)
    DATA.mkdir(exist_ok=True)
    if MANNERS == "ends":
        sys.exit("config is beyond me")
    if MANNERS == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if MANNERS == "deaf":
        time.sleep(600)
    if (BASE / "tls.json").exists():
        threading.Thread(target=secured(json.loads((BASE / "tls.json").read_text())).serve_forever, daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api = {
        "url": f"http://127.0.0.1:{server.server_port}",
        "token": "secret",
        "pid": os.getpid(),
        "boot": REPORT["boot"],
    }
    (DATA / "api.tmp").write_text(json.dumps(api))
    (DATA / "api.tmp").replace(DATA / "api.json")
    if (BASE / "uplink.json").exists():
        report_to(json.loads((BASE / "uplink.json").read_text()))
    server.serve_forever()


if __name__ == "__main__":
    main()
