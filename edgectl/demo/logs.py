"""The demo's part for logs: a service's log with labelled faults, followed by a node of its own; what is found of them.

Everything is a command that works the same by hand.
"""

from __future__ import annotations

import json
import time
from importlib.util import find_spec

import msgspec

from edgectl.demo.shell import Shell

NODE, LABELS = "web-gw", "log-faults.csv"
_HISTORY_HOURS, _LIVE_HOURS = 48, 24
_WAIT_S = 40.0


class LogScore(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed of ``edgectl alerts score -o json``."""

    faults: int
    found: int
    false_alerts: int


def play(shell: Shell) -> LogScore | None:
    """Train on two days of a log, deploy, let a third day come, and score the alerts; None where drain3 is missing.

    Raises `StepFailed`.
    """
    shell.heading("9 · Logs: lines become templates, templates become counts; a day with labelled faults")
    if find_spec("drain3") is None:
        shell.say("left out, because drain3 is not installed: pip install 'edgectl[logs]'")
        return None
    shell.run("generate", "logs", "history.log", "--hours", str(_HISTORY_HOURS), quiet=True)
    shell.run("train", "logs", "--data", "history.log", quiet=True)
    shell.run("models", "sign", "logs", quiet=True)
    shell.run(
        "nodes", "add", NODE, "--via", "local", "--tier", "near-edge",
        "--source", "app=tail:app.log", "--model", "logs=app",
    )  # fmt: skip
    shell.run("deploy", "logs", "--yes", quiet=True)
    shell.run(
        "generate", "logs", "app.log", "--hours", str(_LIVE_HOURS), "--after", str(_HISTORY_HOURS), "--labels", LABELS,
        quiet=True,
    )  # fmt: skip
    score = _settled(shell)
    shell.run("alerts", "score", LABELS, "--recipe", "logs")
    return score


def _settled(shell: Shell) -> LogScore:
    """The score when all faults are found, or when there was time enough: a missed one is a result to print."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        shell.run("collect", quiet=True, show=False)
        said = shell.run("alerts", "score", LABELS, "--recipe", "logs", "-o", "json", quiet=True, show=False)
        score = msgspec.convert(json.loads(said), LogScore)
        if score.found == score.faults or time.monotonic() > deadline:
            return score
        time.sleep(0.5)
