"""Asks the running agent whether it is well: what a switch to another version or configuration is judged by."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from edgectl_agent import config as configs
from edgectl_agent import contact
from edgectl_agent.core.errors import StorageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import Report

_CALL_S = 5.0
_AGAIN_S = 0.2


@dataclass(frozen=True)
class Finding:
    """The agent's report, if it gave one, and in one sentence what is wrong with it; nothing if it is well."""

    report: Report | None
    problem: str = ""


def judge(report: Report, node: str, version: str, config_sha256: str) -> str:
    """What is wrong with an agent that answers, in one sentence."""
    if report.node != node:
        return f"the agent that answers is that of node {report.node}, not of {node}"
    if version and report.agent != version:
        return f"the agent that runs is version {report.agent}, expected {version} → restart it"
    if report.config_sha256 != config_sha256:
        return "the agent runs with another agent.yaml than this one → restart it"
    if report.state == "failed":
        return f"the agent runs and has failed: {'; '.join(report.reasons)}"
    return ""


def until_well(path: Path, version: str, within_s: float, monotonic: Callable[[], float] = time.monotonic) -> Finding:
    """Ask until the agent of the agent.yaml at `path` is well or `within_s` seconds are over.

    Raises:
        ConfigError: there is no such agent.yaml, or it is invalid.
    """
    config, sha256 = configs.load(path)
    end_s = monotonic() + within_s
    while True:
        found = _ask(config.folder)
        if found.report is not None:
            found = Finding(found.report, judge(found.report, config.node, version, sha256))
        if not found.problem or monotonic() >= end_s:
            return found
        time.sleep(_AGAIN_S)


def _ask(folder: Path) -> Finding:
    try:
        there = contact.read(folder)
    except StorageError as e:
        return Finding(None, str(e))
    if there is None:
        return Finding(None, f"no agent runs on {folder}")
    try:
        with httpx.Client(trust_env=False, timeout=_CALL_S) as client:  # a proxy has no business on the loopback
            answer = client.get(f"{there.url}/v1/status", headers={"Authorization": f"Bearer {there.token}"})
            answer.raise_for_status()
        return Finding(msgspec.json.decode(answer.content, type=Report))
    except httpx.TimeoutException:
        return Finding(None, f"the agent on {folder} gives no answer within {_CALL_S:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError):  # killed: its port is closed, or another program's now
        return Finding(None, f"no agent runs on {folder}: it ended without a word")
    except UNREADABLE as e:
        return Finding(None, f"the agent on {folder} answers nonsense: {e}")
