"""Why a node is not healthy: what is concluded from what is known."""

from __future__ import annotations

from typing import Any

import pytest
from edgectl_agent.core.messages import ActionStatus, OutboxStatus, Report, SourceStatus

from edgectl.core.audit import Finding
from edgectl.core.records import Expected, NodeRecord
from edgectl.core.why import Placed, Step, Subject, diagnose, siblings

S = 10**9
NOW = 1_000_000 * S
ASK = "edgectl nodes why a --ask"
GO = "edgectl nodes upgrade --resume r-1"


def report(**more: Any) -> Report:
    outbox = OutboxStatus(records=0, bytes=0, limit_bytes=1, head_seq=0)
    return Report(**{"node": "a", "agent": "0.1.0", "boot": "b", "clock_ns": NOW, "uptime_s": 1, "state": "healthy",
                     "outbox": outbox, **more})  # fmt: skip


def heard(age_s: int = 5, **more: Any) -> NodeRecord:
    return NodeRecord(node="a", report=report(**more), received_ns=NOW - age_s * S)


def lost(error: str = "node a: 10.0.0.1:22: no route to host", **more: Any) -> NodeRecord:
    return NodeRecord(node="a", error=error, failing_since_ns=NOW - 7200 * S, attempted_ns=NOW, **more)


def subject(record: NodeRecord | None, **more: Any) -> Subject:
    base: dict[str, Any] = {"now_ns": NOW, "node": "a", "via": "ssh", "expected": Expected(silent_after_ns=300 * S)}
    return Subject(record=record, **{**base, **more})


def behind(*conditions: str) -> dict[str, Any]:
    """As many others behind the same jump host, in these conditions; and the site, of which one is well."""
    depends = {"a": ("jump host j", "site s"), "well": ("site s",)}
    depends |= {f"b{i}": ("jump host j", "site s") for i in range(len(conditions))}
    states = {"a": "unreachable", "well": "healthy"} | {f"b{i}": state for i, state in enumerate(conditions)}
    return {"depends": depends["a"], "siblings": siblings("a", depends, states)}


OK = (Step(stage="name", state="ok"), Step(stage="tcp", state="ok"))
NO_LOGIN = (*OK, Step(stage="login", state="failed", detail="node a: no key is accepted", fix="ssh-copy-id"))
FED = SourceStatus(name="s", state="running", accepted=10, rejected={"bad-time": 9})
MISREAD = SourceStatus(name="s", state="running", accepted=1, rejected={"bad-time": 1200, "unparsable": 5})
REFUSED = ActionStatus(name="slow", type="exec", refused="not allowed: no rule")
FINDING = Finding(kind="config-drift", node="a", since_ns=0, detail="drifted", fix="edgectl nodes configure")


@pytest.mark.parametrize(
    ("known", "state", "first", "fix"),
    [
        (subject(heard()), "healthy", "", ""),
        (subject(None), "unknown", "nothing was heard of it yet", ASK),
        (subject(None, via="pull"), "unknown", "nothing was heard of it yet", ""),
        (subject(heard(sources=(FED,))), "healthy", "", ""),
        (subject(heard(sources=(MISREAD,))), "healthy", "source s: 1,205 of 1,206 records are no readings, most of them"
         " bad-time: dead-letters/s.jsonl in its data folder shows some", ""),
        (subject(lost()), "unreachable", "10.0.0.1:22: no route to host (for 2h)", ASK),
        (subject(heard(400)), "silent", "its newest report is of 1970-01-12T13:40:00", ASK),
        (subject(heard(state="failed", reasons=("p: bad",))), "failed", "p: bad", "edgectl nodes restart a"),
        (subject(heard(state="degraded", reasons=("disk",))), "degraded", "disk", ""),
        (subject(heard(state="degraded", reasons=("action slow: not allowed: no rule",), actions=(REFUSED,))),
         "degraded", "action slow: not allowed: no rule", "edgectl nodes allow"),
        (subject(heard(state="warming")), "warming", "reports itself warming", ""),
        (subject(heard(state="warming", reasons=("p: no model yet",))), "warming", "p: no model yet",
         "edgectl deploy p --select name=a"),
        (subject(heard(), findings=(FINDING,)), "healthy", "config-drift: drifted", "edgectl nodes configure"),
        (subject(lost(), **behind("unreachable", "silent", "healthy")), "unreachable",
         "2 of 3 others behind jump host j are away too: look there first", ASK),
        (subject(lost(), **behind("unreachable", "healthy", "healthy")), "unreachable", "10.0.0.1:22: no route", ASK),
        (subject(lost(), steps=NO_LOGIN), "unreachable", "login: node a: no key is accepted", "ssh-copy-id"),
        (subject(heard(400), steps=OK), "healthy", "", ""),
        (subject(heard(400), via="pull", waiting=3), "silent", "its newest report is of", ""),
        (subject(lost(), via="usb"), "unreachable", "10.0.0.1:22: no route", "edgectl collect --from FILE"),
    ],
)  # fmt: skip
def test_the_first_reason_is_the_one_to_act_on(known: Subject, state: str, first: str, fix: str) -> None:
    found = diagnose(known)
    assert found.state == state
    assert (found.reasons[0].text if found.reasons else "").startswith(first)
    assert found.next.startswith(fix)
    assert bool(found.next) is bool(fix)


@pytest.mark.parametrize(
    ("placed", "said"),
    [
        (Placed(rollout="r-1", what="deploy p 2", state="failed", detail="too slow", resume=GO), True),
        (Placed(rollout="r-1", what="deploy p 2", state="failed", detail="too slow"), True),
        (Placed(rollout="r-1", what="deploy p 2", state="pending", detail="", resume=GO), True),
        (Placed(rollout="r-1", what="deploy p 2", state="pending", detail=""), False),
        (Placed(rollout="r-1", what="deploy p 2", state="confirmed", detail="", resume=GO), False),
    ],
)
def test_a_rollout_that_has_not_reached_it_is_a_reason(placed: Placed, said: bool) -> None:
    reasons = diagnose(subject(heard(), rollout=placed)).reasons
    assert [reason.fix for reason in reasons if reason.text.startswith("r-1 (deploy p 2)")] == [placed.resume] * said


def test_a_shared_cause_comes_before_the_stage_that_failed_and_names_the_parent_to_ask() -> None:
    depends = dict.fromkeys("abcd", ("parent gw",))
    others = siblings("a", depends, dict.fromkeys("abcd", "silent"))
    found = diagnose(subject(lost(), depends=("parent gw",), siblings=others, steps=NO_LOGIN))
    assert [reason.fix for reason in found.reasons] == ["edgectl nodes why gw --ask", "ssh-copy-id"]


def test_what_a_lost_node_said_last_is_told_as_history() -> None:
    found = diagnose(subject(lost(report=report(state="degraded", reasons=("disk",)))))
    assert found.reasons[1].text == "when last heard it was degraded: disk"
