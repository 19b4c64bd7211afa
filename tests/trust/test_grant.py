"""Offline grants: a slice that may wait for weeks, while the main line goes on. The node's side is the real one."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from edgectl_agent.core.airgap import Collected

from edgectl.core.errors import UsageError
from edgectl.trust.keys import KeyStore
from edgectl.trust.receipt import sign
from tests.support.operators import NODE, NodeFolder, Operator, copied, deployed

RECEIPT = Collected(node=NODE, through=7, log_id="log-1")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed(tmp_path_factory.mktemp("template") / "mona").folder


@pytest.fixture
def mona(tmp_path: Path, template: Path) -> Operator:
    """Has signed and deployed 1.0.0."""
    return copied(template, tmp_path / "mona")


@pytest.fixture
def node(tmp_path: Path, mona: Operator) -> NodeFolder:
    """Enrolled, runs nothing yet."""
    return NodeFolder(tmp_path / NODE, mona)


def carry(mona: Operator, node: NodeFolder, days: float = 0, receipt: bytes = b"") -> datetime:
    """Fill the node's spool with a slice made now; with `days`, under a grant. Returns the grant's end."""
    until = mona.now + timedelta(days=days)
    grant = mona.repository.grant(mona.now, until) if days else None
    shutil.rmtree(node.spool, ignore_errors=True)
    files = mona.repository.slice_for(NODE, grant=grant)
    if receipt:
        files["collected.json"] = receipt
    for name, content in files.items():
        (node.spool / name).parent.mkdir(parents=True, exist_ok=True)
        (node.spool / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return until


def test_without_a_grant_a_slice_waits_a_week_at_most(mona: Operator, node: NodeFolder) -> None:
    carry(mona, node)
    assert node.verify(mona.now + timedelta(days=6.9)).exit_code == 0
    assert node.verify(mona.now + timedelta(days=7.1)).exit_code == 41


@pytest.mark.parametrize("days", [30, 120])
def test_a_granted_slice_is_taken_in_until_its_last_day_and_not_after(
    mona: Operator, node: NodeFolder, days: int, tmp_path: Path
) -> None:
    mona.later(days=6)  # the rollout role ends in 24 days, the grant outlives it
    until = carry(mona, node, days)
    late = NodeFolder(tmp_path / "late", mona)
    shutil.copytree(node.spool, late.spool)
    assert node.update(until - timedelta(hours=1)).exit_code == 0
    assert node.version == "1.0.0"
    refused = late.verify(until + timedelta(seconds=1))
    assert (refused.exit_code, refused.reason) == (41, "expired")
    assert late.version == ""


def test_the_main_line_goes_on_behind_a_grant_and_is_accepted_afterwards(mona: Operator, node: NodeFolder) -> None:
    before = mona.repository.versions()
    carry(mona, node, days=30)
    after = mona.repository.versions()
    assert (after.timestamp, after.snapshot) == (before.timestamp + 2, before.snapshot + 2)
    assert after.assignment_sha256 == before.assignment_sha256
    verdict = node.update(mona.now)
    assert verdict.trust is not None
    assert (verdict.trust.timestamp, verdict.trust.snapshot) == (before.timestamp + 1, before.snapshot + 1)
    node.push(mona)
    verdict = node.update(mona.now)
    assert verdict.exit_code == 0
    assert verdict.trust == after
    mona.release("1.1.0", seed=2)
    mona.deploy("1.1.0", epoch=2)
    node.push(mona)
    node.update(mona.now)
    assert node.version == "1.1.0"


def test_a_grant_never_takes_a_node_back_behind_the_main_line(mona: Operator, node: NodeFolder, tmp_path: Path) -> None:
    carry(mona, node, days=30)
    stick = tmp_path / "stick"
    shutil.copytree(node.spool, stick)
    node.push(mona)
    assert node.update(mona.now).exit_code == 0
    shutil.rmtree(node.spool)
    shutil.copytree(stick, node.spool)
    refused = node.verify(mona.now)
    assert (refused.exit_code, refused.reason) == (42, "rollback")


def test_a_node_that_followed_a_grant_refuses_the_state_from_before_it(
    mona: Operator, node: NodeFolder, tmp_path: Path
) -> None:
    carry(mona, node)
    old = tmp_path / "old"
    shutil.copytree(node.spool, old)
    carry(mona, node, days=30)
    assert node.update(mona.now).exit_code == 0
    shutil.rmtree(node.spool)
    shutil.copytree(old, node.spool)
    refused = node.verify(mona.now)
    assert (refused.exit_code, refused.reason) == (42, "rollback")


def test_two_grants_and_a_root_change_in_between_lead_on(mona: Operator, node: NodeFolder) -> None:
    carry(mona, node, days=30)
    assert node.update(mona.now).exit_code == 0
    mona.later(days=290)  # everything is due, also the root: intermediate roots go along
    mona.repository.refresh(mona.now)
    carry(mona, node, days=60)
    assert len(list((node.spool / "metadata").glob("*.root.json"))) == 2
    verdict = node.update(mona.now + timedelta(days=59))
    assert verdict.exit_code == 0
    assert verdict.trust is not None
    assert verdict.trust.root == 2


def test_a_grant_that_outlives_the_offline_keys_signatures_is_refused_with_the_longest(mona: Operator) -> None:
    before = mona.repository.versions()
    with pytest.raises(UsageError, match=r"outlives the root metadata, which ends 2027-03-01 → grant at most 365d"):
        mona.repository.grant(mona.now, mona.now + timedelta(days=400))
    assert mona.repository.versions() == before


# ── what the operator has stored ────────────────────────────────────────────────────────────────────────────────────


def test_a_signed_receipt_tells_the_node_what_it_may_forget(mona: Operator, node: NodeFolder) -> None:
    carry(mona, node, receipt=sign(RECEIPT, mona.keys))
    verdict = node.update(mona.now)
    assert (verdict.exit_code, verdict.collected) == (0, RECEIPT)


def test_a_receipt_by_anybody_else_makes_the_node_forget_nothing(
    mona: Operator, node: NodeFolder, tmp_path: Path
) -> None:
    thief = KeyStore(tmp_path / "thief")
    thief.create(None)
    carry(mona, node, receipt=sign(RECEIPT, thief))
    verdict = node.verify(mona.now)
    assert (verdict.exit_code, verdict.reason, verdict.collected) == (40, "unsigned", None)
    carry(mona, node, receipt=sign(RECEIPT, mona.keys)[:-20])
    assert node.verify(mona.now).collected is None


@pytest.mark.parametrize("receipt", [b"[" * 16_000, b"[]", b"7", b'{"payload":{}}', b"\xff"])
def test_a_receipt_that_is_none_is_refused_in_one_sentence(mona: Operator, node: NodeFolder, receipt: bytes) -> None:
    carry(mona, node, receipt=receipt)
    verdict = node.verify(mona.now)

    assert (verdict.exit_code, verdict.reason) == (40, "malformed")


def test_the_receipt_of_another_node_is_refused(mona: Operator, node: NodeFolder) -> None:
    carry(mona, node, receipt=sign(Collected(node="other", through=7, log_id="log-1"), mona.keys))
    verdict = node.verify(mona.now)
    assert (verdict.exit_code, verdict.collected) == (42, None)
