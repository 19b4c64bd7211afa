"""One onset per anomaly, a state, and the table of `edgectl_agent.core.alerts` held reading by reading."""

from __future__ import annotations

import numpy as np
from edgectl_agent.core.alerts import AlertTracker, Change
from edgectl_agent.core.bundle import AlertRule
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.streams import SECOND, cuts

WARNING, CRITICAL = 1.0, 3.0


def rule(hold_s: int = 0, clear_s: int = 0) -> AlertRule:
    return AlertRule(hold_ns=hold_s * SECOND, clear_after_ns=clear_s * SECOND)


def push(tracker: AlertTracker, t_s: np.ndarray, score: np.ndarray, where: slice = slice(None)) -> list[Change]:
    t, s = (t_s[where] * SECOND).astype(np.int64), score[where].astype(float)
    level = np.ones(len(s))
    return tracker.push(0, t, s, level * WARNING, level * CRITICAL, 7)


def told(changes: list[Change]) -> list[tuple[str, int, float]]:
    kind = {True: "cleared", False: "open"}
    return [
        (kind[c.cleared] + ("!" if c.track.critical else ""), c.track.onset_ns // SECOND, c.track.peak) for c in changes
    ]


def by_the_table(t_s: np.ndarray, score: np.ndarray, hold_s: int, clear_s: int) -> list[tuple[str, int, float]]:
    """The life of an alert, one reading at a time, as the module's table has it."""
    out: list[tuple[str, int, float]] = []
    state, onset, last, peak, critical = "quiet", 0, 0, 0.0, False
    for t, s in zip(t_s.tolist(), score.tolist(), strict=True):
        above = s >= WARNING
        if state == "quiet" and above:
            state, onset, peak, critical = "pending", t, s, False
        if state == "pending":
            if not above:
                state = "quiet"
                continue
            peak, last = max(peak, s), t
            if t - onset >= hold_s:
                state, critical = "open", s >= CRITICAL
                out.append(("open!" if critical else "open", onset, peak))
        elif state == "open":
            peak = max(peak, s)
            if above:
                last = t
                if s >= CRITICAL and not critical:
                    critical = True
                    out.append(("open!", onset, peak))
            elif t - last >= clear_s:
                out.append(("cleared!" if critical else "cleared", onset, peak))
                state = "quiet"
    return out


@settings(deadline=None, max_examples=300)
@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0])), min_size=1, max_size=60),
    hold_s=st.sampled_from([0, 1, 3]),
    clear_s=st.sampled_from([0, 2, 5]),
    data=st.data(),
)
def test_the_tracker_follows_the_table_for_any_batch_boundaries(
    steps: list[tuple[int, float]], hold_s: int, clear_s: int, data: st.DataObject
) -> None:
    t_s, score = np.cumsum([a for a, _ in steps]), np.array([s for _, s in steps])
    tracker, changes = AlertTracker(rule(hold_s, clear_s)), []
    for where in data.draw(cuts(len(steps))):
        changes += push(tracker, t_s, score, where)
        state = tracker.snapshot()
        tracker = AlertTracker(rule(hold_s, clear_s))
        tracker.restore(state)
    assert told(changes) == by_the_table(t_s, score, hold_s, clear_s)


def test_a_long_anomaly_is_one_alert_with_its_peak() -> None:
    tracker = AlertTracker(rule(clear_s=10))
    score = np.array([0, 2, 2.5, 0, 2, 0] + [0] * 12)
    assert told(push(tracker, np.arange(len(score)), score)) == [("open", 1, 2.0), ("cleared", 1, 2.5)]
    assert tracker.open_alerts == 0


def test_a_rise_to_critical_is_told_once() -> None:
    tracker = AlertTracker(rule(clear_s=10))
    assert told(push(tracker, np.arange(5), np.array([2, 5, 1, 6, 2]))) == [("open", 0, 2.0), ("open!", 0, 5.0)]


def test_a_blip_shorter_than_the_hold_is_silent() -> None:
    tracker = AlertTracker(rule(hold_s=3))
    assert push(tracker, np.arange(6), np.array([0, 2, 2, 0, 2, 0])) == []
