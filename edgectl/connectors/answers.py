"""What an agent says, whichever way it came: where it listens, why it refused."""

from __future__ import annotations

import msgspec
from edgectl_agent.core.foreign import UNREADABLE

from edgectl.core.errors import RemoteRefused


class Api(msgspec.Struct, frozen=True):
    """``api.json``: where the running agent listens."""

    url: str
    token: str
    pid: int


class _Refusal(msgspec.Struct, frozen=True):
    """Body of an answer ≥ 400: ``{"error", "reason"}``, or a refused `UpdateResult`."""

    error: str = ""
    message: str = ""
    reason: str = ""
    exit_code: int = 30


for _type in (Api, _Refusal):  # not first in two threads at once: see edgectl_agent.core.messages
    msgspec.json.Decoder(_type)


def api(raw: bytes | None) -> Api | None:
    """The content of ``api.json``; None if there is none or it is not whole."""
    try:
        return None if raw is None else msgspec.json.decode(raw, type=Api)
    except UNREADABLE:
        return None


def refused(name: str, status: int, body: bytes) -> RemoteRefused:
    """The error for an answer with `status` ≥ 400 of node `name`."""
    try:
        said = msgspec.json.decode(body, type=_Refusal)
    except UNREADABLE:
        said = _Refusal(error=f"HTTP {status}")
    sentence = said.message or said.error or f"HTTP {status}"
    return RemoteRefused(
        f"node {name}: {sentence}", status=status, reason=said.reason or None, exit_code=said.exit_code
    )
