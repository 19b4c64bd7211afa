"""The demo's bank: a node reads card payments from a file, and what it finds is compared with the labelled frauds."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any

from edgectl.connectors.client import NodeClient
from edgectl.connectors.local import LocalConnector
from edgectl.demo.shell import Shell, StepFailed
from edgectl.workspace import find

CARDS, SEED = 60, 1
_NODE = "bank-01"
_HISTORY_DAYS, _QUIET_DAYS, _DAYS = 45, 14, 44


def catch_frauds(shell: Shell, wait_s: float = 60.0) -> dict[str, Any]:
    """Train, sign, deploy, let a month of payments pass, and print how many frauds became alerts.

    Returns:
        The figures as ``edgectl alerts score -o json`` has them.

    Raises:
        StepFailed: a command failed, or the node did not read all payments.
    """
    shell.heading("10 · Card payments: one stream per card, habits and velocity; a month with labelled frauds")
    some = ("--cards", str(CARDS), "--seed", str(SEED))
    shell.run("generate", "transactions", "payments.jsonl", "--days", str(_HISTORY_DAYS), *some)
    shell.run("train", "transactions", "--data", "payments.jsonl", quiet=True)
    shell.run("models", "sign", "transactions", quiet=True)
    shell.run(
        "nodes", "add", _NODE, "--via", "local", "--source", "cards=tail:live.jsonl",
        "--model", "transactions=cards",
    )  # fmt: skip
    shell.run("deploy", "transactions", "--yes", quiet=True)
    shell.run(
        "generate", "transactions", "live.jsonl", "--after", str(_HISTORY_DAYS), "--days", str(_DAYS),
        "--quiet-days", str(_QUIET_DAYS), "--each", "8", "--labels", "frauds.csv", *some,
    )  # fmt: skip
    _read_to_the_end(shell, wait_s)
    shell.run("alerts", "score", "frauds.csv", "--recipe", "transactions")
    told = shell.run("alerts", "score", "frauds.csv", "--recipe", "transactions", "-o", "json", show=False, quiet=True)
    found: dict[str, Any] = json.loads(told)
    return found


def _read_to_the_end(shell: Shell, wait_s: float) -> None:
    """Until the node has read every payment; then its alerts are collected."""
    with (shell.folder / "live.jsonl").open("rb") as file:
        lines = sum(1 for _ in file)
    deadline, read = time.monotonic() + wait_s, 0
    with closing(LocalConnector(_NODE, find(shell.folder).node(_NODE))) as connector:
        client = NodeClient(_NODE, connector)
        while read < lines:
            if time.monotonic() > deadline:
                raise StepFailed(f"{_NODE} read {read:,} of {lines:,} payments in {wait_s:.0f} s")
            time.sleep(0.2)
            read = sum(source.accepted for source in client.status().sources)
    shell.run("collect", quiet=True)
