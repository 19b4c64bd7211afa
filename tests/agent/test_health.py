"""One word for the node's state, with every reason for it."""

from __future__ import annotations

from typing import Any

import pytest
from edgectl_agent.core.messages import ModelStatus, OutboxStatus, SourceStatus
from edgectl_agent.health import judge

OUTBOX = OutboxStatus(records=0, bytes=0, limit_bytes=1000, head_seq=0)
SOURCE = SourceStatus(name="s", state="running")


def model(**more: Any) -> ModelStatus:
    usual: dict[str, Any] = {"streams": 10, "warming": 1, "counters": {"ok": 5}}
    return ModelStatus(
        recipe="r",
        version="1",
        bundle="b",
        variant="fp32",
        golden_error=0.0,
        inferences=1,
        activated_ns=1,
        **usual | more,
    )


@pytest.mark.parametrize(
    ("changed", "state", "reason"),
    [
        ({}, "healthy", None),
        ({"models": ()}, "warming", "r: no model yet"),
        ({"models": (model(streams=0, warming=0),)}, "warming", "r: 0 of 0 streams warm up"),
        ({"models": (model(warming=6),)}, "warming", "r: 6 of 10 streams warm up"),
        ({"models": (model(counters={"not_finite": 3}),)}, "degraded", "r: 3 scores were no numbers"),
        ({"sources": (SourceStatus(name="s", state="failed", detail="gone"),)}, "degraded", "source s: gone"),
        ({"sources": (SourceStatus(name="s", state="ended"),)}, "healthy", None),
        ({"storage": ("", "disk full")}, "degraded", "storage: disk full"),
        ({"outbox": OutboxStatus(records=9, bytes=950, limit_bytes=1000, head_seq=9)}, "degraded", "outbox holds 950"),
        ({"failed": {"r": "golden"}, "models": ()}, "failed", "r: golden"),
        ({"failed": {"r": "golden"}, "storage": ("disk full",)}, "failed", "r: golden"),
    ],
)
def test_the_worst_reason_names_the_state(changed: dict[str, Any], state: str, reason: str | None) -> None:
    facts: dict[str, Any] = {
        "wanted": ("r",), "models": (model(),), "failed": {}, "sources": (SOURCE,), "storage": (), "outbox": OUTBOX,
    }  # fmt: skip
    found, reasons = judge(**facts | changed)
    assert found == state
    assert (reasons[0].startswith(reason)) if reason else reasons == ()
