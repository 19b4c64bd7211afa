"""Asks nodes how they are, all at once, and keeps the answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from edgectl_agent.core.messages import Assignment, Report

from edgectl.core.audit import ROLLED_BACK, standing_since
from edgectl.core.errors import NOT_TRIED, ConfigError, LockHeld, NodeUnreachable, RemoteRefused
from edgectl.core.records import NodeRecord
from edgectl.delivery.interface import Connect
from edgectl.delivery.parallel import each
from edgectl.store.store import Store


def survey(
    nodes: Iterable[str], *, connect: Connect, store: Store | None, forks: int, clock_ns: Callable[[], int]
) -> dict[str, Report | NodeUnreachable | RemoteRefused]:
    """Each node's report, or why there is none; both are stored if there is a `store`."""

    def ask(name: str) -> tuple[Report | NodeUnreachable | RemoteRefused, int]:
        node = connect(name)
        try:
            return node.status(), clock_ns()
        except (NodeUnreachable, RemoteRefused) as e:
            return e, clock_ns()
        finally:
            node.close()

    def keep(name: str, answer: tuple[Report | NodeUnreachable | RemoteRefused, int]) -> None:
        found, at_ns = answer
        if store is None:
            return
        if isinstance(found, Report):
            store.nodes.save(found, at_ns)
        elif found.reason not in NOT_TRIED:  # so nothing failed
            store.nodes.save_failure(name, found.message, at_ns)

    answers = each(nodes, ask, forks=forks, stop=threading.Event(), done=keep)
    return {name: found for name, (found, _) in answers.items()}


def reports_of(answers: dict[str, Report | NodeUnreachable | RemoteRefused]) -> dict[str, Report]:
    """Only those that answered."""
    return {name: found for name, found in answers.items() if isinstance(found, Report)}


def check_epochs(reports: dict[str, Report], current: Assignment | None) -> None:
    """Raises `LockHeld` if a node follows an epoch that this repository has not signed: there is a second operator."""
    ours = current.epoch.number if current else 0
    for name, report in sorted(reports.items()):
        seen = report.epoch
        if seen is None or seen.number < ours:
            continue
        if seen.number > ours or (current is not None and seen.operator != current.epoch.operator):
            raise LockHeld(
                f"node {name} follows epoch {seen.number} of {seen.operator}, this repository is at {ours}",
                hint="work in the repository that signed it, or bring it here",
            )


def check_pending(records: Mapping[str, NodeRecord], current: Assignment | None) -> None:
    """Raises `ConfigError` if a node was rolled back and the assignment still names what it left.

    Quarantine ends with the next epoch, so any new assignment would bring the release back that somebody rolled back.
    """
    for name, record in sorted(records.items()):
        report = record.report
        for q in report.quarantined if report else ():
            place = current.placement(q.recipe, name) if current else None
            if place is None or place.sha256 != q.bundle or not q.reason.startswith(ROLLED_BACK):
                continue
            if report is not None and q.epoch >= standing_since(report, current):
                raise ConfigError(
                    f"{name} rolled {q.recipe} {place.version} back and the assignment still names it: any new epoch"
                    " would bring it back",
                    hint=f"edgectl rollback {q.recipe}",
                    reason="rollback-pending",
                )
