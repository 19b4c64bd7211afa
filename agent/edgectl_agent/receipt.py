"""Checks ``collected.json``: who may tell a node that its alerts are stored elsewhere. Runs in the verifying child."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from tuf.api.metadata import Targets

from edgectl_agent.beneath import Beneath, UnsafePath
from edgectl_agent.core.airgap import RECEIPT, RECEIPT_TYPE, Collected
from edgectl_agent.core.errors import AttackError, TrustError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.spool import UNSAFE_HINT

SIGNER = "rollout"
"""The role that must have signed: it commands this node anyway."""
_MAX_BYTES = 16 * 1024


def collected(spool: Path, targets: Targets, node: str) -> Collected | None:
    """What the receipt in the spool says; None without one.

    Args:
        targets: verified top-level targets: they name the keys of `SIGNER`.

    Raises:
        TrustError: damaged, no file, or not signed by whom it must be.
        AttackError: another node's.
    """
    try:
        with Beneath(spool).open(RECEIPT) as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except UnsafePath as e:
        raise TrustError(
            f"{RECEIPT} is not read from the spool: {e.strerror}", reason="unsafe-path", hint=UNSAFE_HINT
        ) from e
    envelope = _verified(raw, targets)
    try:
        found = msgspec.json.decode(envelope.payload, type=Collected)
    except UNREADABLE as e:
        raise TrustError(f"{RECEIPT} does not decode: {e}", reason="malformed") from e
    if found.node != node:
        raise AttackError(f"{RECEIPT} is for node {found.node}", reason="mix-and-match")
    return found


def _verified(raw: bytes, targets: Targets) -> Envelope:
    role = targets.get_delegated_role(SIGNER)
    assert targets.delegations is not None, "a delegated role was found"
    keys = [targets.delegations.keys[keyid] for keyid in role.keyids]
    try:
        envelope = Envelope.from_dict(json.loads(raw))
        envelope.verify(keys, role.threshold)
    except VerificationError as e:
        raise TrustError(f"{RECEIPT} is not signed by this fleet", reason="unsigned") from e
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError) as e:
        raise TrustError(f"{RECEIPT} is damaged: {e}", reason="malformed") from e
    if envelope.payload_type != RECEIPT_TYPE:
        raise TrustError(f"{RECEIPT} is a signed {envelope.payload_type}", reason="malformed")
    return envelope
