"""Signs for a node, how far its alerts are stored here: what it takes back by hand it may then forget."""

from __future__ import annotations

import json

import msgspec
from edgectl_agent.core.airgap import RECEIPT_TYPE, Collected
from securesystemslib.dsse import Envelope

from edgectl.trust.keys import KeyStore


def sign(collected: Collected, keys: KeyStore) -> bytes:
    """A DSSE envelope by the key of role ``rollout``, as ``collected.json`` has it. Raises `TrustError`."""
    envelope = Envelope(msgspec.json.encode(collected), RECEIPT_TYPE, {})
    envelope.sign(keys.signer("rollout"))
    return json.dumps(envelope.to_dict()).encode()
