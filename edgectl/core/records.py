"""What the operator's side remembers of nodes, alerts and rollouts: the values that the store keeps and rules read."""

from __future__ import annotations

import msgspec
from edgectl_agent.core.messages import Alert, Report

from edgectl.core.rollout import Plan, RolloutState

MALFORMED = "its answer is not a"
"""How the error begins that the receiver keeps of a node whose report it cannot read."""

NOT_INSTALLED = "the agent is not installed"
"""What is said of a machine that is reached and has no agent."""


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one node. `error` is empty if the last attempt to reach it succeeded."""

    node: str
    report: Report | None = None
    received_ns: int = 0
    skew_ns: int = 0
    """The node's clock minus ours when the report came."""
    attempted_ns: int = 0
    failing_since_ns: int = 0
    error: str = ""


class AlertRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An alert with what the operator's side adds. `stored_ns` is when its first record was stored."""

    alert: Alert
    stored_ns: int
    acknowledged_by: str = ""
    acknowledged_ns: int = 0


class RolloutRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout with its plan. `changed_ns` is the time of the newest journal entry."""

    number: int
    recipe: str
    kind: str
    operator: str
    created_ns: int
    changed_ns: int
    state: RolloutState
    plan: Plan

    @property
    def name(self) -> str:
        return f"r-{self.number}"

    @property
    def resume(self) -> str:
        """The command that goes on with it."""
        verb = "deploy" if self.plan.signed else f"nodes {self.kind}"
        return f"edgectl {verb} --resume {self.name}"


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What fleet.yaml says of one node, as far as rules need it."""

    silent_after_ns: int
    site: str = ""
    tier: str = ""
    agent_version: str = ""
    """Pattern of the agent's version, empty if any will do."""
    config_sha256: str = ""
    """Of the agent.yaml that it should have; empty where that is not worked out."""
    config_refused: str = ""
    """Why it can have none."""
    here: bool = False
    """It runs on this machine."""
    asked: bool = True
    """It can be asked how it is; else it reports by itself, or by hand."""
    by_hand: str = ""
    """How whoever owns its machine brings it a configuration and an agent; empty where operators do."""
