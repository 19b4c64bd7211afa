"""What fleet.yaml allows nodes' actions, as an assignment carries it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from edgectl_agent.core.allowed import Rule
from edgectl_agent.core.messages import Allowance, Assignment, Epoch, Report


def allowances(nodes: Mapping[str, Iterable[Rule]]) -> tuple[Allowance, ...]:
    """Nodes with equal rules share an allowance; nodes without any are in none. The same fleet gives the same value."""
    cells: dict[bytes, list[str]] = {}
    for name, rules in nodes.items():
        if found := list(rules):
            cells.setdefault(msgspec.json.encode(found), []).append(name)
    return tuple(
        Allowance(nodes=tuple(sorted(names)), rules=tuple(msgspec.json.decode(rules, type=list[dict[str, Any]])))
        for rules, names in sorted(cells.items())
    )


def differing(current: Assignment | None, wanted: tuple[Allowance, ...], nodes: Iterable[str]) -> tuple[str, ...]:
    """Those of `nodes` whose signed rules are others than they should be."""
    target = Assignment(fleet="", epoch=Epoch(number=0, operator=""), models={}, allow=wanted)
    return tuple(n for n in nodes if (current.allowed(n) if current else ()) != target.allowed(n))


def untold(reports: Mapping[str, Report], ruled: Collection[str], sha256: str) -> frozenset[str]:
    """Nodes that may still hold other rules than the signed ones, by their last reports.

    They hold another assignment than the one with digest `sha256`, and rules matter to them: they have actions, or are
    among the `ruled` nodes. One that could not be reached when a right was taken from it is so told the next time.
    """

    def held(report: Report) -> str:
        return report.trust.assignment_sha256 if report.trust else ""

    return frozenset(n for n, said in reports.items() if (said.actions or n in ruled) and held(said) != sha256)


def refused(reports: Mapping[str, Report]) -> frozenset[str]:
    """Nodes that say that an action is not allowed to them."""
    return frozenset(name for name, said in reports.items() if any(action.refused for action in said.actions))


def nothing_to_do(unruled: Collection[str]) -> str:
    """What to say where nobody needs other rules; `unruled` nodes are refused an action and have no rule at all."""
    if not unruled:
        return "nothing to do: every node has the rules of fleet.yaml"
    first, more = min(unruled), f" and {len(unruled) - 1} more" if len(unruled) > 1 else ""
    return f"nothing to sign: {first}{more} may not act, and fleet.yaml allows nothing there → say rules under allow:"


def with_allowances(current: Assignment | None, wanted: tuple[Allowance, ...], fleet: str, who: str) -> Assignment:
    """The assignment with other allowances, for the operator `who` to sign.

    The epoch stays where it is his: a higher one would bring back a release that a node has rolled back.
    """
    if current is None:
        return Assignment(fleet=fleet, epoch=Epoch(number=1, operator=who), models={}, allow=wanted)
    own = current.epoch.operator == who
    epoch = current.epoch if own else Epoch(number=current.epoch.number + 1, operator=who)
    return msgspec.structs.replace(current, epoch=epoch, allow=wanted)
