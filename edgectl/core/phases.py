"""Who is first: the phases of a rollout and the nodes of each, fixed before anything is sent.

``1,5%,25%,100%`` are cumulative sizes. The order of the nodes is a hash of (seed, name): stable for one rollout,
unrelated to names, and different for the next rollout, so that the same node is not always the canary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence

from edgectl.core.errors import UsageError
from edgectl.core.rollout import Phase
from edgectl.core.selector import amount

DEFAULT = "1,100%"


def specification(canary: str = "", phases: str = "") -> str:
    """The phases that the command line asks for: ``--canary X`` is ``X,100%``; by default one node goes first.

    Raises:
        UsageError: both were given.
    """
    if canary and phases:
        raise UsageError(
            "--canary and --phases exclude each other", hint=f"--canary {canary} is --phases {canary},100%"
        )
    if phases:
        return phases
    return f"{canary},100%" if canary and canary.strip() != "100%" else canary or DEFAULT


def split(specification: str, nodes: Iterable[str], seed: str, last: Collection[str] = ()) -> tuple[Phase, ...]:
    """The nodes of each phase, in the seeded order. No phase is empty: one that would add nobody is left out.

    Every phase that the specification does not name last is a canary: its failure ends the rollout. At least half of a
    canary's nodes must be confirmed before the next phase. Nodes in `last` are in the last phase, beside what it has
    anyway: nobody will hear of them while the rollout runs, so they can prove nothing for others.

    Raises:
        UsageError: a size that is neither count nor percentage, sizes that do not rise, or a last one below 100 %.
    """
    nodes = set(nodes)
    late = ordered(nodes & set(last), seed)
    order = ordered(nodes.difference(late), seed)
    sizes = _sizes(specification, len(order))
    phases, done = [], 0
    for i, size in enumerate(sizes):
        members = order[done:size]
        if not members:
            continue
        canary = i < len(sizes) - 1
        phases.append(Phase(nodes=members, canary=canary, min_confirmed=math.ceil(len(members) / 2) if canary else 0))
        done = size
    if late:
        rest = phases.pop().nodes if phases and not phases[-1].canary else ()
        phases.append(Phase(nodes=(*rest, *late), canary=False))
    return tuple(phases)


def ordered(nodes: Iterable[str], seed: str) -> tuple[str, ...]:
    """`nodes` by the SHA-256 of (seed, name)."""
    return tuple(sorted(nodes, key=lambda name: hashlib.sha256(f"{seed}\x1f{name}".encode()).digest()))


def _sizes(specification: str, total: int) -> Sequence[int]:
    parts = [part.strip() for part in specification.split(",")]
    sizes = [amount(part, total) for part in parts]
    for kind in ([p for p in parts if p.endswith("%")], [p for p in parts if not p.endswith("%")]):
        values = [float(part.rstrip("%")) for part in kind]
        if values != sorted(set(values)):
            raise UsageError(f"phases {specification!r} do not rise")
    if sizes != sorted(sizes):
        raise UsageError(f"phases {specification!r} do not rise for {total} nodes")
    if sizes[-1] < total:
        raise UsageError(f"phases {specification!r} end before all {total} nodes", hint="let the last one be 100%")
    return sizes
