"""A rollout's life cycle and its one decision."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from edgectl_agent.core.messages import (
    Epoch,
    ModelStatus,
    OutboxStatus,
    Placement,
    Quarantine,
    Report,
    TrustStatus,
)
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core import phases
from edgectl.core.errors import UsageError
from edgectl.core.evidence import observe, placed, placement
from edgectl.core.rollout import (
    NODE,
    ROLLOUT,
    Entry,
    IllegalEvent,
    NodeProgress,
    Phase,
    Plan,
    Progress,
    apply,
    begin,
    decide,
    exit_code,
    fold,
    retries,
    verdict,
)

SHA = "a" * 64
ROLLOUT_STATES = {state for state, _ in ROLLOUT} | set(ROLLOUT.values())
NODE_STATES = {state for state, _ in NODE} | set(NODE.values())
EVENTS = {event for _, event in ROLLOUT} | {event for _, event in NODE}


def plan(*cohorts: tuple[str, ...], kind: str = "deploy") -> Plan:
    last = len(cohorts) - 1
    made = tuple(
        Phase(nodes=nodes, canary=i < last, min_confirmed=math.ceil(len(nodes) / 2) if i < last else 0)
        for i, nodes in enumerate(cohorts)
    )
    everyone = tuple(node for nodes in cohorts for node in nodes)
    target = Placement(version="2", sha256=SHA, variant="fp32", nodes=everyone)
    return msgspec.convert(
        {"kind": kind, "recipe": "press", "version": "2", "targets": [msgspec.to_builtins(target)],
         "phases": msgspec.to_builtins(made)}, Plan,
    )  # fmt: skip


def running(of: Plan, /, phase: int = 0, **states: Any) -> Progress:
    nodes = {name: NodeProgress(state=states.get(name, "pending"), touched=name in states) for name in of.nodes}
    return Progress(state="running", phase=phase, signed=1, nodes=nodes)


@pytest.mark.parametrize("state", sorted(ROLLOUT_STATES))
@pytest.mark.parametrize("event", sorted(EVENTS))
def test_an_illegal_rollout_event_raises_and_changes_nothing(state: str, event: str) -> None:
    before = msgspec.convert({"state": state}, Progress)
    frozen = msgspec.json.encode(before)
    if (state, event) in ROLLOUT:
        assert apply(before, Entry(event=event, at_ns=1)).state == ROLLOUT[state, event]  # type: ignore[index]
    else:
        with pytest.raises(IllegalEvent, match="illegal in state"):
            apply(before, Entry(event=event, at_ns=1))
    assert msgspec.json.encode(before) == frozen


@pytest.mark.parametrize("state", sorted(NODE_STATES))
@pytest.mark.parametrize("event", sorted(EVENTS))
def test_an_illegal_node_event_raises_and_changes_nothing(state: str, event: str) -> None:
    before = Progress(state="running", nodes={"n": NodeProgress(state=state)})  # type: ignore[arg-type]
    frozen = msgspec.json.encode(before)
    if (state, event) in NODE:
        after = apply(before, Entry(event=event, at_ns=1, node="n"))
        assert after.nodes["n"].state == NODE[state, event]  # type: ignore[index]
    else:
        with pytest.raises(IllegalEvent, match="illegal in state"):
            apply(before, Entry(event=event, at_ns=1, node="n"))
    assert msgspec.json.encode(before) == frozen


def test_every_state_can_be_reached_and_every_unfinished_one_left() -> None:
    assert {"planned"} | set(ROLLOUT.values()) == ROLLOUT_STATES
    assert {"pending"} | set(NODE.values()) == NODE_STATES
    stuck = ROLLOUT_STATES - {state for state, _ in ROLLOUT}
    assert stuck == {"done", "halted", "superseded"}


def test_an_event_for_a_foreign_node_is_illegal() -> None:
    with pytest.raises(IllegalEvent, match="not part"):
        apply(begin(plan(("a",))), Entry(event="offer", at_ns=1, node="z"))


def test_the_journal_folds_to_the_state() -> None:
    journal = [
        Entry(event="start", at_ns=1), Entry(event="assign", at_ns=2, epoch=7),
        Entry(event="assigned", at_ns=3, epoch=7),
        Entry(event="offer", at_ns=4, node="a"), Entry(event="stage", at_ns=5, node="a"),
        Entry(event="activate", at_ns=6, node="a"), Entry(event="confirm", at_ns=7, node="a", detail="2 fp32"),
        Entry(event="pass", at_ns=8),
    ]  # fmt: skip
    progress = fold(plan(("a",), ("b",)), journal)
    assert (progress.state, progress.phase, progress.signed) == ("running", 1, 0)
    assert progress.nodes["a"] == NodeProgress(state="confirmed", since_ns=7, detail="2 fp32", touched=True)
    assert decide(plan(("a",), ("b",)), progress).action == "sign"


def test_a_failed_canary_halts() -> None:
    of = plan(("a", "b"), ("c",))
    decision = verdict(of, running(of, a="confirmed", b="failed"))
    assert (decision.event, decision.nodes) == ("halt", ("b",))


def test_a_canary_that_is_silent_after_activation_halts() -> None:
    of = plan(("a", "b"), ("c",))
    assert verdict(of, running(of, a="confirmed", b="silent")).event == "halt"


def test_unreachable_canaries_make_the_rollout_inconclusive_and_never_successful() -> None:
    of = plan(("a", "b", "d"), ("c",))
    assert verdict(of, running(of, a="unreachable", b="unreachable", d="unreachable")).event == "pause"
    assert verdict(of, running(of, a="confirmed", b="unreachable", d="unreachable")).event == "pause"
    assert verdict(of, running(of, a="confirmed", b="confirmed", d="unreachable")).event == "pass"


@given(st.lists(st.sampled_from(["confirmed", "failed", "silent", "unreachable"]), min_size=1, max_size=6))
def test_a_phase_passes_only_on_positive_evidence(states: list[str]) -> None:
    names = tuple(f"n{i}" for i in range(len(states)))
    of = plan(names, ("rest",))
    ended: dict[str, Any] = dict(zip(names, states, strict=True))
    decision = verdict(of, running(of, **ended))
    bad = {"failed", "silent"} & set(states)
    enough = states.count("confirmed") * 2 >= len(states)
    assert decision.event == ("halt" if bad else "pass" if enough else "pause")


def test_failures_after_the_canary_do_not_halt_but_have_their_exit_codes() -> None:
    of = plan(("a",), ("b", "c"))
    for states, code in (
        ({"b": "failed", "c": "unreachable"}, 30),
        ({"b": "silent", "c": "unreachable"}, 32),
        ({"b": "confirmed", "c": "unreachable"}, 31),
    ):
        progress = running(of, 1, a="confirmed", **states)
        assert verdict(of, progress).event == "fall-short"
        assert exit_code(msgspec.structs.replace(progress, state="incomplete")) == code
    assert verdict(of, running(of, 1, a="confirmed", b="confirmed", c="confirmed")).event == "finish"


def test_a_failure_that_is_not_judged_yet_is_not_tried_again_by_a_resume() -> None:
    of = plan(("a",), ("b",))
    progress = running(of, a="failed")
    assert retries(progress) == ()
    assert retries(msgspec.structs.replace(progress, state="incomplete")) == ("a",)


def test_trying_a_node_again_that_refused_needs_a_new_epoch() -> None:
    of = plan(("a",))
    progress = apply(running(of, a="failed"), Entry(event="retry", at_ns=1, node="a"))
    assert decide(of, progress).action == "sign"
    progress = apply(running(of, a="unreachable"), Entry(event="retry", at_ns=1, node="a"))
    assert decide(of, progress).action == "bring"


def test_the_way_back_ends_halted_or_stuck() -> None:
    of = plan(("a", "b"), ("c",))
    progress = apply(running(of, a="confirmed", b="failed"), Entry(event="halt", at_ns=1))
    assert decide(of, progress) == decide(of, progress)
    assert decide(of, progress).action == "sign"
    progress = apply(progress, Entry(event="assigned", at_ns=2, epoch=2))
    assert decide(of, progress).nodes == ("a", "b")
    one = apply(progress, Entry(event="revert", at_ns=3, node="a"))
    both = apply(one, Entry(event="revert", at_ns=4, node="b"))
    assert decide(of, both).event == "end-halted"
    stuck = apply(one, Entry(event="stick", at_ns=4, node="b", detail="no answer"))
    assert (decide(of, stuck).event, decide(of, stuck).nodes) == ("end-stuck", ("b",))


# ── phases ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.sets(st.integers(0, 500), min_size=1, max_size=200),
    st.sampled_from(["1,100%", "20%,100%", "1,5%,25%,100%", "100%", "1%,100%"]),
    st.text(max_size=8),
)
def test_phases_cover_every_node_once_and_none_is_empty(ids: set[int], spec: str, seed: str) -> None:
    names = {f"n{i}" for i in ids}
    made = phases.split(spec, names, seed)
    assert sorted(node for phase in made for node in phase.nodes) == sorted(names)
    assert all(phase.nodes for phase in made)
    assert all(phase.canary for phase in made[:-1])
    assert made == phases.split(spec, sorted(names, reverse=True), seed)


def test_a_percentage_rounds_up_and_the_canary_depends_on_the_seed() -> None:
    names = [f"n{i}" for i in range(10)]
    assert [len(p.nodes) for p in phases.split("1,5%,25%,100%", names, "s")] == [1, 2, 7]
    assert len({phases.split("1,100%", names, f"s{i}")[0].nodes for i in range(40)}) > 3


def test_a_single_node_is_a_canary_unless_everyone_was_asked_for() -> None:
    assert phases.split("1,100%", ["a"], "s")[0].canary
    assert not phases.split("100%", ["a"], "s")[0].canary


@pytest.mark.parametrize("text", ["", "x", "0", "0%", "101%", "5%,1%,100%", "50%", "1,,100%", "3,2,100%", "-1,100%"])
def test_phases_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        phases.split(text, [f"n{i}" for i in range(10)], "s")


def test_canary_is_shorthand_for_phases() -> None:
    assert phases.specification() == "1,100%"
    assert phases.specification(canary="20%") == "20%,100%"
    assert phases.specification(canary="100%") == "100%"
    assert phases.specification(phases="2,100%") == "2,100%"
    with pytest.raises(UsageError, match="exclude each other"):
        phases.specification("1", "1,100%")


# ── evidence ────────────────────────────────────────────────────────────────────────────────────────────────────────

EPOCH = Epoch(number=3, operator="ann@desk")
TRUST = TrustStatus(root=1, timestamp=5, snapshot=5, assignment_sha256="s")


def report(bundle: str = SHA, golden: float = 0.1, epoch: Epoch | None = EPOCH, trust: TrustStatus | None = TRUST,
           quarantined: tuple[Quarantine, ...] = ()) -> Report:  # fmt: skip
    model = ModelStatus(
        recipe="press", version="2", bundle=bundle, variant="fp32", golden_error=golden, inferences=1, activated_ns=1
    )
    return Report(
        node="n", agent="0", boot="b", clock_ns=0, uptime_s=1, state="healthy", epoch=epoch, models=(model,),
        quarantined=quarantined, trust=trust, outbox=OutboxStatus(records=0, bytes=0, limit_bytes=1, head_seq=0),
    )  # fmt: skip


def event(shown: Report) -> str:
    return observe(shown, "press", SHA, EPOCH, TRUST).event


def test_only_the_assigned_digest_with_good_golden_vectors_under_our_epoch_confirms() -> None:
    assert event(report()) == "confirm"
    assert event(report(bundle="b" * 64)) == "wait"
    assert event(report(golden=1.01)) == "refuse"
    assert event(report(golden=math.nan)) == "refuse"
    assert event(report(epoch=None)) == "wait"
    assert event(report(epoch=Epoch(number=2, operator="ann@desk"))) == "wait"
    assert event(report(epoch=Epoch(number=4, operator="ann@desk"))) == "confirm"


def test_another_operator_is_noticed() -> None:
    assert event(report(epoch=Epoch(number=3, operator="bob@desk"))) == "foreign"
    assert event(report(trust=msgspec.structs.replace(TRUST, assignment_sha256="other"))) == "foreign"
    assert event(report(trust=msgspec.structs.replace(TRUST, timestamp=6))) == "foreign"
    assert event(report(trust=msgspec.structs.replace(TRUST, timestamp=4))) == "wait"
    assert event(report(trust=None)) == "wait"


def test_a_quarantine_refuses_until_a_higher_epoch() -> None:
    def quarantine(epoch: int) -> tuple[Quarantine, ...]:
        return (Quarantine(recipe="press", bundle=SHA, epoch=epoch, reason="golden"),)

    assert event(report(quarantined=quarantine(3))) == "refuse"
    assert event(report(quarantined=quarantine(2))) == "confirm"


def test_moving_nodes_keeps_everyone_else_where_they_are() -> None:
    old = Placement(version="1", sha256="1" * 64, variant="fp32", nodes=("a", "b", "c"))
    new = Placement(version="2", sha256="2" * 64, variant="fp32", nodes=())
    after = placed((old,), {"a": new, "c": None})
    assert placement(after, "a") == msgspec.structs.replace(new, nodes=("a",))
    assert placement(after, "b") == msgspec.structs.replace(old, nodes=("b",))
    assert placement(after, "c") is None
    assert placed(after, {"a": old, "c": old}) == (old,)
