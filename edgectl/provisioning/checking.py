"""Checks machines of the fleet one by one: what `edgectl nodes check` prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import msgspec
from edgectl_agent.core.units import size_bytes

from edgectl.core.errors import EdgeError, NodeUnreachable, NodeUntrusted, RemoteRefused
from edgectl.core.machines import Check, Needs, Verdict, check, worst
from edgectl.core.wheels import Manifest
from edgectl.inventory.types import Node
from edgectl.machine import layout as layouts
from edgectl.machine.facts import gather
from edgectl.machine.interface import Host


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One node's machine."""

    name: str
    verdict: Verdict | Literal["unreachable"]
    checks: tuple[Check, ...]
    exit_code: int = 0
    """What a command that meets this machine ends with."""


def pinned(constraints: bytes, package: str) -> str:
    """The version of `package` in pip's constraints; empty if they name none."""
    found = re.search(rf"^{re.escape(package)}==(\S+)$", constraints.decode(), re.M)
    return found[1] if found else ""


def machine(node: Node, host: Callable[[Node], Host], wheelhouses: tuple[Manifest, ...], onnxruntime: str) -> Checked:
    """Look at the machine of `node`. Never raises a deliberate error: it is a check that failed."""
    try:
        with_host = host(node)
        try:
            facts, now_s = gather(with_host, layouts.of(node))
        finally:
            with_host.close()
    except NodeUntrusted as e:
        refused = Check(name="host key", verdict="refuse", found=_said(node, e), fix=e.hint or "")
        return Checked(name=node.name, verdict="refuse", checks=(refused,), exit_code=e.exit_code)
    except EdgeError as e:
        refused = Check(name="connection", verdict="refuse", found=_said(node, e), fix=e.hint or "")
        missed: Literal["unreachable", "refuse"] = "unreachable" if isinstance(e, NodeUnreachable) else "refuse"
        code = e.exit_code if isinstance(e, NodeUnreachable) else RemoteRefused.exit_code
        return Checked(name=node.name, verdict=missed, checks=(refused,), exit_code=code)
    needs = Needs(
        node=node.name,
        now_s=now_s,
        memory_bytes=size_bytes(node.limits.memory),
        outbox_bytes=size_bytes(node.limits.outbox),
        packages=node.agent.packages,
        wheelhouses=wheelhouses,
        onnxruntime=onnxruntime,
    )
    checks = (
        Check(name="connection", verdict="ok", found=f"{node.connect.user or facts.user}@{node.connect.host}"),
        *check(facts, needs),
    )
    verdict = worst(checks)
    code = RemoteRefused.exit_code if verdict == "refuse" else 0
    return Checked(name=node.name, verdict=verdict, checks=checks, exit_code=code)


def _said(node: Node, e: EdgeError) -> str:
    return e.message.removeprefix(f"node {node.name}: ")  # the row names it already
