"""Gathers what the rules of status and audit look at: the store, fleet.yaml and, for audit, the repository."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from edgectl import __version__
from edgectl.cli import wiring
from edgectl.core.errors import TrustError

if TYPE_CHECKING:
    from edgectl.core.audit import Expiry, Facts
    from edgectl.core.records import Expected
    from edgectl.inventory.types import Inventory
    from edgectl.store.store import Store
    from edgectl.workspace import Workspace


def stored(fleet: Inventory, store: Store, now_ns: int) -> Facts:
    """Facts from the store alone: desired is the newest assignment that was signed here."""
    from edgectl.core.audit import Facts

    return Facts(
        now_ns=now_ns,
        version=__version__,
        expected={node.name: node.expected for node in fleet.nodes},
        nodes={name: record for name, record in store.nodes.all().items() if name in fleet},
        assignment=store.rollouts.desired(),
        critical=store.alerts.find(state="open", severity="critical"),
        rollouts=store.rollouts.all(limit=50),
        retired=store.nodes.retired(),
        lost={name: position.lost for name, position in store.alerts.positions().items() if position.lost},
    )


def complete(workspace: Workspace, fleet: Inventory, store: Store, now_ns: int) -> Facts:
    """`stored`, and what the signed repository says: it is the truth about what is desired."""
    import msgspec

    facts = stored(fleet, store, now_ns)
    facts = msgspec.structs.replace(facts, expected=_with_configuration(workspace, fleet, facts.expected))
    repository = wiring.repository(workspace, fleet)
    if not repository.exists():
        return msgspec.structs.replace(facts, untrusted="there is no repository")
    try:
        return msgspec.structs.replace(
            facts,
            assignment=repository.assignment(),
            signed={ref.sha256: r.version for r in repository.releases() for ref in r.variants},
            expiries=_expiries(repository.expiries()),
            certificates=_certificates(workspace, fleet),
        )
    except TrustError as e:
        return msgspec.structs.replace(facts, untrusted=e.message)


def _with_configuration(
    workspace: Workspace, fleet: Inventory, expected: Mapping[str, Expected]
) -> dict[str, Expected]:
    """`expected`, with what each node's agent.yaml should be."""
    import msgspec

    from edgectl.fleet import membership

    found, refused = membership.desired(fleet, workspace, wiring.columns(workspace))
    return {
        name: msgspec.structs.replace(wanted, config_sha256=found.get(name, ""), config_refused=refused.get(name, ""))
        for name, wanted in expected.items()
    }


def _expiries(ends: Mapping[str, datetime]) -> tuple[Expiry, ...]:
    from edgectl_agent.core.units import event_time_ns

    from edgectl.core.audit import Expiry
    from edgectl.trust.publication import LIFE

    lives: dict[str, timedelta] = {role: life for role, life in LIFE.items()}  # noqa: C416 - widens the key's type
    return tuple(
        Expiry(role=role, expires_ns=event_time_ns(end.isoformat()), life_ns=int(lives[role].total_seconds() * 1e9))
        for role, end in ends.items()
    )


def _certificates(workspace: Workspace, fleet: Inventory) -> tuple[Expiry, ...]:
    """What the fleet's authority has issued, as far as it is kept here. Raises `TrustError` for a damaged one."""
    from edgectl_agent.core.units import event_time_ns

    from edgectl.core.audit import Expiry

    return tuple(
        Expiry(
            role=what,
            expires_ns=event_time_ns(life.ends.isoformat()),
            life_ns=int((life.ends - life.begins).total_seconds() * 1e9),
        )
        for what, life in wiring.authority(workspace, fleet).lives().items()
    )
