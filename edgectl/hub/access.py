"""Who may write what: a node's token, and nothing but that node's records."""

from __future__ import annotations

from edgectl_agent.core.messages import Sync

from edgectl.hub.answers import Refused
from edgectl.store.credentials import Credential
from edgectl.store.store import Store

_SCHEME = "Bearer "


def authorise(store: Store, node: str, header: str, now_ns: int) -> Credential:
    """The credential with which `node` may report. Raises `Refused` (401; 403 for another node's token)."""
    hint = f"edgectl nodes token {node}"
    if not header.startswith(_SCHEME):
        raise Refused(401, "expected a bearer token", "unauthorized", hint)
    found = store.credentials.match(node, header.removeprefix(_SCHEME).strip())
    if found is None:
        raise Refused(401, f"this is no token of node {node}", "unauthorized", hint)
    if found.node != node:
        raise Refused(403, f"this is another node's token, not one of {node}", "foreign", hint)
    why = found.refusal(now_ns)
    if why:
        said = "was revoked" if why == "revoked" else "has expired"
        raise Refused(401, f"the token of node {node} {said}", why, hint)
    return found


def check_own(node: str, sync: Sync) -> None:
    """Raises `Refused` (403) if `sync` speaks for anybody but `node`."""
    named = {sync.report.node, sync.alerts.node, *(record.alert.node for record in sync.alerts.records)}
    strangers = sorted(named - {node})
    if strangers:
        raise Refused(403, f"node {node} sent records of {strangers[0]!r}: a node reports itself alone", "foreign")
