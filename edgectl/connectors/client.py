"""Typed calls to one agent through any connector: the operator's side of the control API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import AlertPage, Report, UpdateResult
from edgectl_agent.core.recordings import RecordingOrder, RecordingPage, RecordingStatus

from edgectl import __version__
from edgectl.connectors.interface import Connector
from edgectl.core.errors import RemoteRefused
from edgectl.core.versions import distance, way_out

T = TypeVar("T")

ANSWER_S = 10.0
"""How long a node may take for what it knows by heart."""


class _Have(msgspec.Struct, frozen=True):
    bundles: tuple[str, ...] = ()
    agent: str = ""


msgspec.json.Decoder(_Have)  # its table must not be built in two threads at once (see edgectl_agent.core.messages)


class NodeClient:
    """One node. Each call raises `NodeUnreachable` without an answer and `RemoteRefused` for a refusal.

    What changes the node is refused here for an agent that is too far from this edgectl (`core.versions`); what only
    reads is not.
    """

    def __init__(self, name: str, connector: Connector) -> None:
        self.name = name
        self._connector = connector
        self._agent = ""

    def status(self) -> Report:
        """The node's health, now."""
        report = self._decode(self._connector.request("GET", "/v1/status", timeout_s=ANSWER_S), Report)
        self._agent = report.agent
        return report

    def alerts(self, after: int = 0, limit: int = 500, wait_s: float = 0.0) -> AlertPage:
        """Acknowledged records after position `after`; waits up to `wait_s` for the first."""
        path = f"/v1/alerts?after={after}&limit={limit}&wait={wait_s:g}"
        return self._decode(self._connector.request("GET", path, timeout_s=ANSWER_S + wait_s), AlertPage)

    def release(self, through: int, log_id: str = "") -> None:
        """The records up to `through` of the outbox `log_id` are stored durably here: the node may delete them."""
        body = msgspec.json.encode({"through": through, "log_id": log_id})
        self._connector.request("POST", "/v1/alerts/release", body)

    def have(self) -> frozenset[str]:
        """Digests of the bundles that the node has already."""
        found = self._decode(self._connector.request("GET", "/v1/have"), _Have)
        self._agent = self._agent or found.agent  # an older agent does not say
        return frozenset(found.bundles)

    def push(self, files: Mapping[str, bytes | Path]) -> None:
        """Put a slice of the repository into the node's spool; `update` makes the node look at it."""
        self._check_version()
        self._connector.upload(files)

    def update(self, timeout_s: float = 60.0) -> UpdateResult:
        """Order the node to apply what its spool holds. A refusal is a result here, with its reason and exit code."""
        return self._order("/v1/update", b"{}", timeout_s)

    def rollback(self, recipe: str, epoch: int) -> UpdateResult:
        """Order the node to return to the bundle in its other slot; `epoch` is the one that it obeys now."""
        return self._order("/v1/rollback", msgspec.json.encode({"recipe": recipe, "epoch": epoch}), 60.0)

    def record(self, order: RecordingOrder) -> RecordingStatus:
        """Have the node record a source; one of that id goes on."""
        try:
            answer = self._connector.request("POST", "/v1/recordings", msgspec.json.encode(order))
        except RemoteRefused as e:
            if e.reason == "no-such-call":
                hint = f"edgectl nodes upgrade {self.name}"
                raise RemoteRefused(
                    f"node {self.name}: its agent cannot record yet", status=404, reason="agent-version", hint=hint
                ) from e
            raise
        return self._decode(answer, RecordingStatus)

    def recorded(self, id_: str, after: int) -> RecordingPage:
        """Blocks of a recording above `after`, some at a time."""
        raw = self._connector.request("GET", f"/v1/recordings/{id_}?after={after}", timeout_s=3 * ANSWER_S)
        try:
            return msgspec.msgpack.decode(raw, type=RecordingPage)
        except UNREADABLE as e:
            raise RemoteRefused(
                f"node {self.name}: its answer is not a RecordingPage: {e}", status=200, reason="protocol"
            ) from e

    def release_recorded(self, id_: str, through: int) -> None:
        """The blocks up to `through` are stored durably here: the node may delete them."""
        self._connector.request("POST", f"/v1/recordings/{id_}/release", msgspec.json.encode({"through": through}))

    def end_recording(self, id_: str) -> None:
        """End a recording; the node deletes what is left of it."""
        self._connector.request("DELETE", f"/v1/recordings/{id_}")

    def close(self) -> None:
        self._connector.close()

    def _check_version(self) -> None:
        if not self._agent:
            self.status()
        far = distance(self._agent, __version__)
        if far:
            hint = way_out(self.name, self._agent, __version__)
            raise RemoteRefused(f"node {self.name}: {far}", status=409, reason="agent-version", hint=hint)

    def _order(self, path: str, body: bytes, timeout_s: float) -> UpdateResult:
        self._check_version()
        try:
            return self._decode(self._connector.request("POST", path, body, timeout_s), UpdateResult)
        except RemoteRefused as e:
            if e.status != 409:
                raise
            return UpdateResult(state="refused", reason=e.reason, message=e.message, exit_code=e.exit_code)

    def _decode(self, raw: bytes, into: type[T]) -> T:
        try:
            return msgspec.json.decode(raw, type=into)
        except UNREADABLE as e:
            raise RemoteRefused(
                f"node {self.name}: its answer is not a {into.__name__.strip('_')}: {e}", status=200, reason="protocol"
            ) from e
