"""From an alert found to the beginning of its action and to its end: outbox, journal and effect on this disk.

Each alert is recorded alone, as a lone reading's is: two writes to stable storage lie before its action begins.

    python -m bench.actions
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
from edgectl_agent import actions
from edgectl_agent.actions.responder import Responder
from edgectl_agent.config import Config
from edgectl_agent.core.allowed import read
from edgectl_agent.core.messages import Alert
from edgectl_agent.ledger import Ledger
from edgectl_agent.outbox import Outbox

from bench._report import record

ALERTS = 500
BUDGET_MS = 10.0
"""Of a far-edge node."""


def main() -> int:
    """Measure a file and a program, and record."""
    with tempfile.TemporaryDirectory() as scratch:
        file = {"type": "file", "path": f"{scratch}/out"}
        program = {"type": "exec", "command": ["/bin/true"]}
        disk = two_fsyncs(Path(scratch, "bare"))
        began, ended = measure(Path(scratch, "file"), file)
        _, run = measure(Path(scratch, "exec"), program)
    p50, p99 = np.percentile(began, [50, 99])
    beside = f"two bare fsyncs on this disk, p99: {disk:.1f} ms"
    record("actions.alert_to_begin.p50", round(p50, 2), "ms", better="lower")
    met = record("actions.alert_to_begin.p99", round(p99, 2), "ms", better="lower", peer=beside, goal=BUDGET_MS)
    record("actions.alert_to_line.p99", round(float(np.percentile(ended, 99)), 2), "ms", better="lower")
    record("actions.alert_to_exit.p99", round(float(np.percentile(run, 99)), 2), "ms", better="lower")
    return 0 if met else 1


def measure(folder: Path, action: dict[str, object]) -> tuple[list[float], list[float]]:
    """Milliseconds from the alert to the beginning and to the end of its effect, one alert after the other."""
    document = {"version": 1, "node": "n1", "data_dir": str(folder), "actions": [action | {"rate": "10000/1s"}]}
    (responder,) = actions.effects(msgspec.convert(document, Config), time.time_ns)
    responder.allow(read([{"type": "file", "path": "/"}, {"type": "exec", "path": "/bin/true"}]))
    outbox = Outbox(folder / "outbox", boot="b", limit_bytes=100_000_000)
    outbox.open()
    ledger = Ledger(outbox, [], [responder])
    ledger.recover(None)
    began: list[float] = []
    ended: list[float] = []
    responder.observe = lambda seconds: began.append(seconds * 1e3)
    for n in range(ALERTS):
        start_s = time.perf_counter()
        ledger.offer([_alert(n)])
        ledger.flush(time.time_ns())
        _wait(responder, n + 1)
        ended.append((time.perf_counter() - start_s) * 1e3)
    ledger.close()
    outbox.close()
    return began, ended


def two_fsyncs(path: Path) -> float:
    """Milliseconds that two appends to stable storage take on this disk, p99: what lies before an action at least."""
    took = []
    with path.open("ab") as file:
        for _ in range(ALERTS):
            start_s = time.perf_counter()
            for _ in range(2):
                file.write(b"x" * 600)
                file.flush()
                os.fsync(file.fileno())
            took.append((time.perf_counter() - start_s) * 1e3)
    return float(np.percentile(took, 99))


def _wait(responder: Responder, count: int) -> None:
    pause = threading.Event()
    while responder.status().outcomes.get("ok", 0) < count:
        pause.wait(0.0002)


def _alert(n: int) -> Alert:
    now_ns = time.time_ns()
    return Alert(
        id=f"a-{n}", node="n1", stream="s", recipe="r", version="1", bundle="b", variant="fp32", severity="critical",
        state="open", onset_ns=now_ns, changed_ns=now_ns, score=1.0, threshold=0.5, surprise=3.0, raised_ns=now_ns,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
